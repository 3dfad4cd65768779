"""Costs of a fold, computed in groups: the same as of each request alone."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from gateway.prices.book import NANO, PriceBook
from gateway.prices.costs import Pricing
from gateway.prices.counts import MAX_TOKENS
from gateway.registry.prices import Price, PriceWindow
from metrics.counting.batch_costs import costs_of
from metrics.counting.costs import CostKey, CostSums, cost_key
from metrics.counting.fold import Fold
from tests.metrics.records import AT, KEY, A, B, attempt, request, uuid_of
from tests.metrics.world import UTC_ZONE

MINUTE = int(AT) // 60 * 60
MOMENTS = st.integers(MINUTE - 61, MINUTE + 61)
AMOUNTS = st.none() | st.integers(0, 20 * NANO)
TOKENS = st.none() | st.sampled_from((-1, 0, 1, MAX_TOKENS, MAX_TOKENS + 1)) | st.integers(0, 500)
TIERS = ("", "flex")


@st.composite
def any_price(draw: st.DrawFn) -> Price:
    minute = MINUTE // 60 % 1440
    windows = st.sampled_from((None, PriceWindow(minute, minute + 1), PriceWindow(minute - 1, minute)))
    amounts = {name: draw(AMOUNTS) for name in ("input", "cached", "write_short", "output", "reasoning", "request")}
    if draw(st.booleans()):
        amounts |= {name: draw(AMOUNTS) for name in ("image", "minute")}
    price = Price(
        draw(st.integers(1, 10**6)), draw(st.sampled_from(("tiny", "large", "*"))), draw(st.sampled_from(("", A))), "",
        draw(st.just(0) | MOMENTS), draw(st.none() | MOMENTS), draw(st.sampled_from(("USD", "EUR"))),
        draw(st.sampled_from((0, 0, 100))), draw(st.sampled_from(TIERS)), draw(windows),
    )  # fmt: skip
    return structs.replace(price, **amounts)


@st.composite
def any_request(draw: st.DrawFn) -> RequestRecord:
    outcome = draw(st.sampled_from((*[record.OK] * 6, record.CANCELLED, record.FAILED)))
    served = draw(st.sampled_from((None, "large")))
    last = structs.replace(attempt(outcome, draw(st.sampled_from((A, B)))), served=served)
    counts: dict[str, Any] = {
        name: draw(TOKENS) for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
    }
    if draw(st.booleans()):
        counts |= {name: draw(TOKENS) for name in ("cache_write_tokens", "long_write_tokens")}
    if draw(st.booleans()):
        counts |= {name: draw(TOKENS) for name in ("images", "audio_ms")}
    return request(
        outcome,
        id=uuid_of(draw(st.integers(0, 10**6))),
        ago=AT - MINUTE - draw(st.integers(-60_000_000, 60_000_000)) / 1e6,
        model=draw(st.sampled_from(("tiny", "large"))),
        attempts=(*[attempt(record.FAILED)] * draw(st.integers(0, 1)), last),
        api_key_id=draw(st.sampled_from((None, KEY))),
        estimated=draw(st.booleans()),
        service_tier=draw(st.sampled_from((None, "flex", "other"))),
        **counts,
    )


@given(
    st.lists(any_request(), max_size=30, unique_by=lambda entry: entry.id),
    st.lists(any_price(), max_size=6, unique_by=lambda price: price.id),
)
def test_costs_of_groups_are_those_of_each_request(entries: list[RequestRecord], prices: list[Price]) -> None:
    pricing = Pricing(PriceBook(prices), lambda endpoint_id: "")
    alone = {entry.id: found for entry in entries if (found := pricing.cost(entry)) is not None}
    sums: dict[CostKey, CostSums] = {}
    for entry in entries:
        if entry.id in alone:
            key = cost_key(entry, alone[entry.id], UTC_ZONE)
            sums.setdefault(key, CostSums()).count(alone[entry.id].cost, estimated=entry.estimated)
    whole = costs_of(Fold(UTC_ZONE).add_all(entries), pricing)
    assert (whole.by_id, whole.sums) == (alone, sums)
    parts = [Fold(UTC_ZONE).add_all(part) for part in (entries[:10], entries[10:])]
    assert costs_of(parts[0] + parts[1], pricing) == whole
