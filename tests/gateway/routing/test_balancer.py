from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.registry import schema
from gateway.routing.balancer import (
    DRAWN,
    FULL,
    LEAST,
    MAX_RECORDED_SCORES,
    ONLY,
    OPEN,
    SPILLED,
    TIERS,
    TRIAL,
    Decision,
    pick,
    rank,
    recorded_scores,
)


@dataclass(frozen=True)
class Candidate:
    id: str
    status: str = schema.ONLINE
    operator_state: str = schema.ENABLED
    slots: int | None = None
    trial_due: float = 0.0  # not 0: its circuit breaker is open
    tier: int = 1

    @property
    def rank(self):
        own = rank(self.status, self.operator_state, self.tier)
        return OPEN if self.trial_due and own < OPEN else own


A, B, C = Candidate("a"), Candidate("b"), Candidate("c")
IDLE = {"a": 0, "b": 0, "c": 0}
HEALTH = (schema.ONLINE, schema.PENDING, schema.ERROR)  # the best first


def first(names):
    return names[0]


def chosen(candidates, load=IDLE, tried=(), choose=first):
    decision = pick(candidates, lambda candidate: load[candidate.id], tried, choose)
    return decision and decision.endpoint_id


def test_the_candidate_with_the_fewest_requests_in_flight_is_chosen():
    assert chosen([A, B, C], {"a": 3, "b": 1, "c": 2}) == "b"


def test_a_tie_is_drawn_among_the_least_busy():
    assert chosen([A, B, C], {"a": 1, "b": 5, "c": 1}, choose="+".join) == "a+c"


def test_the_draw_decides_a_tie():
    assert [chosen([A, B], choose=lambda names, index=index: names[index]) for index in (0, 1)] == ["a", "b"]


def test_without_a_tie_nothing_is_drawn():
    assert chosen([A, B], {"a": 0, "b": 1}, choose=pytest.fail) == "a"


def test_ties_are_drawn_evenly_by_default():
    counts = {"a": 0, "b": 0, "c": 0}
    for _ in range(3000):
        decision = pick([A, B, C], lambda candidate: IDLE[candidate.id])
        assert decision is not None
        counts[decision.endpoint_id] += 1
    assert min(counts.values()) > 800


@pytest.mark.parametrize(
    ("statuses", "best"),
    [
        ((schema.ONLINE, schema.PENDING, schema.ERROR), "a"),
        ((schema.ERROR, schema.PENDING, schema.OFFLINE), "b"),
        ((schema.OFFLINE, schema.OFFLINE, schema.ERROR), "c"),
        ((schema.ERROR, schema.ONLINE, schema.ONLINE), "bc"),
    ],
)
def test_health_has_priority_over_load(statuses, best):
    busy = {"a": 1000, "b": 1000, "c": 1000, **{name: 0 for name in "abc" if name not in best}}
    choice = chosen([Candidate(name, status) for name, status in zip("abc", statuses, strict=True)], busy)
    assert choice == best[0]


@pytest.mark.parametrize("state", [schema.DRAINING, schema.DISABLED])
def test_the_operator_state_excludes_candidates(state):
    assert chosen([Candidate("a", operator_state=state), Candidate("b", schema.ERROR)]) == "b"
    assert chosen([Candidate("a", operator_state=state)]) is None


@pytest.mark.parametrize("status", [schema.OFFLINE, "of tomorrow"])
def test_an_offline_endpoint_is_not_chosen(status):
    assert chosen([Candidate("a", status)]) is None


def test_a_tried_endpoint_is_not_chosen_again():
    assert chosen([A, B], tried=["a"]) == "b"
    assert chosen([A, B], tried=["a", "b"]) is None


def test_unhealthy_endpoints_are_tried_after_healthy_ones():
    assert chosen([A, Candidate("b", schema.ERROR)], tried=["a"]) == "b"


def test_without_candidates_none_is_chosen():
    assert chosen([]) is None


def test_a_decision_contains_its_reasons():
    load = {"a": 2, "b": 1, "c": 0}
    decision = pick([A, B, Candidate("c", schema.PENDING)], lambda candidate: load[candidate.id], choose=first)
    assert decision is not None
    assert (decision.reason, decision.scores) == (LEAST, (("a", 2), ("b", 1)))


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [([A], ONLY), ([A, B], DRAWN), ([Candidate("a", trial_due=1.0)], TRIAL)],
)
def test_reasons(candidates, reason):
    decision = pick(candidates, lambda candidate: IDLE[candidate.id], choose=first)
    assert decision is not None
    assert decision.reason == reason


# Slots


def limited(name, slots, **fields):
    return Candidate(name, slots=slots, **fields)


def test_a_full_endpoint_is_skipped():
    assert chosen([limited("a", 2), B], {"a": 2, "b": 7}) == "b"


def test_an_endpoint_over_its_slots_is_full():
    assert chosen([limited("a", 2), B], {"a": 3, "b": 7}) == "b"


def test_when_all_are_full_a_request_waits():
    assert pick([limited("a", 1), limited("b", 1)], lambda candidate: 1) is FULL


def test_a_request_does_not_wait_for_tried_endpoints():
    assert pick([limited("a", 1)], lambda candidate: 1, ["a"]) is None


def test_an_unhealthy_endpoint_with_a_free_slot_is_better_than_waiting():
    assert chosen([limited("a", 1), Candidate("b", schema.ERROR)], {"a": 1, "b": 0}) == "b"


# Circuit breakers


def test_an_endpoint_with_an_open_breaker_is_last():
    assert chosen([Candidate("a", trial_due=5.0), Candidate("b", schema.ERROR)]) == "b"


def test_when_all_breakers_are_open_the_first_due_trial_is_chosen():
    candidates = [Candidate("a", trial_due=7.0), Candidate("b", trial_due=5.0), Candidate("c", trial_due=6.0)]
    decision = pick(candidates, lambda candidate: {"a": 0, "b": 9, "c": 0}[candidate.id])
    assert decision is not None
    assert (decision.endpoint_id, decision.reason) == ("b", TRIAL)


def test_waiting_for_a_working_endpoint_is_better_than_an_open_breaker():
    assert pick([limited("a", 1), Candidate("b", trial_due=5.0)], lambda candidate: 1) is FULL


def test_an_open_breaker_does_not_bring_back_excluded_endpoints():
    assert chosen([Candidate("a", schema.OFFLINE, trial_due=5.0)]) is None


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.text("abcdef", min_size=1, max_size=3),
        st.sampled_from([schema.ONLINE, schema.PENDING, schema.ERROR, schema.OFFLINE]),
        st.sampled_from([schema.ENABLED, schema.DRAINING, schema.DISABLED]),
    ),
    unique_by=lambda candidate: candidate.id,
)


@given(CANDIDATES, st.data())
def test_the_choice_is_never_worse_than_another_candidate(candidates, data):
    load = {candidate.id: data.draw(st.integers(0, 3)) for candidate in candidates}
    tried = data.draw(st.sets(st.sampled_from(sorted(load)))) if load else set()
    order = [schema.ONLINE, schema.PENDING, schema.ERROR]
    allowed = {
        candidate.id: (order.index(candidate.status), load[candidate.id])
        for candidate in candidates
        if candidate.status in order and candidate.operator_state == schema.ENABLED and candidate.id not in tried
    }
    decision = pick(candidates, lambda candidate: load[candidate.id], tried)
    assert (decision is None) == (not allowed)
    assert decision is None or allowed[decision.endpoint_id] == min(allowed.values())


# Candidates in a record


def test_a_choice_among_few_candidates_is_recorded_completely():
    scores = (("a", 3), ("b", 1))
    assert recorded_scores(Decision("b", LEAST, scores)) == scores


def test_of_many_candidates_the_chosen_and_the_least_busy_are_recorded():
    scores = tuple((f"e{number}", number) for number in range(40))
    recorded = recorded_scores(Decision("e30", LEAST, scores))
    assert recorded == (("e30", 30), *scores[: MAX_RECORDED_SCORES - 1])


# Tiers


def in_tier(tier, name, **facts):
    return Candidate(name, tier=tier, **facts)


def test_the_tier_comes_after_health_and_before_load():
    first_tier, second_tier = in_tier(1, "a"), in_tier(2, "b")
    assert chosen([second_tier, first_tier], {"a": 90, "b": 0}) == "a"
    assert chosen([in_tier(1, "a", status=schema.ERROR), second_tier]) == "b"


@pytest.mark.parametrize(
    "facts",
    [
        {"status": schema.OFFLINE},
        {"operator_state": schema.DISABLED},
        {"operator_state": schema.DRAINING},
        {"slots": 4},
        {"trial_due": 9.0},
    ],
)
def test_the_next_tier_is_used_when_those_above_are_excluded_or_full(facts):
    decision = pick(
        [in_tier(1, "a", **facts), in_tier(3, "b"), in_tier(2, "c")],
        lambda candidate: {"a": 4, "b": 0, "c": 9}[candidate.id],
    )
    assert decision == Decision("c", SPILLED, (("c", 9),))


def test_the_next_tier_is_used_for_another_attempt():
    assert chosen([in_tier(1, "a"), in_tier(2, "b")], tried=["a"]) == "b"


def test_a_request_waits_when_all_tiers_are_full():
    assert pick([in_tier(1, "a", slots=1), in_tier(2, "b", slots=1)], lambda candidate: 1) is FULL


def test_equal_tiers_are_no_reason():
    decision = pick([in_tier(4, "a"), in_tier(4, "b")], lambda candidate: {"a": 0, "b": 1}[candidate.id])
    assert decision == Decision("a", LEAST, (("a", 0), ("b", 1)))


def test_the_trial_that_is_due_first_decides_in_any_tier():
    assert chosen([in_tier(1, "a", trial_due=5.0), in_tier(2, "b", trial_due=4.0)]) == "b"


@given(st.lists(st.tuples(st.sampled_from(HEALTH), st.integers(1, TIERS)), min_size=2, max_size=2))
def test_ranks_order_by_health_then_by_tier(pairs):
    (one, first_tier), (other, second_tier) = pairs
    ranks = rank(one, schema.ENABLED, first_tier), rank(other, schema.ENABLED, second_tier)
    order = [(HEALTH.index(one), first_tier), (HEALTH.index(other), second_tier)]
    assert (ranks[0] < ranks[1]) == (order[0] < order[1])
    assert max(ranks) < OPEN
