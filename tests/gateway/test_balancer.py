from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import snapshot
from gateway.balancer import DRAWN, FULL, LEAST, MOST_NOTED, ONLY, OPEN, TRIAL, Decision, noted, pick, rank


@dataclass(frozen=True)
class Candidate:
    id: str
    status: str = snapshot.ONLINE
    operator_state: str = snapshot.ENABLED
    slots: int | None = None
    trial_due: float = 0.0  # not 0: its circuit breaker is open

    @property
    def rank(self):
        own = rank(self.status, self.operator_state)
        return OPEN if self.trial_due and own < OPEN else own


A, B, C = Candidate("a"), Candidate("b"), Candidate("c")
IDLE = {"a": 0, "b": 0, "c": 0}


def first(names):
    return names[0]


def chosen(candidates, load=IDLE, tried=(), choose=first):
    decision = pick(candidates, lambda it: load[it.id], tried, choose)
    return decision and decision.endpoint_id


def test_the_one_with_the_fewest_requests_in_flight():
    assert chosen([A, B, C], {"a": 3, "b": 1, "c": 2}) == "b"


def test_a_tie_is_drawn_among_the_least():
    assert chosen([A, B, C], {"a": 1, "b": 5, "c": 1}, choose="+".join) == "a+c"


def test_the_draw_decides():
    assert [chosen([A, B], choose=lambda names, at=at: names[at]) for at in (0, 1)] == ["a", "b"]


def test_without_a_tie_nothing_is_drawn():
    assert chosen([A, B], {"a": 0, "b": 1}, choose=pytest.fail) == "a"


def test_ties_are_drawn_evenly_by_default():
    counts = {"a": 0, "b": 0, "c": 0}
    for _ in range(3000):
        decision = pick([A, B, C], lambda it: IDLE[it.id])
        assert decision is not None
        counts[decision.endpoint_id] += 1
    assert min(counts.values()) > 800


@pytest.mark.parametrize(
    ("statuses", "best"),
    [
        ((snapshot.ONLINE, snapshot.PENDING, snapshot.ERROR), "a"),
        ((snapshot.ERROR, snapshot.PENDING, snapshot.OFFLINE), "b"),
        ((snapshot.OFFLINE, snapshot.OFFLINE, snapshot.ERROR), "c"),
        ((snapshot.ERROR, snapshot.ONLINE, snapshot.ONLINE), "bc"),
    ],
)
def test_the_healthiest_go_first_however_busy(statuses, best):
    busy = {"a": 1000, "b": 1000, "c": 1000, **{name: 0 for name in "abc" if name not in best}}
    found = chosen([Candidate(name, status) for name, status in zip("abc", statuses, strict=True)], busy)
    assert found == best[0]


@pytest.mark.parametrize("state", [snapshot.DRAINING, snapshot.DISABLED])
def test_the_operators_word_excludes(state):
    assert chosen([Candidate("a", operator_state=state), Candidate("b", snapshot.ERROR)]) == "b"
    assert chosen([Candidate("a", operator_state=state)]) is None


@pytest.mark.parametrize("status", [snapshot.OFFLINE, "of tomorrow"])
def test_who_is_offline_is_not_asked(status):
    assert chosen([Candidate("a", status)]) is None


def test_who_was_tried_is_not_asked_again():
    assert chosen([A, B], tried=["a"]) == "b"
    assert chosen([A, B], tried=["a", "b"]) is None


def test_after_the_healthy_ones_the_sick_are_tried():
    assert chosen([A, Candidate("b", snapshot.ERROR)], tried=["a"]) == "b"


def test_nobody_is_nobody():
    assert chosen([]) is None


def test_a_decision_says_what_it_rests_on():
    load = {"a": 2, "b": 1, "c": 0}
    decision = pick([A, B, Candidate("c", snapshot.PENDING)], lambda it: load[it.id], choose=first)
    assert decision is not None
    assert (decision.reason, decision.scores) == (LEAST, (("a", 2), ("b", 1)))


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [([A], ONLY), ([A, B], DRAWN), ([Candidate("a", trial_due=1.0)], TRIAL)],
)
def test_reasons(candidates, reason):
    decision = pick(candidates, lambda it: IDLE[it.id], choose=first)
    assert decision is not None
    assert decision.reason == reason


# Slots


def limited(name, slots, **fields):
    return Candidate(name, slots=slots, **fields)


def test_one_that_is_full_is_passed_over():
    assert chosen([limited("a", 2), B], {"a": 2, "b": 7}) == "b"


def test_one_more_than_its_slots_is_full_too():
    assert chosen([limited("a", 2), B], {"a": 3, "b": 7}) == "b"


def test_when_all_are_full_a_request_has_to_wait():
    assert pick([limited("a", 1), limited("b", 1)], lambda it: 1) is FULL


def test_those_that_were_tried_are_not_waited_for():
    assert pick([limited("a", 1)], lambda it: 1, ["a"]) is None


def test_a_sick_one_with_a_free_slot_is_better_than_waiting():
    assert chosen([limited("a", 1), Candidate("b", snapshot.ERROR)], {"a": 1, "b": 0}) == "b"


# Circuit breakers


def test_an_open_breaker_orders_last():
    assert chosen([Candidate("a", trial_due=5.0), Candidate("b", snapshot.ERROR)]) == "b"


def test_when_all_are_open_the_one_whose_trial_is_due_first_is_tried():
    candidates = [Candidate("a", trial_due=7.0), Candidate("b", trial_due=5.0), Candidate("c", trial_due=6.0)]
    decision = pick(candidates, lambda it: {"a": 0, "b": 9, "c": 0}[it.id])
    assert decision is not None
    assert (decision.endpoint_id, decision.reason) == ("b", TRIAL)


def test_it_is_better_to_wait_for_one_that_works():
    assert pick([limited("a", 1), Candidate("b", trial_due=5.0)], lambda it: 1) is FULL


def test_an_open_breaker_does_not_bring_back_what_is_excluded():
    assert chosen([Candidate("a", snapshot.OFFLINE, trial_due=5.0)]) is None


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.text("abcdef", min_size=1, max_size=3),
        st.sampled_from([snapshot.ONLINE, snapshot.PENDING, snapshot.ERROR, snapshot.OFFLINE]),
        st.sampled_from([snapshot.ENABLED, snapshot.DRAINING, snapshot.DISABLED]),
    ),
    unique_by=lambda candidate: candidate.id,
)


@given(CANDIDATES, st.data())
def test_the_choice_is_never_worse_than_another_that_may_be_asked(candidates, data):
    load = {it.id: data.draw(st.integers(0, 3)) for it in candidates}
    tried = data.draw(st.sets(st.sampled_from(sorted(load)))) if load else set()
    order = [snapshot.ONLINE, snapshot.PENDING, snapshot.ERROR]
    allowed = {
        it.id: (order.index(it.status), load[it.id])
        for it in candidates
        if it.status in order and it.operator_state == snapshot.ENABLED and it.id not in tried
    }
    decision = pick(candidates, lambda it: load[it.id], tried)
    assert (decision is None) == (not allowed)
    assert decision is None or allowed[decision.endpoint_id] == min(allowed.values())


# What a record tells of


def test_a_choice_among_few_is_noted_whole():
    scores = (("a", 3), ("b", 1))
    assert noted(Decision("b", LEAST, scores)) == scores


def test_of_many_the_chosen_one_and_the_least_are_noted():
    scores = tuple((f"e{number}", number) for number in range(40))
    found = noted(Decision("e30", LEAST, scores))
    assert found == (("e30", 30), *scores[: MOST_NOTED - 1])
