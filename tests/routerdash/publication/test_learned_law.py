"""`reconcile` computes what was learned again, and finds each row of the registry store that differs."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import pytest
import time_machine

from access.models import ApiKey
from gateway.registry.schema import Lengths, Speeds
from gateway.registry.writer import Changes
from metrics.learning import laws
from metrics.models import LengthWindow, SpeedWindow
from metrics.reconcile import live
from tests.metrics.learning.work import answered
from tests.metrics.records import AT, KEY, A, B
from tests.routerdash.publication import store
from tests.routerdash.publication.learning import CHAT, MODEL, Control, traffic

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

Found = tuple[list[str], list[str]]
Compare = Callable[[], Found]


@pytest.fixture
def compare(control: Control, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compare]:
    """Compare, five minutes after the last answer, as if control were running."""
    monkeypatch.setattr(live, "is_running", lambda config: True)
    monkeypatch.setattr(laws, "AGAIN_SECONDS", 0.0)
    control.write(*traffic(40), *traffic(3, B, slower=5.0), answered(model=MODEL, ago=70.0))
    control.learn()

    def run() -> Found:
        differences, notes = laws.compare(replace(control.config, balancer="adaptive"))
        return list(map(str, differences)), notes

    with time_machine.travel(AT + 300, tick=False):
        yield run


def test_what_is_published_is_right(compare: Compare) -> None:
    assert compare() == ([], [])


def test_wrong_speeds_are_found(control: Control, compare: Compare) -> None:
    right = control.speeds()
    assert right is not None
    wrong = Speeds(right.setup, right.read, right.write * (1 + 1e-15), right.share, right.completions, right.kept)
    assert wrong != right
    control.publisher.publish_learned(Changes(speeds={(A, MODEL, CHAT): wrong}))
    (difference,), _ = compare()
    assert difference.startswith(f"L7: speeds in the registry store endpoint={A} model={MODEL} kind={CHAT}: expected")


def test_missing_rows_are_found(control: Control, compare: Compare) -> None:
    control.publisher.publish_learned(Changes(speeds={(B, MODEL, CHAT): None}, lengths={("tiny", KEY): None}))
    first, second = compare()[0]
    assert f"endpoint={B}" in first
    assert f"model=tiny API key={KEY}" in second


def test_wrong_lengths_are_found(control: Control, compare: Compare) -> None:
    control.publisher.publish_learned(Changes(lengths={("tiny", None): Lengths(1.0)}))
    (difference,), _ = compare()
    assert "L7: lengths in the registry store model=tiny API key=any" in difference


def test_other_samples_are_found(compare: Compare) -> None:
    row = SpeedWindow.objects.get(endpoint_id=B)
    SpeedWindow.objects.filter(endpoint_id=A, model="tiny").update(samples=row.samples)
    assert len(compare()[0]) == 2  # that of the endpoint, and that of the other, which begins from it


def test_what_has_changed_lately_is_left_out(control: Control, compare: Compare) -> None:
    control.write(*[answered(B, ago=-290.0)])
    assert compare() == ([], [])
    with time_machine.travel(AT + 400, tick=False):
        assert len(compare()[0]) >= 2
    control.learn()
    with time_machine.travel(AT + 400, tick=False):
        assert compare() == ([], [])


def test_damaged_samples_teach_nothing(compare: Compare) -> None:
    SpeedWindow.objects.update(samples=b"\xc1")
    LengthWindow.objects.update(samples=b"\xc1")
    assert compare() == ([], [])


def test_a_damaged_store_is_not_compared(control: Control, compare: Compare) -> None:
    store.damage_rows(control.config, "speeds")
    differences, (note,) = compare()
    assert not differences
    assert note.startswith("the registry store cannot be read (")


def test_without_adaptive_routing_or_control_nothing_is_compared(
    control: Control, compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    control.publisher.publish_learned(Changes(lengths={("tiny", None): None}))
    assert laws.compare(replace(control.config, balancer="least_inflight")) == ([], [])
    monkeypatch.setattr(live, "is_running", lambda config: False)
    assert compare() == ([], [])


def test_lengths_of_a_deleted_key_are_not_expected(control: Control, compare: Compare) -> None:
    ApiKey.objects.all().delete()
    control.learner.keys_changed({"its hash": None})
    control.learn()
    assert control.lengths(key=KEY) is None
    assert compare() == ([], [])


def test_a_wrong_time_of_loads_is_found(control: Control, compare: Compare) -> None:
    control.write(answered(work={"is_cold": True, "load_us": 8_000_000}))
    control.learn()
    right = control.speeds()
    assert right is not None
    assert right.load == 8.0
    assert compare() == ([], [])
    wrong = msgspec.structs.replace(right, load=8.1)
    control.publisher.publish_learned(Changes(speeds={(A, MODEL, CHAT): wrong}))
    assert len(compare()[0]) == 1
