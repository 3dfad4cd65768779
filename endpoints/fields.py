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
    """Return RFC 3339 text in UTC with microseconds and `+00:00`. As text, later moments sort after earlier ones."""
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
        return "TextUUIDField"  # avoids the backend's converter, which raises for an invalid UUID

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
        """Return the UUID; the nil UUID for an invalid one, because one bad row must not break its whole page."""
        if value is None or isinstance(value, uuid.UUID):
            return value
        try:
            return uuid.UUID(value)
        except (ValueError, TypeError, AttributeError):
            return uuid.UUID(int=0)


class IsoDateTimeField(models.DateTimeField):  # type: ignore[type-arg]
    """A moment: RFC 3339 text in UTC on SQLite, `timestamptz` on PostgreSQL.

    Do not use `__date`, `Trunc…` or `date_hierarchy` on it: on SQLite they silently return None or no rows.
    """

    unreadable: datetime | None = None  # the value read from invalid text

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
    """Reject years after 9000: the last days of 9999 are in the unreadable year 10000 in some time zones."""
    if moment.year > LAST_EXPIRY_YEAR:
        raise ValidationError(_("Choose a date no later than the year 9000, or leave the field empty for no expiry."))


class ExpiryField(IsoDateTimeField):
    """The moment of an expiry. An unreadable one counts as past, which is the safe choice."""

    unreadable = datetime(1970, 1, 1, tzinfo=UTC)
    default_validators = [validate_expiry]  # noqa: RUF012  # as Django declares it


# Columns of tables that llmlb also writes. SQLite stores any type in any column, and a damaged value must cost only its
# own cell, not the page. Migrations see the original field classes.

MAX_INTEGER = 1 << 53  # a larger number is damaged data, and no browser reads it exactly


def text_of(value: Any) -> str | None:
    """Return the value of a text column as text."""
    if value is None or isinstance(value, str):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def number_of(value: Any, otherwise: int | None = None) -> int | None:
    """Return the value of an integer column; `otherwise` if it is no integer or exceeds MAX_INTEGER."""
    return value if type(value) is int and -MAX_INTEGER <= value <= MAX_INTEGER else otherwise


class SharedTextField(models.TextField):  # type: ignore[type-arg]
    """Text column that converts a value of any type to text."""

    def from_db_value(self, value: Any, expression: object, connection: object) -> str | None:
        return text_of(value)

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.TextField", args, kwargs


class SharedLineField(LineField):
    """Column of one line of text that converts a value of any type to text."""

    def from_db_value(self, value: Any, expression: object, connection: object) -> str | None:
        return text_of(value)

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "endpoints.fields.LineField", args, kwargs


class SharedIntegerField(models.IntegerField):  # type: ignore[type-arg]
    """Integer column. An invalid value reads as null, or as the default if the column is not nullable."""

    def from_db_value(self, value: Any, expression: object, connection: object) -> int | None:
        if value is None:
            return None
        return number_of(value, None if self.null else self.get_default() or 0)

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.IntegerField", args, kwargs


class SharedBigIntegerField(models.BigIntegerField):  # type: ignore[type-arg]
    """Large integer column. An invalid value reads as null, or as 0 if the column is not nullable."""

    def from_db_value(self, value: Any, expression: object, connection: object) -> int | None:
        return None if value is None else number_of(value, None if self.null else 0)

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.BigIntegerField", args, kwargs


class SharedJSONField(models.JSONField):
    """JSON column. An invalid value reads as null."""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        try:
            return super().from_db_value(value, expression, connection)
        except (ValueError, TypeError, RecursionError):
            return None

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.JSONField", args, kwargs
