"""Limits that are assumed once the load is learned at which a token takes twice as long."""

from datetime import UTC, datetime

import pytest

from endpoints.checks.assumed_slots import NONE_YET
from endpoints.engine_reports import EngineReading
from endpoints.models import Endpoint
from endpoints.registry import registry
from gateway.ipc.record import RequestRecord
from metrics.memory.runtime import runtime
from tests.metrics.learning.work import answered
from tests.metrics.records import A
from tests.routerdash.publication import store
from tests.routerdash.publication.learning import Control

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

WRITE, SHARE = 0.010, 0.002  # seconds; the time of a token doubles with seven requests at a time


@pytest.fixture(autouse=True)
def batching(control: Control) -> Control:
    """The endpoint A as a new one of vLLM."""
    kind_of("vllm")
    set_assumed(NONE_YET)
    return control


def kind_of(kind: str) -> None:
    Endpoint.objects.filter(pk=A).update(endpoint_type=kind)
    registry.reload()


def set_assumed(value: int | None, **options: int) -> None:
    Endpoint.objects.get(pk=A).set_options(assumed_slots=value, **options)


def responses(most: int, count: int = 120) -> list[RequestRecord]:
    """Responses beside one to `most` requests."""
    made = []
    for number in range(count):
        beside, output = 1 + number % most, 60 + number % 7 * 20
        duration_us = round(1e6 * (0.005 + output * (WRITE + SHARE * beside)))
        work = {"shared_us": duration_us * beside, "was_idle": beside == 1}
        made.append(
            answered(A, ago=count - number, output_tokens=output, input_tokens=9, duration_us=duration_us, work=work)
        )
    return made


def slots() -> int | None:
    registry.reload()
    entry = registry.get(A)
    assert entry is not None
    return entry.slots


def test_the_limit_is_the_load_at_which_a_token_takes_twice_as_long(control: Control) -> None:
    control.write(*responses(9))
    control.learn()
    assert slots() in (6, 7, 8)
    control.publisher.publish_endpoints({A})
    (facts,) = [endpoint for endpoint in store.read(control.config).endpoints.values() if endpoint.id == A]
    assert facts.slots == slots()


def test_a_load_that_was_never_seen_gives_no_limit(control: Control) -> None:
    control.write(*responses(3))
    control.learn()
    assert slots() is None


@pytest.mark.parametrize(
    ("value", "options"), [(None, {}), (None, {"max_concurrency": 90}), (0, {"learned_slots": 80})]
)
def test_other_endpoints_keep_what_they_have(control: Control, value: int | None, options: dict[str, int]) -> None:
    """Those of earlier releases, and those with a limit set by an administrator or the server."""
    set_assumed(value, **options)
    before = slots()
    control.write(*responses(9))
    control.learn()
    assert slots() == before


def test_a_limit_stays_when_the_speeds_change(control: Control) -> None:
    control.write(*responses(9))
    control.learn()
    before = slots()
    control.write(*responses(30))
    control.learn()
    assert slots() == before is not None


@pytest.mark.parametrize(("kind", "others", "is_limited"), [
    ("ollama", None, False), ("openai_compatible", None, False), ("openai_compatible", 0, True),
])  # fmt: skip
def test_servers_that_batch_are_known_by_their_type_or_their_gauges(
    control: Control, monkeypatch: pytest.MonkeyPatch, kind: str, others: int | None, is_limited: bool
) -> None:
    kind_of(kind)
    reading = EngineReading(None, (), others, datetime(2026, 3, 10, tzinfo=UTC))
    monkeypatch.setattr(runtime.installation, "engine", lambda endpoint_id: reading)
    control.write(*responses(9))
    control.learn()
    assert (slots() is not None) is is_limited
