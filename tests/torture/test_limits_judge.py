"""The judge of the torture test of limits, with made-up visits: it must notice each excess."""

import itertools

import pytest

from tests.torture.limits.judge import History, Verdict, Visit, judge, least_counted
from tests.torture.limits.run import without_averages
from tests.torture.limits.subjects import EVERYBODY, KEYS, KINDS, Limits, first_limits, kind_of, rates

SUBJECT = ("key", "a")


def history(limits: Limits) -> History:
    new_history = History()
    new_history.begin(SUBJECT, limits, 0.0)
    return new_history


def visits(*times: tuple[float, float], tokens: int = 10) -> list[Visit]:
    return [Visit(0, arrived, left, tokens, (SUBJECT, EVERYBODY), arrived) for arrived, left in times]


def judged(made: list[Visit], limits: History, excess: int = 0) -> Verdict:
    return judge(made, limits, excess=excess)


def test_requests_at_once_are_counted() -> None:
    made = visits((1, 5), (2, 6), (5, 9))  # the third one arrives when the first one leaves
    assert not judged(made, history(Limits(concurrency=2))).wrong
    verdict = judged(made, history(Limits(concurrency=1)))
    assert verdict.wrong == ["concurrency of key a: 2, but 1 are allowed, at most 0 more"] * 2


def test_requests_of_any_minute_are_counted() -> None:
    evenly = visits(*[(arrived, arrived + 0.1) for arrived in range(0, 300, 6)])
    assert not judged(evenly, history(Limits(requests=10))).wrong
    # Ten at the end of a minute and ten at the begin of the next one: 20 within a minute.
    burst = visits(*[(arrived, arrived + 0.1) for arrived in (*range(50, 60), *range(60, 70))])
    assert len(judged(burst, history(Limits(requests=10))).wrong) == 10


def test_a_request_counts_only_where_it_was_admitted_for_certain() -> None:
    late = [
        Visit(0, arrived, arrived + 0.1, 10, (SUBJECT,), sent)
        for arrived, sent in ((1.5, 0.5), (61.0, 61.0), (121.2, 121.2))
    ]
    assert not judged(late, history(Limits(requests=1))).wrong
    late[0].sent = 1.4
    assert len(judged(late, history(Limits(requests=1))).wrong) == 1


def test_tokens_of_any_minute_are_counted_when_a_request_has_ended() -> None:
    made = visits((1, 100), (2, 3), (4, 5))
    assert not judged(made, history(Limits(tokens=20))).wrong
    assert len(judged(made, history(Limits(tokens=19))).wrong) == 1
    assert not judged(made, history(Limits(tokens=19)), excess=1).wrong


def bulk(*times: tuple[float, float], sent: float | None = None, tokens: int = 10) -> list[Visit]:
    """Return visits of bulk requests. `sent`: when all were sent; None: when they arrived."""
    return [
        Visit(0, arrived, left, tokens, (SUBJECT,), arrived if sent is None else sent, True) for arrived, left in times
    ]


def test_a_bulk_request_beyond_its_part_is_noticed() -> None:
    limits = history(Limits(concurrency=5))
    running = visits((1, 9), (1, 9), (1, 9))
    assert not judged(running + bulk((2, 9)), limits).wrong
    assert not judged(running + bulk((2, 9)) + visits((3, 9)), limits).wrong, "interactive requests use the whole"
    verdict = judged([*running, *visits((1, 9)), *bulk((2, 9))], limits)
    assert verdict.wrong == ["concurrency of key a: 5, but 4 are for bulk requests, at most 0 more"]
    assert not judged([*running, *visits((1, 2)), *bulk((2, 9))], limits).wrong, "one has left"


def test_a_bulk_request_may_have_been_let_in_before_those_that_arrived_while_it_came() -> None:
    limits = history(Limits(concurrency=5))
    running = visits((1, 9), (1, 9), (1, 9), (2.5, 9))
    assert not judged(running + bulk((3, 9), sent=2), limits).wrong
    assert judged(running + bulk((3, 9), sent=2.6), limits).wrong


def test_bulk_requests_together_are_within_their_part() -> None:
    limits = history(Limits(concurrency=5))
    together = [(arrived, 9.0) for arrived in (1.0, 1.1, 1.2, 1.3)]
    assert not judged(bulk(*together, sent=0.9), limits).wrong
    assert judged(bulk(*together, (1.4, 9.0), sent=0.9), limits).wrong


def test_a_bulk_request_that_has_aged_may_use_the_whole() -> None:
    running = visits(*[(60, 70)] * 4)
    assert not judged(running + bulk((61, 70), sent=0), history(Limits(concurrency=5))).wrong


def test_the_minute_of_bulk_requests_is_judged() -> None:
    earlier = visits(*[(arrived, arrived + 0.1) for arrived in range(8)])
    for limits in (Limits(requests=10), Limits(tokens=100)):
        assert judged(earlier + bulk((20, 21)), history(limits)).wrong
        assert not judged(earlier[1:] + bulk((20, 21)), history(limits)).wrong
        assert not judged(earlier + bulk((60.5, 61)), history(limits)).wrong, "the first one is older than a minute"


def test_a_limit_that_was_reached_is_noted() -> None:
    assert judged(visits((1, 2), (1.5, 3)), history(Limits(concurrency=2))).full["key:concurrency"] == 1


def test_while_an_edit_is_under_way_both_limits_are_possible() -> None:
    limits = history(Limits(concurrency=2))
    limits.begin(SUBJECT, Limits(concurrency=1), 100.0)
    together = visits((110, 120), (111, 121))
    assert not judged(together, limits).wrong, "the edit has not been answered yet"
    limits.end(SUBJECT, 105.0)
    assert judged(together, limits).wrong
    limits.begin(SUBJECT, Limits(concurrency=3), 109.0)
    assert not judged(together, limits).wrong, "the larger limit may be in effect"


def test_an_edit_without_an_answer_stays_possible_until_a_later_one_has_one() -> None:
    limits = history(Limits(concurrency=1))
    limits.begin(SUBJECT, Limits(concurrency=3), 10.0)  # no answer
    limits.begin(SUBJECT, Limits(concurrency=1), 20.0)
    together = visits((30, 40), (31, 41))
    assert not judged(together, limits).wrong
    limits.end(SUBJECT, 21.0)
    assert judged(together, limits).wrong


def test_a_removed_limit_is_none() -> None:
    limits = history(Limits(requests=1))
    limits.begin(SUBJECT, Limits(), 10.0)
    limits.end(SUBJECT, 11.0)
    assert not judged(visits((20, 21), (22, 23)), limits).wrong


@pytest.mark.parametrize("limit", ["concurrency", "requests", "tokens"])
def test_keys_have_every_kind_of_limit_and_ask_for_three_times_as_much(limit: str) -> None:
    assert any(getattr(kind.limits, limit) and limit in kind.limits.waiting for kind in KINDS)
    assert any(getattr(kind.limits, limit) and limit not in kind.limits.waiting for kind in KINDS)
    for kind in KINDS:
        if kind.limits.requests:
            assert kind.rate * 60 >= 3 * kind.limits.requests


def test_each_user_has_a_key_of_each_kind() -> None:
    keys, users = [f"k{number}" for number in range(KEYS)], ["u"]
    assert len(rates()) == KEYS
    assert [kind_of(number) for number in range(10)] == list(KINDS)
    assert {level for (level, _), _ in first_limits(keys, users)} == {"key", "user", "everyone"}
    assert all(
        len(list(group)) == 1 for _, group in itertools.groupby(map(kind_of, range(KEYS)), lambda kind: kind.name)
    )


def test_a_refusal_shows_how_much_its_limit_has_counted_at_least() -> None:
    made = visits(*[(arrived, arrived + 0.1) for arrived in (1.0, 30.0, 62.0)])
    assert least_counted([], made, []) == float("inf")
    assert least_counted([(62.5, 62.6)], made, []) == 3
    assert least_counted([(62.5, 62.6), (80.0, 80.1)], made, []) == 2, "the first one left the minute"
    assert least_counted([(80.0, 80.1)], made, [(10.0, 20.0), (5.0, 6.0)]) == 3, "one that broke off may be counted"


def test_only_moving_averages_may_differ_after_steps_of_the_clock() -> None:
    average, total, summary = "averages: samples in moving_averages …", "totals: requests …", "2 differences"
    assert without_averages(f"{average}\n{average}\n{summary}\n") == []
    assert without_averages(f"{average}\n{total}\n{summary}\n") == [total, summary]
    assert without_averages("Traceback\n") == ["Traceback"]


def test_a_request_that_was_sent_before_an_edit_may_have_been_admitted_by_the_limits_before() -> None:
    limits = history(Limits(concurrency=2))
    limits.begin(SUBJECT, Limits(concurrency=1), 10.0)
    limits.end(SUBJECT, 11.0)
    made = visits((5, 20), (13, 21))
    assert judged(made, limits).wrong
    made[1].sent = 10.5
    assert not judged(made, limits).wrong
