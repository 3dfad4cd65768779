"""Table of the rates of own hardware. Once a rate counts, only its end and its note may change."""

from datetime import datetime
from typing import ClassVar
from uuid import UUID

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from endpoints.fields import IsoDateTimeField, LineField, TextUUIDField
from endpoints.models import Endpoint
from metrics.costs.amounts import AmountField
from metrics.costs.hardware_rates import HardwareRate

ENERGY = ("idle_watts", "busy_watts", "per_kwh")
HARDWARE_AMOUNTS = ("per_hour", *ENERGY)


class HardwareRateRow(models.Model):
    """What an endpoint costs from a moment on, see metrics.costs.hardware_rates."""

    endpoint_id = TextUUIDField(_("endpoint"))
    valid_from = IsoDateTimeField(_("valid from"))
    valid_until = IsoDateTimeField(
        _("valid until"), null=True, blank=True, help_text=_("Excluded. Empty: until the endpoint's next rate counts.")
    )
    currency = LineField(_("currency"), help_text=_("ISO 4217 code, such as USD."))
    per_hour = AmountField(
        _("amount per hour"), null=True, blank=True, help_text=_("Of the hardware, whether it is idle or busy.")
    )
    idle_watts = AmountField(_("watts when idle"), null=True, blank=True, help_text=_("While no request runs."))
    busy_watts = AmountField(
        _("watts when busy"), null=True, blank=True, help_text=_("While at least one request runs.")
    )
    per_kwh = AmountField(_("amount per kWh"), null=True, blank=True, help_text=_("Price of energy."))
    note = LineField(_("note"), default="", blank=True)
    created_at = IsoDateTimeField(_("created"), default=timezone.now, editable=False)

    class Meta:
        app_label = "metrics"
        db_table = "hardware_rates"
        ordering: ClassVar = ["endpoint_id", "-valid_from", "id"]
        verbose_name = _("rate of own hardware")
        verbose_name_plural = _("rates of own hardware")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["endpoint_id", "valid_from"], name="hardware_rates_once")
        ]

    def __str__(self) -> str:
        name = Endpoint.objects.filter(pk=self.endpoint_id).values_list("name", flat=True).first()
        return f"{name or self.endpoint_id} {self.currency}"

    def rate(self) -> HardwareRate:
        """Return the row as the counting of costs has it."""
        return HardwareRate(
            self.pk or 0,
            str(self.endpoint_id),
            _seconds(self.valid_from),
            None if self.valid_until is None else _seconds(self.valid_until),
            self.currency,
            self.per_hour or 0,
            self.idle_watts or 0,
            self.busy_watts or 0,
            self.per_kwh or 0,
        )

    def has_begun(self) -> bool:
        """Return True if hours may have this rate."""
        return self.pk is not None and bool(self.valid_from <= timezone.now())


def end_rates(endpoint_id: UUID | str, now: datetime | None = None) -> None:
    """End the rates of a deleted endpoint now, and delete those that do not count yet."""
    now = (now or timezone.now()).replace(microsecond=0)
    rows = HardwareRateRow.objects.filter(endpoint_id=endpoint_id)
    for row in rows:
        if row.valid_from > now:
            row.delete()
        elif row.valid_until is None or row.valid_until > now:
            row.valid_until = now
            row.save(update_fields=["valid_until"])


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
