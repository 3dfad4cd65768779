"""Tables of limits and budgets. Facts for gateways are made from them by access.limits.reading.

A subject is a level and an id. Nothing refers to the tables of users and API keys, which llmlb writes too; triggers
delete the rows of a deleted key or user (endpoints.changes).
"""

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from endpoints.fields import LineField, SharedJSONField, TextUUIDField
from gateway.registry.limits import (
    CONCURRENCY,
    DAY,
    EVERYONE_LEVEL,
    KEY_LEVEL,
    LEVELS,
    MONEY,
    MONTH,
    PERIODS,
    REQUESTS,
    TOKENS,
    TOTAL,
    UNITS,
    USER_LEVEL,
    WEEK,
)

LEVEL_LABELS = {KEY_LEVEL: _("API key"), USER_LEVEL: _("user"), EVERYONE_LEVEL: _("everyone")}
LIMIT_LABELS = {
    CONCURRENCY: _("concurrent requests"),
    REQUESTS: _("requests a minute"),
    TOKENS: _("tokens a minute"),
}
UNIT_LABELS = {TOKENS: _("tokens"), MONEY: _("money")}
PERIOD_LABELS = {
    DAY: pgettext_lazy("period of a budget", "day"),
    WEEK: pgettext_lazy("period of a budget", "week"),
    MONTH: pgettext_lazy("period of a budget", "month"),
    TOTAL: pgettext_lazy("period of a budget", "in total"),
}


class LimitRow(models.Model):
    """The limits of one subject. Null: no limit."""

    level = LineField(_("level"), choices=tuple(LEVEL_LABELS.items()))
    subject_id = LineField(_("subject"), default="", db_default="", blank=True)  # id of the key or user
    concurrency = models.IntegerField(LIMIT_LABELS[CONCURRENCY], null=True, blank=True)
    requests = models.BigIntegerField(LIMIT_LABELS[REQUESTS], null=True, blank=True)
    tokens = models.BigIntegerField(LIMIT_LABELS[TOKENS], null=True, blank=True)
    # Names of limits over which a request waits; null: concurrency.
    waiting = SharedJSONField(_("wait over the limits"), null=True, blank=True)

    class Meta:
        db_table = "limits"
        ordering: ClassVar = ["level", "subject_id"]
        verbose_name = _("limits")
        verbose_name_plural = _("limits")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["level", "subject_id"], name="limits_subject"),
            models.CheckConstraint(condition=Q(level__in=LEVELS), name="limits_level"),
            *(
                models.CheckConstraint(
                    condition=Q(**{f"{name}__isnull": True}) | Q(**{f"{name}__gt": 0}), name=f"limits_{name}"
                )
                for name in LIMIT_LABELS
            ),
        ]

    def __str__(self) -> str:
        return f"{self.level} {self.subject_id}".strip()


class BudgetRow(models.Model):
    """Allowance of a subject in each period."""

    id = TextUUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    level = LineField(_("level"), choices=tuple(LEVEL_LABELS.items()))
    subject_id = LineField(_("subject"), default="", db_default="", blank=True)
    unit = LineField(_("unit"), choices=tuple(UNIT_LABELS.items()))
    period = LineField(_("period"), choices=tuple(PERIOD_LABELS.items()))
    amount = models.BigIntegerField(_("amount"))  # tokens, or 10⁻⁹ of the reporting currency
    hard = models.BooleanField(_("never exceed"), default=False, db_default=False)
    refuses_unpriced = models.BooleanField(_("refuse models without a price"), default=False, db_default=False)
    instead = LineField(_("model instead"), default="", db_default="", blank=True)

    class Meta:
        db_table = "budgets"
        ordering: ClassVar = ["level", "subject_id", "unit", "period"]
        verbose_name = _("budget")
        verbose_name_plural = _("budgets")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["level", "subject_id", "unit", "period"], name="budgets_subject"),
            models.CheckConstraint(condition=Q(level__in=LEVELS), name="budgets_level"),
            models.CheckConstraint(condition=Q(unit__in=UNITS), name="budgets_unit"),
            models.CheckConstraint(condition=Q(period__in=PERIODS), name="budgets_period"),
            models.CheckConstraint(condition=Q(amount__gt=0), name="budgets_amount"),
        ]

    def __str__(self) -> str:
        return f"{self.level} {self.subject_id} {self.unit} {self.period}"


class DeletedKey(models.Model):
    """A deleted API key and the user that it belonged to, so that its usage remains that of the user.

    Triggers write it when a key is deleted, and delete it with the user (endpoints.changes).
    """

    id = TextUUIDField(primary_key=True, editable=False)
    user_id = TextUUIDField(_("user"))

    class Meta:
        db_table = "deleted_keys"
        verbose_name = _("deleted API key")
        verbose_name_plural = _("deleted API keys")
        indexes: ClassVar = [models.Index(fields=["user_id"], name="deleted_keys_user")]

    def __str__(self) -> str:
        return str(self.pk)
