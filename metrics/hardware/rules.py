"""Rules for rates of own hardware. The form of the admin and the API share them."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.utils import timezone
from django.utils.translation import gettext as _

from endpoints.problems import Problem
from endpoints.registry import registry
from gateway.base.currencies import CURRENCIES
from metrics.costs.amounts import MAX_AMOUNT
from metrics.costs.hardware_rates import HOUR_US, MAX_OF_HOUR, PARTS
from metrics.costs.hardware_tables import ENERGY, HARDWARE_AMOUNTS, HardwareRateRow
from metrics.costs.rules import unknown_currency
from metrics.costs.tables import NOTICE_SECONDS

FIXED = ("endpoint_id", "valid_from", "currency", *HARDWARE_AMOUNTS)  # of a rate that counts already


def normalise(row: HardwareRateRow) -> None:
    """Write the currency in capitals, and moments in whole seconds, in the row itself."""
    row.currency = (row.currency or "").strip().upper()
    row.note = (row.note or "").strip()
    row.valid_from = row.valid_from.replace(microsecond=0)
    if row.valid_until is not None:
        row.valid_until = row.valid_until.replace(microsecond=0)


def problems(row: HardwareRateRow, before: HardwareRateRow | None, now: datetime | None = None) -> list[Problem]:
    """Return the reasons not to store a rate. `before`: its stored state, None if it is new."""
    now = now or timezone.now()
    if before is not None and before.valid_from <= now:
        return list(_of_change(row, before, now))
    reasons = [*_of_place(row, before), *_of_amounts(row)]
    if row.valid_from < now + timedelta(seconds=NOTICE_SECONDS):
        reasons.append(
            Problem("valid_from", _("The start must be in the future: hours that are counted keep their cost."))
        )
    if row.valid_until is not None and row.valid_until <= row.valid_from:
        reasons.append(Problem("valid_until", _("The end must be later than the start.")))
    same = HardwareRateRow.objects.filter(endpoint_id=row.endpoint_id, valid_from=row.valid_from).exclude(pk=row.pk)
    if not reasons and same.exists():
        reasons.append(same_start())
    return reasons


def same_start() -> Problem:
    return Problem("valid_from", _("Another rate of this endpoint has the same start."))


def _of_change(row: HardwareRateRow, before: HardwareRateRow, now: datetime) -> Iterator[Problem]:
    text = _("This rate counts already. Give it an end, or add another one with a later start.")
    for name in FIXED:
        if getattr(row, name) != getattr(before, name):
            yield Problem(name, text)
    soonest = now + timedelta(seconds=NOTICE_SECONDS)
    if row.valid_until != before.valid_until and not all(
        end is None or end >= soonest for end in (row.valid_until, before.valid_until)
    ):
        yield Problem("valid_until", _("The end of a rate cannot be changed in the past."))


def _of_place(row: HardwareRateRow, before: HardwareRateRow | None) -> Iterator[Problem]:
    if row.endpoint_id is None or (
        registry.get(str(row.endpoint_id)) is None and (before is None or before.endpoint_id != row.endpoint_id)
    ):
        yield Problem("endpoint_id", _("This endpoint does not exist."))
    if row.currency not in CURRENCIES:
        yield Problem("currency", unknown_currency(row.currency))


def _of_amounts(row: HardwareRateRow) -> Iterator[Problem]:
    amounts = {name: getattr(row, name) for name in HARDWARE_AMOUNTS}
    for name, amount in amounts.items():
        if amount is not None and not 0 <= amount <= MAX_AMOUNT:
            yield Problem(name, _("Enter an amount from 0 to 1,000,000,000."))
            return
    energy = [name for name in ENERGY if amounts[name] is None]
    if amounts["per_hour"] is None and len(energy) == len(ENERGY):
        yield Problem("per_hour", _("Enter an amount per hour, or watts and an amount per kWh."))
    elif 0 < len(energy) < len(ENERGY):
        yield Problem(energy[0], _("Energy needs watts when idle, watts when busy and an amount per kWh."))
    elif not energy and row.busy_watts < row.idle_watts:
        yield Problem("busy_watts", _("An endpoint cannot use less energy when it is busy."))
    elif row.rate().busy_parts * HOUR_US > MAX_OF_HOUR * PARTS:
        yield Problem("per_hour", _("An hour may cost at most 1,000,000."))
