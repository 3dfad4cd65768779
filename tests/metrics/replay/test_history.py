"""Rows of the history as a replay reads them."""

from datetime import timedelta

import msgspec
import pytest

from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway.base.config import ADAPTIVE, LEAST_INFLIGHT
from gateway.base.request_kinds import EMBEDDINGS
from gateway.ipc import record
from gateway.routing import adaptive, balancer
from metrics.learning.samples import UNKNOWN
from metrics.models import RequestHistory
from metrics.queries.stored import run_sql
from metrics.replay import history
from metrics.replay.ask import read_recording
from metrics.replay.history import Past, read_past
from metrics.replay.installation import offered_endpoints, replay_scope
from metrics.storage.database import vendor
from tests.metrics.learning.work import answered
from tests.metrics.records import AT, KEY, NOW, A, B, attempt, request
from tests.metrics.replay.traffic import happened, records
from tests.metrics.world import World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("endpoints", "frozen_clock")]

SPAN = NOW - timedelta(days=1), NOW + timedelta(seconds=1)


def read(world: World, *entries: record.RequestRecord) -> Past:
    world.gateway(*entries)
    world.write()
    return read_past(run_sql, vendor(), *SPAN, {"tiny": "the model"})


def test_a_request_has_its_times_tokens_and_names(world: World) -> None:
    last = attempt(duration_us=1_500_000)
    last = msgspec.structs.replace(last, at_us=500_000, reason=balancer.LEAST)
    entry = request(
        ago=10, attempts=(last,), first_token_us=700_000, input_tokens=50, output_tokens=9, cached_tokens=32,
        api_key_id=KEY, conversation="0123456789abcdef", model="Tiny",
    )  # fmt: skip
    (past_request,) = read(world, entry).requests
    assert (past_request.arrived, past_request.sent, past_request.first, past_request.ended) == pytest.approx(
        (AT - 12, AT - 11.5, AT - 11.3, AT - 10)
    )
    assert past_request[4:] == (A, KEY, "the model", "chat_completions", 50, 9, 32, "0123456789abcdef", LEAST_INFLIGHT)


def test_what_was_not_recorded_is_unknown(world: World) -> None:
    entry = msgspec.structs.replace(request(output_tokens=5, kind=EMBEDDINGS), body_bytes=400)
    (past_request,) = read(world, entry).requests
    assert (past_request.first, past_request.cached, past_request.prompt, past_request.output) == (0.0, UNKNOWN, 100, 0)
    assert (past_request.key, past_request.conversation, past_request.balancer) == ("", "", "")


@pytest.mark.parametrize("reason", [adaptive.FASTEST, adaptive.WAITED, adaptive.PROBE])
def test_the_reason_tells_the_balancer(world: World, reason: str) -> None:
    entry = request(output_tokens=5, attempts=(msgspec.structs.replace(attempt(), reason=reason),))
    assert [past_request.balancer for past_request in read(world, entry).requests] == [ADAPTIVE]


def test_what_cannot_be_replayed_is_counted(world: World) -> None:
    entries = [request(record.FAILED), request(record.QUEUE), request(), answered(work={"is_cold": True})]
    past = read(world, *entries)
    assert (past.failed, past.queue_refused, past.unusable, past.cold) == (2, 1, 1, 1)
    assert len(past.requests) == 1


def test_only_the_latest_requests_are_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_REQUESTS", 3)
    past = read(world, *(request(ago=ago, output_tokens=5) for ago in range(5)))
    assert past.is_cut
    assert [round(AT - past_request.ended) for past_request in past.requests] == [2, 1, 0]


def test_damaged_rows_are_no_requests(world: World) -> None:
    read(world, request(output_tokens=5), request(output_tokens=5))
    damaged = RequestHistory.objects.latest("completed_at")
    RequestHistory.objects.filter(pk=damaged.pk).update(attempts={"no": "list"})
    past = read_past(run_sql, vendor(), *SPAN)
    assert (len(past.requests), past.unusable) == (1, 1)


def test_stored_samples_tell_the_speed_of_an_endpoint_without_requests(
    world: World, endpoints: tuple[Endpoint, ...]
) -> None:
    """Its requests are older than the recorded time."""
    older = [answered(B, ago=90_000.0 + index, output_tokens=100 + index) for index in range(20)]
    world.gateway(*older, *(entry for entry in records(happened(), AT - 60) if entry.endpoint_id == A))
    world.write()
    for endpoint in endpoints:
        endpoint.models.get_or_create(model_id="tiny")
    registry.reload()
    recording = read_recording(run_sql, vendor(), replay_scope(*SPAN), offered_endpoints())
    assert {node.name for node in recording.nodes} == {"a", "b"}
    assert recording.unknown == ()
