"""Any price rows and records, around one minute, in two currencies."""

from typing import Any

from hypothesis import strategies as st
from msgspec import structs

from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from gateway.prices.book import NANO
from gateway.prices.counts import MAX_TOKENS
from gateway.registry.prices import Price, PriceWindow
from tests.metrics.records import AT, KEY, A, B, attempt, request, uuid_of

MINUTE = int(AT) // 60 * 60
MOMENTS = st.integers(MINUTE - 61, MINUTE + 61)
# As most prices, whose cost needs no or a small divisor; and any other one.
ROUND_AMOUNTS = st.builds(int.__mul__, st.integers(0, 400), st.sampled_from((NANO // 20, 200_000, 31_250)))
AMOUNTS = st.none() | ROUND_AMOUNTS | st.integers(0, 20 * NANO)
TOKENS = st.none() | st.sampled_from((-1, 0, 1, MAX_TOKENS, MAX_TOKENS + 1)) | st.integers(0, 500)
TIERS = ("", "flex")


@st.composite
def any_price(draw: st.DrawFn, patterns: tuple[str, ...] = ("tiny", "large", "*")) -> Price:
    minute = MINUTE // 60 % 1440
    windows = st.sampled_from((None, PriceWindow(minute, minute + 1), PriceWindow(minute - 1, minute)))
    amounts = {name: draw(AMOUNTS) for name in ("input", "cached", "write_short", "output", "reasoning", "request")}
    if draw(st.booleans()):
        amounts |= {name: draw(AMOUNTS) for name in ("write_long", "image", "minute")}
    price = Price(
        draw(st.integers(1, 10**6)), draw(st.sampled_from(patterns)), draw(st.sampled_from(("", A))), "",
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
