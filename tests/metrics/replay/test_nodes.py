"""Fits of endpoints find the parameters, limits and caches of those that made the records."""

import pytest

from gateway.base.config import LEAST_INFLIGHT
from gateway.routing.adaptive import NO_LIMIT
from gateway.routing.expected_time import Parameters
from metrics.replay.nodes import ENDLESS, KnownEndpoint, Node, PrefixCache, fit_nodes
from metrics.replay.run import RunSetting, play
from metrics.replay.timeline import beside, seen_slots
from metrics.replay.traffic import PastRequest, sessions
from tests.metrics.learning.work import answers
from tests.metrics.records import A, B
from tests.metrics.replay.test_traffic import past
from tests.metrics.replay.traffic import FAST, FLEET, GROUP, LENGTHS, SLOW, chats, happened, known, node, turn


def fitted(requests: list[PastRequest], *nodes: Node) -> list[Node]:
    parts, _ = sessions(requests)
    return fit_nodes(requests, parts, known(nodes))


def token(of: Parameters, beside: float = 2.0) -> float:
    """Return the seconds of a token beside others. How it splits between them is less sure."""
    return of.write + of.share * beside


@pytest.mark.parametrize(("index", "real"), [(0, FAST), (1, SLOW)])
def test_the_parameters_are_found(index: int, real: Parameters) -> None:
    parameters = fitted(happened(), *FLEET)[index].behaviours[GROUP].parameters
    assert token(parameters) == pytest.approx(token(real), rel=0.15)
    assert parameters.read == pytest.approx(real.read, rel=0.25)


def test_residuals_are_near_one_where_the_model_is_right() -> None:
    residuals = sorted(fitted(happened(), *FLEET)[0].behaviours[GROUP].residuals)
    assert residuals[len(residuals) // 2] == pytest.approx(1.0, abs=0.05)


def test_a_limit_that_was_reached_is_seen() -> None:
    limited = node(A, SLOW, slots=2)
    (fitted_node,) = fitted(happened(chats(150, 3.0), [limited]), node(A, SLOW))
    assert fitted_node.places == 2
    assert fitted_node.slots is None


def test_without_a_limit_none_is_seen() -> None:
    assert fitted(happened(), *FLEET)[0].places == NO_LIMIT


def test_the_requests_beside_are_counted() -> None:
    """The second one is sent while the first one is read, and ends with it."""
    first, second = past(0, 100), past(0.25, 60)._replace(first=0.75, ended=1.0)
    one, two = beside([first, second], [100, 60])
    assert (one.in_flight, one.pending, one.read_meanwhile) == (0, 0, 60)
    assert (two.in_flight, two.pending, two.read_meanwhile) == (1, 100, 0)
    assert one.shared == pytest.approx(1 + 0.75)
    assert two.shared == pytest.approx(1.5)


def test_no_more_than_the_slots_run_beside() -> None:
    requests = [past(0, 1), past(0.1, 1), past(0.2, 1)]
    assert beside(requests, [1, 1, 1], 2)[2].shared == pytest.approx(0.8 * 2 + 0.1 * 2 + 0.1)


def test_requests_without_streams_show_no_limit() -> None:
    assert seen_slots([request._replace(first=0.0) for request in happened(nodes=[node(A, SLOW, slots=1)])]) == NO_LIMIT


def test_the_size_of_a_cache_follows_from_its_hits() -> None:
    """A small cache loses conversations, as the reported tokens show."""

    def room(of: float) -> float:
        nodes = [node(A, FAST, cache=of)]
        parts = chats(200, 1.0)
        played = play(RunSetting(nodes, LENGTHS, LEAST_INFLIGHT, noise=False), parts)
        cache, requests = PrefixCache(of), []
        for request in sorted(played, key=lambda one: one.sent):
            hits = cache.match(request.turn)
            cache.keep(request.turn)
            requests.append(
                PastRequest(
                    request.arrived, request.sent, request.first, request.ended, A, request.turn.key, *GROUP,
                    request.turn.prompt, request.turn.output, cached=hits, conversation=request.turn.conversation,
                )
            )  # fmt: skip
        return fitted(sorted(requests), *nodes)[0].cache

    assert room(4_000) <= 8_000
    assert room(ENDLESS) > 30_000


def test_of_a_cache_the_oldest_prefix_goes() -> None:
    cache = PrefixCache(250)
    for name in ("a", "b", "c"):
        cache.keep(turn(90, 10, name=name))
    assert [cache.match(turn(200, prefix=100, name=name)) for name in ("a", "b", "c")] == [0, 100, 100]


def test_an_endpoint_with_few_requests_is_fitted_to_what_was_learned_before() -> None:
    requests = happened(nodes=[FLEET[0]])
    parts, _ = sessions(requests)
    learned = KnownEndpoint(B, B, "vllm", samples={GROUP: answers(50, SLOW)})
    nodes = fit_nodes(requests, parts, [*known(FLEET[:1]), learned])
    assert token(nodes[1].behaviours[GROUP].parameters, 3.5) == pytest.approx(token(SLOW, 3.5), rel=0.1)


def test_an_endpoint_that_nothing_is_known_of_is_left_out() -> None:
    assert [fitted_node.id for fitted_node in fitted(happened(nodes=[FLEET[0]]), *FLEET)] == [A]
