"""Which endpoints the overview of a large installation shows."""

from typing import Any

import pytest

from endpoints.models import OperatorState, Status
from endpoints.registry import registry
from gateway.routing.set_aside import AsideNote
from metrics.queries.figures import Moment
from metrics.queries.live import shown_endpoints as module
from metrics.queries.live.shown_endpoints import CHOSEN_SECONDS, ShownEndpoints
from tests.metrics.records import AT, request
from tests.metrics.world import World, add_endpoint, fake_installation

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True)]


def name(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting, value in (("SHOWN", 4), ("PROBLEMS", 3), ("CHANGED", 1)):
        monkeypatch.setattr(module, setting, value)


def add(number: int, **fields: Any) -> None:
    add_endpoint(name(number), f"n{number:02}", **{"status": Status.ONLINE, **fields})


def numbers(shown: ShownEndpoints) -> list[int]:
    return [int(entry.name[1:]) for entry in shown.of(Moment.now())]


def test_a_small_installation_is_shown_whole(few: None) -> None:
    for number in range(4):
        add(number)
    assert numbers(ShownEndpoints()) == [0, 1, 2, 3]


def test_problems_come_first_and_the_worst_of_them_are_shown(few: None, shown_world: World) -> None:
    for number in range(10):
        add(number)
    add(10, status=Status.PENDING)
    add(11, status=Status.ERROR)
    add(12, status=Status.OFFLINE)
    fake_installation().trials = lambda: {name(9): int(AT) + 60}
    assert numbers(ShownEndpoints()) == [12, 11, 0, 9]


def test_a_pause_is_a_problem_and_a_missing_path_is_none(few: None, shown_world: World) -> None:
    for number in range(10):
        add(number)
    notes = {name(8): AsideNote(0, None, ("rerank",)), name(9): AsideNote(int(AT) + 60, "limited", ())}
    fake_installation().aside = notes.copy
    shown = numbers(ShownEndpoints())
    assert 9 in shown
    assert 8 not in shown


def test_failing_attempts_are_a_problem(few: None, shown_world: World) -> None:
    for number in range(10):
        add(number)
    ok, failed = (request(endpoint=name(number)) for number in (8, 9))
    shown_world.gateway(*[ok] * 3, request(endpoint=name(9), outcome="failed"), failed)
    assert 9 in numbers(ShownEndpoints())


def test_a_disabled_endpoint_is_no_problem(few: None) -> None:
    for number in range(9):
        add(number)
    add(9, status=Status.OFFLINE)
    row = add_endpoint(name(10), "n10", status=Status.OFFLINE)
    row.set_operator_state(OperatorState.DISABLED)
    registry.reload()
    assert numbers(ShownEndpoints()) == [9, 0, 1, 2]


def test_the_busiest_endpoints_stay_for_a_while(few: None, shown_world: World) -> None:
    for number in range(10):
        add(number)
    now = [100.0]
    shown = ShownEndpoints(lambda: now[0])
    gateway = shown_world.gateway(request(endpoint=name(7)))
    assert numbers(shown) == [0, 1, 2, 7]
    for number in (5, 6, 8, 9):
        gateway.append(request(endpoint=name(number)))
        gateway.append(request(endpoint=name(number)))
    assert numbers(shown) == [0, 1, 2, 7]
    now[0] += CHOSEN_SECONDS
    assert numbers(shown) == [5, 6, 8, 9]
