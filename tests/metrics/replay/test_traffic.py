"""Sessions of recorded requests: by conversation, or guessed by key and length of the prompt."""

from typing import Any

import pytest

from gateway.base.request_kinds import CHAT, EMBEDDINGS
from metrics.replay.traffic import PastRequest, PastSession, means, sessions
from tests.metrics.records import KEY, A, B


def past(arrived: float, prompt: int, output: int = 20, *, name: str = "", **fields: Any) -> PastRequest:
    """Return a request that took a second."""
    made = PastRequest(arrived, arrived, arrived + 0.5, arrived + 1, A, KEY, "tiny", CHAT, prompt, output)
    return made._replace(conversation=name, **fields)


def prompts(past_sessions: list[PastSession]) -> list[list[int]]:
    return [[turn.prompt for turn in session.turns] for session in past_sessions]


def test_a_turn_follows_the_end_of_the_one_before() -> None:
    past_sessions, is_guessed = sessions([past(0, 100, name="c"), past(11, 150, name="c")])
    assert prompts(past_sessions) == [[100, 150]]
    second = past_sessions[0].turns[1]
    assert (second.think, second.prefix) == (10.0, 120)
    assert not is_guessed


def test_what_does_not_continue_begins_a_session() -> None:
    """It arrived before the response, or its prompt is no longer than the one before."""
    past_sessions, _ = sessions([past(0, 100, name="c"), past(0.5, 150, name="c"), past(9, 100, name="c")])
    assert prompts(past_sessions) == [[100], [150], [100]]


def test_requests_about_one_document_share_it() -> None:
    asked = [past(arrived, 500 + arrived, name="d", cached=0 if arrived == 0 else 400) for arrived in (0, 1, 2)]
    past_sessions, _ = sessions([request._replace(ended=request.arrived + 5) for request in asked])
    assert [session.turns[0].prefix for session in past_sessions] == [400, 400, 400]


def test_a_system_prompt_is_known_by_what_first_turns_had_cached() -> None:
    first = [past(arrived, 300, name=f"c{arrived}", cached=0 if arrived == 0 else 192) for arrived in range(5)]
    past_sessions, _ = sessions(first)
    assert {(session.turns[0].system_tokens, session.turns[0].prefix) for session in past_sessions} == {(192, 192)}
    assert len({session.turns[0].system for session in past_sessions}) == 1


def test_conversations_are_guessed_by_growing_prompts() -> None:
    past_sessions, is_guessed = sessions([past(0, 100), past(2, 5000), past(11, 150), past(12, 5050)])
    assert is_guessed
    assert prompts(past_sessions) == [[100, 150], [5000, 5050]]


def test_cached_tokens_decide_between_two_conversations() -> None:
    """Both would fit; the second one has as many tokens as were cached."""
    past_sessions, _ = sessions([past(0, 110), past(2, 100), past(11, 150, cached=112)])
    assert prompts(past_sessions) == [[110], [100, 150]]


def test_cached_tokens_of_another_endpoint_decide_nothing() -> None:
    past_sessions, _ = sessions([past(0, 110), past(2, 100), past(11, 150, cached=112, endpoint=B)])
    assert prompts(past_sessions) == [[110], [100], [150]]


@pytest.mark.parametrize("other", [{"key": "other"}, {"model": "large"}, {"arrived": 3600.0}])
def test_nobody_continues_what_is_not_theirs(other: dict[str, Any]) -> None:
    past_sessions, _ = sessions([past(0, 100), past(11, 150)._replace(**other)])
    assert prompts(past_sessions) == [[100], [150]]


def test_embeddings_are_no_conversations() -> None:
    past_sessions, _ = sessions([past(arrived, 100 + 50 * arrived, 0, kind=EMBEDDINGS) for arrived in (0, 2)])
    assert prompts(past_sessions) == [[100], [200]]


def test_mean_lengths_are_those_of_a_key_and_of_all() -> None:
    requests = [past(0, 1, 10), past(1, 1, 30), past(2, 1, 50, key="other"), past(3, 1, 0)]
    assert means(requests) == {("tiny", KEY): 20.0, ("tiny", ""): 30.0, ("tiny", "other"): 50.0}
