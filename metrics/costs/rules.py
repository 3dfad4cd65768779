"""Rules for rows of the price book and for rates. The forms of the admin, the API and imports share them."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from django.utils import timezone
from django.utils.translation import gettext as _

from endpoints.clouds.kinds import KIND_LABELS
from endpoints.problems import Problem
from endpoints.registry import registry
from gateway.base.currencies import CURRENCIES
from gateway.prices.book import service_tier_of
from gateway.registry.prices import AMOUNTS, DAY_MINUTES, EVERY_DAY
from metrics.costs.amounts import MAX_AMOUNT
from metrics.costs.tables import CurrencyRate, PriceRow

MAX_LENGTH = 256  # characters of a pattern
MAX_PROMPT = 1 << 53  # tokens; JSON has no larger whole numbers
WEEK_MINUTES = 7 * DAY_MINUTES
FIXED = (  # what cannot change once a row counts
    *("pattern", "endpoint_id", "provider", "valid_from", "currency", "min_prompt", "tier"),
    *("window_start", "window_end", "weekdays", *AMOUNTS),
)


def normalise(row: PriceRow) -> None:
    """Write codes as the price book compares them, in the row itself."""
    row.currency = (row.currency or "").strip().upper()
    row.tier = service_tier_of(row.tier or "")
    row.provider = row.provider or ""
    row.note = (row.note or "").strip()


def problems(row: PriceRow, before: PriceRow | None, now: datetime | None = None) -> list[Problem]:
    """Return the reasons not to store a row. `before`: its stored state, None if it is new."""
    now = now or timezone.now()
    if before is not None and before.valid_from <= now:
        return list(_of_change(row, before, now))
    reasons = [*_of_model(row, before), *_of_hours(row), *_of_amounts(row)]
    if row.valid_until is not None and row.valid_until <= row.valid_from:
        reasons.append(Problem("valid_until", _("The end must be later than the start.")))
    return reasons or list(_of_others(row, others_of(row)))


def others_of(row: PriceRow) -> Iterable[PriceRow]:
    """Return the stored rows for the same model, place, size and tier."""
    same = PriceRow.objects.filter(
        pattern__iexact=row.pattern,
        endpoint_id=row.endpoint_id,
        provider=row.provider,
        min_prompt=row.min_prompt,
        tier=row.tier,
    )
    return same.exclude(pk=row.pk) if row.pk else same


def rate_problems(rate: CurrencyRate, before: CurrencyRate | None, now: datetime | None = None) -> list[Problem]:
    """Return the reasons not to store a rate."""
    now = now or timezone.now()
    if before is not None and before.valid_from <= now:
        return [Problem("", _("This rate counts already. Add another one with a later start."))]
    reasons = []
    if rate.currency not in CURRENCIES:
        reasons.append(Problem("currency", unknown_currency(rate.currency)))
    elif rate.currency == rate.reporting:
        reasons.append(Problem("currency", _("Costs are summed in this currency, which needs no rate.")))
    if rate.rate is None or not 0 < rate.rate <= MAX_AMOUNT:
        reasons.append(Problem("rate", _("Enter a rate greater than 0 and at most 1,000,000,000.")))
    same = CurrencyRate.objects.filter(
        currency=rate.currency, reporting=rate.reporting, valid_from=rate.valid_from
    ).exclude(pk=rate.pk)
    if not reasons and same.exists():
        reasons.append(same_start())
    return reasons


def same_start() -> Problem:
    return Problem("valid_from", _("Another rate of this currency has the same start."))


def unknown_currency(code: str) -> str:
    return _("%(code)s is no code of a currency in use, such as USD, EUR or JPY.") % {"code": code or "—"}


def _of_change(row: PriceRow, before: PriceRow, now: datetime) -> Iterator[Problem]:
    text = _("This price counts already. Give it an end, and add another row with a later start.")
    for name in FIXED:
        if getattr(row, name) != getattr(before, name):
            yield Problem(name, text)
    if row.valid_until != before.valid_until and not all(
        end is None or end >= now for end in (row.valid_until, before.valid_until)
    ):
        yield Problem("valid_until", _("The end of a price cannot be changed in the past."))


def _of_model(row: PriceRow, before: PriceRow | None) -> Iterator[Problem]:
    if not row.pattern or row.pattern != row.pattern.strip():
        yield Problem("pattern", _("Enter a name without spaces at its beginning and end."))
    elif len(row.pattern) > MAX_LENGTH or not row.pattern.isprintable():
        text = _("A name may have at most %(most)d characters, all of them printable.")
        yield Problem("pattern", text % {"most": MAX_LENGTH})
    elif row.pattern.count("*") > 1:
        yield Problem("pattern", _("A name may contain only one *."))
    if row.provider and row.provider not in KIND_LABELS:
        yield Problem("provider", _("This type of endpoint does not exist."))
    if (
        row.endpoint_id is not None
        and registry.get(str(row.endpoint_id)) is None
        and (before is None or before.endpoint_id != row.endpoint_id)
    ):
        yield Problem("endpoint_id", _("This endpoint does not exist."))
    if row.currency not in CURRENCIES:
        yield Problem("currency", unknown_currency(row.currency))
    if len(row.tier) > MAX_LENGTH or not row.tier.isprintable():
        text = _("A name may have at most %(most)d characters, all of them printable.")
        yield Problem("tier", text % {"most": MAX_LENGTH})


def _of_hours(row: PriceRow) -> Iterator[Problem]:
    start, end = row.window_start, row.window_end
    if (start is None) != (end is None):
        yield Problem("window_end" if end is None else "window_start", _("Enter both ends of the hours, or neither."))
    elif start is None and row.weekdays != EVERY_DAY:
        yield Problem("window_start", _("Weekdays need hours. For whole days, enter 00:00 twice."))
    if not 1 <= row.weekdays <= EVERY_DAY:
        yield Problem("weekdays", _("Choose at least one weekday."))


def _of_amounts(row: PriceRow) -> Iterator[Problem]:
    amounts = {name: getattr(row, name) for name in AMOUNTS}
    for name, amount in amounts.items():
        if amount is not None and not 0 <= amount <= MAX_AMOUNT:
            yield Problem(name, _("Enter an amount from 0 to 1,000,000,000."))
    if all(entered is None for entered in amounts.values()):
        yield Problem("input", _("Enter at least one amount. 0 means free of charge."))
    if not 0 <= row.min_prompt < MAX_PROMPT:
        yield Problem("min_prompt", _("Enter a whole number of tokens."))


def _of_others(row: PriceRow, others: Iterable[PriceRow]) -> Iterator[Problem]:
    """Rows that differ in their start follow each other. All others must not count at the same time."""
    minutes = _minutes(row)
    for other in others:
        if (row.window_start is None) != (other.window_start is None):
            continue  # a row with hours is more specific than one without
        same_hours = _minutes(other) == minutes
        if same_hours and other.valid_from == row.valid_from:
            text = _("Row %(id)d has the same model, conditions and start.")
            yield Problem("valid_from", text % {"id": other.pk})
        elif not same_hours and _minutes(other) & minutes and _at_once(row, other):
            yield Problem("window_start", _("The hours overlap with those of row %(id)d.") % {"id": other.pk})


def _at_once(one: PriceRow, other: PriceRow) -> bool:
    return (one.valid_until is None or other.valid_from < one.valid_until) and (
        other.valid_until is None or one.valid_from < other.valid_until
    )


def _minutes(row: PriceRow) -> int:
    """Return the minutes of a week at which a row counts, as bits."""
    if row.window_start is None or row.window_end is None:
        return (1 << WEEK_MINUTES) - 1
    length = (row.window_end - row.window_start) % DAY_MINUTES or DAY_MINUTES
    day = ((1 << length) - 1) << row.window_start
    minutes = sum(day << (number * DAY_MINUTES) for number in range(7) if row.weekdays >> number & 1)
    return (minutes | minutes >> WEEK_MINUTES) & ((1 << WEEK_MINUTES) - 1)
