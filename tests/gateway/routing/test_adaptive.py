"""The adaptive policy chooses by the expected time of a request, its own and that of others."""

from collections import Counter
from dataclasses import fields, replace
from random import Random

import pytest

from gateway.registry.schema import Speeds
from gateway.routing import adaptive, balancer
from gateway.routing.adaptive import FASTEST, KEPT_PREFIX, PROBE, SLOW_START, WAITED, pick, row
from gateway.routing.balancer import EXCLUDED, FULL, ONLY, OPEN, SPILLED, TIERS, TRIAL, Decision, recorded_times
from gateway.routing.expected_time import BULK_DELAY_WEIGHTS, DELAY_WEIGHTS, Demand, Row
from tests.gateway.routing.candidates import CHAT, FAST, SLOW, Endpoint

NEVER = Speeds(0.0, 0.0, 0.0, 0.0)
BULK = CHAT._replace(delay_weights=BULK_DELAY_WEIGHTS)


def fast(name: str = "fast", **values: object) -> Row[Endpoint]:
    return row(Endpoint(name, **values), FAST, "vllm")  # type: ignore[arg-type]


def slow(name: str = "slow", **values: object) -> Row[Endpoint]:
    return row(Endpoint(name, **values), SLOW, "vllm")  # type: ignore[arg-type]


def chosen(*rows: Row[Endpoint], demand: Demand = CHAT, tried: tuple[str, ...] = ()) -> tuple[str, str]:
    decision = pick(rows, demand, tried=tried, draw=lambda: 0.0)
    assert decision is not None
    return decision.endpoint_id, decision.reason


def time_of(decision: Decision, endpoint_id: str) -> float:
    """Return the expected time in seconds at an endpoint that was compared."""
    (seconds,) = [seconds for seconds, name, _ in decision.expected_times if name == endpoint_id]
    return seconds


def test_the_fastest_endpoint_is_chosen() -> None:
    assert chosen(slow(), fast()) == ("fast", FASTEST)


def test_expected_times_are_recorded_the_least_first() -> None:
    decision = pick([slow(), fast()], CHAT)
    assert decision is not None
    own = {"fast": 0.01 + 0.0001 * 1000 + 200 * 0.011, "slow": 0.01 + 0.001 * 1000 + 200 * 0.055}
    assert recorded_times(decision) == (("fast", int(own["fast"] * 1000)), ("slow", int(own["slow"] * 1000)))


def test_requests_that_run_there_take_time_and_are_delayed() -> None:
    decision = pick([fast(in_flight=2, pending=500), slow()], CHAT)
    assert decision is not None
    own = 0.01 + 0.0001 * (500 + 1000) + 200 * (0.01 + 0.001 * 3)
    delay = 2 * (0.5 * 0.001 * 200 + 0.25 * 0.0001 * 1000)
    assert time_of(decision, "fast") == pytest.approx(own + delay)


def test_the_time_of_others_weighs_more_for_a_bulk_request() -> None:
    rows = [fast(in_flight=2), slow()]
    decision, bulk = pick(rows, CHAT), pick(rows, BULK)
    assert decision is not None
    assert bulk is not None
    more = 2 * (0.5 * 0.001 * 200 + 0.75 * 0.0001 * 1000)
    assert time_of(bulk, "fast") - time_of(decision, "fast") == pytest.approx(more)


def test_a_busy_fast_endpoint_loses_to_an_idle_slow_one() -> None:
    assert chosen(fast(in_flight=40), slow())[0] == "slow"


def test_pending_prompts_count_as_work() -> None:
    assert chosen(fast("a", in_flight=1, pending=20_000), fast("b", in_flight=1))[0] == "b"


def test_a_kept_prefix_need_not_be_read() -> None:
    demand = Demand(8000, 100, {"a": 7000.0})
    assert chosen(fast("a"), fast("b"), demand=demand) == ("a", KEPT_PREFIX)
    assert chosen(fast("a", in_flight=30), fast("b"), demand=demand)[0] == "b"  # never a gate


def test_rank_comes_first() -> None:
    assert chosen(fast(rank=1), slow())[0] == "slow"
    assert chosen(fast(rank=EXCLUDED), slow()) == ("slow", ONLY)


def test_a_tried_endpoint_is_not_chosen_again() -> None:
    assert chosen(fast(), slow(), tried=("fast",)) == ("slow", ONLY)
    assert pick([fast()], CHAT, tried=("fast",)) is None


def drawn(rows: list[Row[Endpoint]], value: float) -> str:
    decision = pick(rows, CHAT, draw=lambda: value)
    assert decision is not None
    return decision.endpoint_id


def test_equal_times_are_drawn() -> None:
    rows = [fast("a"), fast("b"), fast("c"), slow()]
    assert {drawn(rows, value) for value in (0.0, 0.4, 0.9)} == {"a", "b", "c"}


def test_the_first_in_the_list_is_not_preferred() -> None:
    rows = [fast(name) for name in "abcd"]
    counts = Counter(drawn(rows, number / 400) for number in range(400))
    assert counts == {"a": 100, "b": 100, "c": 100, "d": 100}


# Full endpoints


def test_a_request_waits_for_a_much_faster_endpoint() -> None:
    assert pick([fast(slots=4, in_flight=4), slow()], CHAT) is FULL


def test_it_does_not_wait_longer_than_the_free_endpoint_takes() -> None:
    rows = [fast(slots=4, in_flight=4), slow()]
    assert chosen(*rows, demand=Demand(1000, 200, {}, waited=60.0)) == ("slow", ONLY)


def test_a_request_that_waited_gets_the_endpoint_that_it_waited_for() -> None:
    assert chosen(fast(slots=4, in_flight=3), slow(), demand=Demand(1000, 200, {}, waited=1.0)) == ("fast", WAITED)


def test_it_does_not_wait_where_many_wait() -> None:
    decision = pick([fast(slots=4, in_flight=4), slow()], CHAT, waiting=100)
    assert decision is not None
    assert decision.endpoint_id == "slow"


def test_a_short_request_waits_until_others_end_who_are_not_short() -> None:
    rows, short = [fast(slots=1, in_flight=1), slow()], Demand(prompt=100, output=4)
    assert pick(rows, short) is FULL
    decision = pick(rows, short._replace(typical=500.0))
    assert decision is not None
    assert decision.endpoint_id == "slow"


def test_it_does_not_wait_for_an_equal_endpoint() -> None:
    assert chosen(fast("a", slots=1, in_flight=1), fast("b"))[0] == "b"


def test_it_waits_if_all_are_full() -> None:
    assert pick([fast(slots=1, in_flight=1), slow(slots=1, in_flight=1)], CHAT) is FULL


def test_it_waits_for_a_healthy_endpoint_instead_of_trying_a_failing_one() -> None:
    assert pick([fast(slots=1, in_flight=1), slow(rank=OPEN)], CHAT) is FULL


def test_a_worse_rank_is_used_while_the_best_is_full() -> None:
    assert chosen(fast(slots=1, in_flight=1), slow(rank=1))[0] == "slow"


def test_all_circuit_breakers_are_open() -> None:
    assert chosen(fast(rank=OPEN, trial_due=9.0), slow(rank=OPEN, trial_due=3.0)) == ("slow", TRIAL)


def test_nothing_is_available() -> None:
    assert pick([], CHAT) is None
    assert pick([fast(rank=EXCLUDED)], CHAT) is None


# Few completions


def measured(completions: int, name: str = "new", **values: object) -> Row[Endpoint]:
    speeds = Speeds(FAST.setup, FAST.read, FAST.write, FAST.share, completions)
    return row(Endpoint(name, **values), speeds, "vllm", [FAST, SLOW])  # type: ignore[arg-type]


def test_an_unmeasured_endpoint_is_expected_to_be_as_fast_as_the_fastest() -> None:
    new = row(Endpoint("new"), Speeds(0, 0, 0, 0), "llamacpp", [SLOW, FAST])
    assert (new.parameters.write, new.parameters.setup) == (FAST.write, FAST.setup)
    assert (new.parameters.share, new.parameters.read) == pytest.approx((FAST.write * 0.2, FAST.write * 0.03))


def test_an_endpoint_that_has_returned_is_expected_to_be_as_fast_as_before() -> None:
    returned = row(Endpoint("returned"), Speeds(SLOW.setup, SLOW.read, SLOW.write, SLOW.share, 0), "vllm", [FAST])
    assert (returned.parameters.write, returned.parameters.read, returned.few) == (SLOW.write, SLOW.read, 1)


def test_without_any_measurement_all_are_alike() -> None:
    rows = [row(Endpoint(name), Speeds(0, 0, 0, 0), "vllm") for name in "ab"]
    others = {field.name for field in fields(Row)} - {"candidate", "id"}
    assert all(getattr(rows[0], name) == getattr(rows[1], name) for name in others)


@pytest.mark.parametrize("completions", [0, 3, SLOW_START - 1])
def test_few_completions_limit_the_requests_at_a_time(completions: int) -> None:
    new, other = measured(completions), slow(in_flight=1000)
    sent = 0
    while chosen(new, other)[0] == "new":
        new.candidate.in_flight = sent = sent + 1
    assert sent == 1 + 2 * completions


def test_a_slow_start_sends_nothing_to_an_open_circuit_breaker() -> None:
    new = measured(0, in_flight=1)
    assert chosen(new, slow(rank=OPEN))[0] == "new"
    assert pick([new, slow(rank=OPEN), slow("full", slots=1, in_flight=1)], CHAT) is FULL


def test_endpoints_with_few_completions_share_the_requests_if_there_are_no_others() -> None:
    rows = [measured(0, "a", in_flight=3), measured(0, "b", in_flight=2), measured(1, "c", in_flight=3)]
    assert chosen(*rows)[0] == "c"
    rows[2].candidate.in_flight = 9
    assert chosen(*rows)[0] == "b"


def test_a_request_waits_rather_than_flood_a_new_endpoint() -> None:
    """However long that takes, unless it may not wait any more. Each response allows two more requests there."""
    rows = [measured(0, in_flight=1), slow(slots=1, in_flight=1)]
    assert pick(rows, CHAT._replace(waited=60.0)) is FULL
    assert chosen(*rows, demand=CHAT._replace(waited=adaptive.NEVER))[0] == "new"


def test_a_measuring_request_is_a_probe() -> None:
    assert chosen(measured(2), slow()) == ("new", PROBE)
    assert chosen(measured(SLOW_START), slow()) == ("new", FASTEST)


# Weights and loads


def test_a_weight_multiplies_the_expected_time() -> None:
    dear = row(Endpoint("dear"), FAST, "vllm", weight=10.0)
    assert chosen(dear, slow())[0] == "slow"


def test_the_load_of_a_model_is_a_part_of_the_expected_time() -> None:
    cold = row(Endpoint("cold"), FAST, "ollama", load=20.0)
    assert chosen(cold, slow())[0] == "slow"
    busy = slow(in_flight=40)
    assert chosen(cold, busy)[0] == "cold"  # it is worth it at last


def test_requests_wait_for_a_load_rather_than_start_another() -> None:
    """Even where nothing was measured yet, so that the endpoint should have few requests."""
    loading = row(Endpoint("loading", in_flight=2), NEVER, "ollama", load=2.0)
    cold = row(Endpoint("cold"), FAST, "ollama", load=100.0)
    assert chosen(loading, cold)[0] == "loading"
    assert chosen(loading, row(Endpoint("loaded"), FAST, "ollama"))[0] == "loaded"
    assert chosen(row(Endpoint("loading", in_flight=2), NEVER, "ollama", load=60.0), cold)[0] == "loading"
    late = row(Endpoint("late", in_flight=2), NEVER, "ollama", load=120.0)
    assert chosen(late, cold)[0] == "cold"


# Many candidates


def test_of_many_some_are_compared_and_all_with_the_prefix() -> None:
    rows = [slow(f"e{number}") for number in range(100)]
    decision = pick(rows, Demand(8000, 10, {"e77": 7999.0}))
    assert decision is not None
    assert decision.endpoint_id == "e77"
    assert len(decision.expected_times) == 8


def test_of_many_only_the_best_rank_is_compared() -> None:
    rows = [slow(f"e{number}", rank=1 if number else 0) for number in range(100)]
    assert chosen(*rows) == ("e0", ONLY)
    assert chosen(*rows, tried=("e0",))[0] != "e0"


def test_the_counts_may_come_from_all_processes() -> None:
    counts = {"a": (30, 0), "b": (0, 0)}
    decision = pick([fast("a"), fast("b")], CHAT, lambda endpoint: counts[endpoint.id])
    assert decision is not None
    assert decision.endpoint_id == "b"


def plain_time(of: Row[Endpoint], demand: Demand) -> float:
    """The formula of gateway.routing.expected_time's docstring, as it is written there."""
    n, pending = of.candidate.in_flight, of.candidate.pending
    unread = demand.prompt - demand.kept.get(of.id, 0.0)
    setup, read, write, share = of.parameters
    decode, prefill = demand.delay_weights
    own = setup + read * (pending + unread) + demand.output * (write + share * (n + 1))
    return of.weight * (own + n * (decode * share * demand.output + prefill * read * unread))


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_that_of_the_formula(seed: int) -> None:
    random = Random(seed)
    for _ in range(50):
        rows = []
        for number in range(random.randint(2, adaptive.ALL_UP_TO)):
            speeds = Speeds(0.1 * random.random(), 1e-3 * random.random(), 0.1 * random.random(), 0.01, 256)
            endpoint = Endpoint(f"e{number}", in_flight=random.choice([0, 0, 1, 9]), pending=random.choice([0, 700]))
            rows.append(row(endpoint, speeds, "vllm", weight=random.choice([1.0, 2.5])))
        kept = {candidate.id: 900 * random.random() for candidate in random.sample(rows, random.randint(0, 2))}
        demand = Demand(
            random.randint(900, 9000),
            random.choice([0.0, 150.0]),
            kept,
            delay_weights=random.choice([DELAY_WEIGHTS, BULK_DELAY_WEIGHTS]),
        )
        decision = pick(rows, demand, draw=lambda: 0.0)
        assert decision is not None
        times = sorted((plain_time(candidate, demand), candidate.id) for candidate in rows)
        assert decision.endpoint_id == times[0][1]
        assert [name for _, name, _ in decision.expected_times] == [
            name for _, name in times[: balancer.MAX_RECORDED_SCORES]
        ]
        assert [time for time, _, _ in decision.expected_times] == pytest.approx([time for time, _ in times[:8]])


@pytest.mark.parametrize(("kind", "waits"), [("vllm", True), ("llamacpp", False)])
def test_a_request_does_not_wait_where_it_would_replace_a_prefix(kind: str, waits: bool) -> None:
    """If reading that again takes longer than the free endpoint."""
    quick = Endpoint("quick", slots=4, in_flight=4, recent_prompt=8000.0)
    rows = [row(quick, Speeds(0.01, 0.001, 0.01, 0.001, 256), kind), row(Endpoint("free"), SLOW, kind)]
    assert (pick(rows, CHAT) is FULL) == waits


# Tiers


SPILL_AFTER = 3.0


def tiers(*endpoints: tuple[int, Endpoint, Speeds], weight: float = 1.0) -> list[Row[Endpoint]]:
    """Rows of endpoints, each with its tier and its speeds."""
    last = max(tier for tier, _, _ in endpoints)
    rows = []
    for tier, endpoint, speeds in endpoints:
        endpoint.tier, endpoint.rank = tier, endpoint.rank + tier - 1
        spill_after = SPILL_AFTER if tier < last else adaptive.NEVER
        rows.append(row(endpoint, speeds, "vllm", weight=weight, spill_after=spill_after))
    return rows


def test_a_better_tier_is_chosen_although_it_is_slower() -> None:
    assert chosen(*tiers((1, Endpoint("own"), SLOW), (2, Endpoint("cloud"), FAST))) == ("own", ONLY)


def test_a_full_tier_spills_at_once() -> None:
    rows = tiers((1, Endpoint("own", slots=4, in_flight=4), FAST), (2, Endpoint("cloud"), SLOW))
    assert chosen(*rows) == ("cloud", SPILLED)


def test_the_next_tier_waits_for_its_own_faster_endpoint() -> None:
    own = (1, Endpoint("own", slots=4, in_flight=4), FAST)
    busy, slow_one = (2, Endpoint("busy", slots=4, in_flight=4), FAST), (2, Endpoint("slow"), SLOW)
    assert pick(tiers(own, busy, slow_one), CHAT) is FULL
    assert chosen(*tiers(own, slow_one)) == ("slow", SPILLED)


def waiting_at(seconds: float) -> int:
    """The requests in flight at a SLOW endpoint beside which a request of CHAT loses so many seconds."""
    return round(seconds / (CHAT.output * SLOW.share))


def test_without_known_slots_a_long_expected_wait_is_full() -> None:
    def choice_with(own: Endpoint) -> tuple[str, str]:
        return chosen(*tiers((1, own, SLOW), (2, Endpoint("cloud"), SLOW)))

    assert choice_with(Endpoint("own", in_flight=waiting_at(SPILL_AFTER))) == ("own", ONLY)
    assert choice_with(Endpoint("own", in_flight=waiting_at(SPILL_AFTER) + 1)) == ("cloud", SPILLED)
    prompts = round(SPILL_AFTER / SLOW.read)
    assert choice_with(Endpoint("own", in_flight=1, pending=prompts)) == ("cloud", SPILLED)
    assert choice_with(Endpoint("own", slots=10**6, in_flight=waiting_at(100))) == ("own", ONLY)


def test_the_expected_wait_has_no_cost_weight() -> None:
    own, cloud = (1, Endpoint("own", in_flight=waiting_at(SPILL_AFTER)), SLOW), (2, Endpoint("cloud"), SLOW)
    assert chosen(*tiers(own, cloud, weight=10.0))[0] == "own"


@pytest.mark.parametrize(
    "other",
    [
        Endpoint("cloud", slots=1, in_flight=1),
        Endpoint("cloud", rank=EXCLUDED),
        Endpoint("cloud", rank=OPEN),
        Endpoint("cloud", rank=2 * TIERS),  # less healthy
    ],
)
def test_a_long_expected_wait_is_no_reason_to_wait_longer(other: Endpoint) -> None:
    own = Endpoint("own", in_flight=waiting_at(100))
    assert chosen(*tiers((1, own, SLOW), (2, replace(other), SLOW)))[0] == "own"


def test_the_first_free_tier_is_found_among_many() -> None:
    many = [(1, Endpoint(f"own{number}", slots=1, in_flight=1), SLOW) for number in range(40)]
    spare = (2, Endpoint("spare"), SLOW)
    assert chosen(*tiers(*many, spare)) == ("spare", SPILLED)
    many[-1][1].in_flight = 0
    assert chosen(
        *tiers(*[(1, replace(endpoint, rank=0), of) for _, endpoint, of in many], (2, Endpoint("x"), FAST))
    ) == (
        "own39",
        ONLY,
    )


def test_new_endpoints_spill_beyond_their_slow_start() -> None:
    new = Speeds(SLOW.setup, SLOW.read, SLOW.write, SLOW.share, completions=1)
    rows = tiers((1, Endpoint("new", in_flight=3), new), (2, Endpoint("cloud"), SLOW))
    assert chosen(*rows) == ("cloud", SPILLED)
