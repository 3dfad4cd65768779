"""Rates of own hardware: what an endpoint costs by the hour and by its energy. Pure: no I/O.

Amounts are integers in 10⁻⁹ of a currency, watts in 10⁻⁹ W. A rate counts from its start until its own end, or until
the start of the endpoint's next rate.
"""

from collections.abc import Iterable, Sequence
from math import gcd
from typing import NamedTuple

import msgspec

HOUR = 3600
HOUR_US = HOUR * 1_000_000
MAX_OF_HOUR = 1_000_000 * 10**9  # so that the sum of a year has 63 bits
_NANOWATTS_OF_KILOWATT = 10**12
# Costs before they are rounded are multiples of 1 / PARTS of 10⁻⁹ of the currency.
PARTS = HOUR_US * _NANOWATTS_OF_KILOWATT


class HardwareRate(msgspec.Struct, frozen=True):
    """One rate of one endpoint. An amount that was left out is 0."""

    id: int
    endpoint_id: str
    valid_from: int  # seconds since 1970 UTC
    valid_until: int | None  # excluded; None: open
    currency: str  # ISO 4217
    per_hour: int = 0
    idle_watts: int = 0
    busy_watts: int = 0  # at least idle_watts
    per_kwh: int = 0

    @property
    def idle_parts(self) -> int:
        """Cost of a microsecond in which nothing runs, in 1 / PARTS."""
        return self.per_hour * _NANOWATTS_OF_KILOWATT + self.idle_watts * self.per_kwh

    @property
    def busy_parts(self) -> int:
        """Cost of a microsecond in which at least one request runs, in 1 / PARTS."""
        return self.per_hour * _NANOWATTS_OF_KILOWATT + self.busy_watts * self.per_kwh

    def cost(self, start: int, end: int, busy_us: int) -> int:
        """Return what the endpoint costs from one second to another, in 10⁻⁹ of the currency.

        The cost of its idle state is the difference of two sums since the start of the rate. So the costs of any spans
        that follow each other add up to that of the whole span. Energy of busy time beyond that is rounded up.
        """
        more = (self.busy_parts - self.idle_parts) * busy_us
        return self._since_start(end) - self._since_start(start) - (-more // PARTS)

    def share(self, busy_us: int, own_us: int, all_us: int) -> int:
        """Return what a request costs that ran for `own_us`, rounded down.

        `busy_us`: in which any request ran. `all_us`: sum of the times of all requests.
        """
        return self.shares(busy_us, (own_us,), all_us)

    def shares(self, busy_us: int, own_us: Iterable[int], all_us: int) -> int:
        """Return the sum of `share` of several requests."""
        if not all_us:
            return 0
        amount, parts = self.busy_parts * busy_us, PARTS * all_us
        common = gcd(amount, parts)  # smaller integers are divided faster
        amount, parts = amount // common, parts // common
        return sum([amount * own // parts for own in own_us])

    def _since_start(self, moment: int) -> int:
        return (moment - self.valid_from) * 1_000_000 * self.idle_parts // PARTS


class RatedSpan(NamedTuple):
    """Time in which one rate counts, in seconds since 1970 UTC. `end` is excluded; None: open."""

    start: int
    end: int | None
    rate: HardwareRate


class HardwareRates:
    """All rates of the installation, at one version."""

    def __init__(self, rates: Iterable[HardwareRate] = ()) -> None:
        by_endpoint: dict[str, list[HardwareRate]] = {}
        for rate in sorted(rates, key=lambda dated_rate: (dated_rate.valid_from, dated_rate.id)):
            by_endpoint.setdefault(rate.endpoint_id, []).append(rate)
        self.by_endpoint: dict[str, Sequence[RatedSpan]] = {key: _spans(of) for key, of in by_endpoint.items()}
        self._changes = {
            (endpoint_id, edge // 60)
            for endpoint_id, spans in self.by_endpoint.items()
            for span in spans
            for edge in (span.start, span.end)
            if edge is not None and edge % 60
        }

    def all(self) -> list[HardwareRate]:
        """Return all rates, also those that do not count any more."""
        return [span.rate for spans in self.by_endpoint.values() for span in spans]

    def __bool__(self) -> bool:
        return bool(self.by_endpoint)

    def spans(self, endpoint_id: str, start: float, end: float) -> list[RatedSpan]:
        """Return the rates that count between two moments, each with its part of this time in whole seconds."""
        spans = []
        for span in self.by_endpoint.get(endpoint_id, ()):
            first, last = max(int(start), span.start), int(end) if span.end is None else min(int(end), span.end)
            if first < last:
                spans.append(RatedSpan(first, last, span.rate))
        return spans

    def changes_within(self, endpoint_id: str, minute: int) -> bool:
        """Return True if a rate begins or ends within a minute since 1970 UTC, not at its start."""
        return (endpoint_id, minute) in self._changes

    def rate(self, endpoint_id: str, moment: float) -> HardwareRate | None:
        """Return the rate that counts at a moment, in seconds since 1970 UTC."""
        spans = self.spans(endpoint_id, int(moment), int(moment) + 1)
        return spans[0].rate if spans else None


def _spans(rates: Sequence[HardwareRate]) -> list[RatedSpan]:
    """Return the spans of the rates of one endpoint, sorted by their start."""
    spans = []
    for position, rate in enumerate(rates):
        ends = [
            moment
            for moment in (rate.valid_until, rates[position + 1].valid_from if position + 1 < len(rates) else None)
            if moment
        ]
        end = min(ends) if ends else None
        if end is None or rate.valid_from < end:
            spans.append(RatedSpan(rate.valid_from, end, rate))
    return spans
