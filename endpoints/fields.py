"""Fields that keep the text formats of the existing SQLite tables, and use native types on PostgreSQL."""

import uuid
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.translation import gettext as _

from endpoints.text import validate_line

LAST_EXPIRY_YEAR = 9000


def iso(moment: datetime) -> str:
    """RFC 3339 in UTC with six digits and `+00:00`: as text, later moments sort behind earlier ones."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


class LineField(models.TextField):  # type: ignore[type-arg]
    """Text of one line: unbounded in the database, a one-line input in forms, a select where it has choices."""

    default_validators = [validate_line]  # noqa: RUF012  # as Django declares it

    def formfield(self, **kwargs: Any) -> Any:
        if self.choices is None:
            kwargs.setdefault("widget", forms.TextInput(attrs={"class": "vTextField"}))
        return super().formfield(**kwargs)


class TextUUIDField(models.UUIDField):  # type: ignore[type-arg]
    """A UUID: hyphenated lower-case text on SQLite (Django's own field would write 32 digits and match nothing)."""

    def get_internal_type(self) -> str:
        return "TextUUIDField"  # keeps the backend's converter away, which raises for what is no UUID

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return "uuid" if connection.features.has_native_uuid_field else "text"

    def rel_db_type(self, connection: BaseDatabaseWrapper) -> str:
        return self.db_type(connection)

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        value = self.to_python(value)
        if value is None or connection.features.has_native_uuid_field:
            return value
        return str(value)

    def from_db_value(self, value: Any, expression: object, connection: object) -> Any:
        """One row with a bad id must not take its whole page down: it reads as the nil UUID."""
        if value is None or isinstance(value, uuid.UUID):
            return value
        try:
            return uuid.UUID(value)
        except (ValueError, TypeError, AttributeError):
            return uuid.UUID(int=0)


class IsoDateTimeField(models.DateTimeField):  # type: ignore[type-arg]
    """A moment: RFC 3339 text in UTC on SQLite, `timestamptz` on PostgreSQL.

    Do not use `__date`, `Trunc…` or `date_hierarchy` on it: on SQLite they answer None or nothing, silently.
    """

    unreadable: datetime | None = None  # what text that is no moment reads as

    def get_internal_type(self) -> str:
        return "IsoDateTimeField"

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return "timestamp with time zone" if connection.vendor == "postgresql" else "text"

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        if not prepared:
            value = self.get_prep_value(value)
        if connection.vendor == "postgresql" or not isinstance(value, datetime):
            return value
        return iso(value)

    def from_db_value(self, value: Any, expression: object, connection: object) -> datetime | None:
        if value is None or isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except (ValueError, TypeError):
            return self.unreadable
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def validate_expiry(moment: datetime) -> None:
    """The last days of the year 9999 lie in 10000 in some zone, where nothing can read them."""
    if moment.year > LAST_EXPIRY_YEAR:
        raise ValidationError(_("At most the year 9000; leave it empty for never."))


class ExpiryField(IsoDateTimeField):
    """A moment after which something is void. One that cannot be read has passed: the safe side."""

    unreadable = datetime(1970, 1, 1, tzinfo=UTC)
    default_validators = [validate_expiry]  # noqa: RUF012  # as Django has it


# Columns of tables that llmlb writes, too. SQLite stores anything in any column, and what is damaged there must cost
# its own cell, not the page. For migrations they are the fields that they were.

MOST = 1 << 53  # a number beyond it is damage, and no browser reads it exactly


def text_of(value: Any) -> str | None:
    """What stands in a column of text, as text."""
    if value is None or isinstance(value, str):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def number_of(value: Any, otherwise: int | None = None) -> int | None:
    """What stands in a column of whole numbers; `otherwise` where that is none, or too large to be true."""
    return value if type(value) is int and -MOST <= value <= MOST else otherwise


class SharedTextField(models.TextField):  # type: ignore[type-arg]
    """Text, whatever is stored."""

    def from_db_value(self, value: Any, expression: object, connection: object) -> str | None:
        return text_of(value)

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.TextField", args, kwargs


class SharedLineField(LineField):
    """A line of text, whatever is stored."""

    def from_db_value(self, value: Any, expression: object, connection: object) -> str | None:
        return text_of(value)

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "endpoints.fields.LineField", args, kwargs


class SharedIntegerField(models.IntegerField):  # type: ignore[type-arg]
    """A whole number. What is none reads as null, or as the default where the column has no null."""

    def from_db_value(self, value: Any, expression: object, connection: object) -> int | None:
        if value is None:
            return None
        return number_of(value, None if self.null else self.get_default() or 0)

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.IntegerField", args, kwargs


class SharedBigIntegerField(models.BigIntegerField):  # type: ignore[type-arg]
    """As SharedIntegerField."""

    def from_db_value(self, value: Any, expression: object, connection: object) -> int | None:
        return None if value is None else number_of(value, None if self.null else 0)

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.BigIntegerField", args, kwargs


class SharedJSONField(models.JSONField):
    """JSON. What is none reads as null."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        try:
            return super().from_db_value(value, expression, connection)
        except (ValueError, TypeError, RecursionError):
            return None

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.JSONField", args, kwargs
