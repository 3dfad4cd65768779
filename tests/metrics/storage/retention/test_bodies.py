"""Stored bodies are deleted before their history rows, and nothing else with them."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine

from gateway.base.config import load as config_of
from metrics import tasks
from metrics.models import RequestHistory
from metrics.storage.retention import bodies as body_retention
from metrics.storage.settings_rows import BODIES_BEFORE, stored_day
from tests.metrics.records import NOW, request
from tests.metrics.world import World, rows

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

DAY = 86_400.0
PLAIN, QUOTED = "tiny", 'a "quoted" モデル'
BODY, ANSWER = '{"model":"tiny","messages":[{"role":"user","content":"secret"}]}', '{"choices":[{"text":"secret"}]}'


@pytest.fixture(autouse=True)
def _kept_for_two_days(settings: Any, tmp_path: Path) -> Iterator[None]:
    given = {"DATA_DIR": str(tmp_path), "TIME_ZONE": "UTC", "BODY_RETENTION_DAYS": "2"}
    settings.ROUTERDASH = config_of({f"ROUTERDASH_{name}": value for name, value in given.items()})
    with time_machine.travel(NOW, tick=False):
        yield


def store(world: World, *ages: float, **fields: Any) -> None:
    """Requests with bodies, of these ages in days."""
    given = {"request_body": BODY, "response_body": ANSWER, **fields}
    world.gateway(*[request(ago=age * DAY, **given) for age in ages])
    world.write()


def with_bodies() -> list[int]:
    """The ages in days of the requests that have a body, oldest first."""
    requests = RequestHistory.objects.order_by("completed_at")
    return [
        (NOW - row.completed_at).days for row in requests if len(row.request_body) > 1 or row.response_body is not None
    ]


def everything_else() -> list[Any]:
    names = [field.name for field in RequestHistory._meta.fields if field.name not in ("request_body", "response_body")]
    return list(RequestHistory.objects.order_by("id").values_list(*names))


@pytest.fixture
def week(world: World, endpoints: object) -> World:
    store(world, *range(7))
    store(world, 5, request_body=None)
    store(world, 5, response_body=None)
    store(world, 5, model=QUOTED, request_body=None, response_body=None)
    return world


@pytest.mark.parametrize("chunk", [1, 2, 500])
def test_old_bodies_are_deleted_and_their_rows_stay(week: World, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(body_retention, "CHUNK", chunk)
    before = everything_else()
    body_retention.delete_due()
    assert with_bodies() == [2, 1, 0]
    assert everything_else() == before
    stored = RequestHistory.objects.get(model=QUOTED)
    assert (stored.request_body, stored.response_body) == ({"model": QUOTED}, None)


def test_a_row_without_a_body_is_as_one_that_never_had_one(world: World, endpoints: object) -> None:
    store(world, 5)
    store(world, 5, request_body=None, response_body=None)
    body_retention.delete_due()
    one, other = rows("SELECT request_body, response_body FROM request_history")
    assert one == other


def test_equal_moments_in_several_chunks(world: World, endpoints: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_retention, "CHUNK", 2)
    store(world, *[5] * 7)
    assert body_retention.delete_due() == 7
    assert with_bodies() == []


def test_a_second_run_of_the_day_does_nothing(week: World, django_assert_num_queries: Any) -> None:
    assert body_retention.delete_due() > 0
    with django_assert_num_queries(1):
        assert body_retention.delete_due() == 0


def test_the_next_day_deletes_the_next_day_and_late_rows(week: World) -> None:
    body_retention.delete_due()
    done = stored_day(BODIES_BEFORE)
    assert done is not None
    store(week, 3)
    with time_machine.travel(NOW + timedelta(days=1), tick=False):
        body_retention.delete_due()
    assert stored_day(BODIES_BEFORE) == done + timedelta(days=1)
    assert with_bodies() == [1, 0]


def test_an_interrupted_run_is_continued(week: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_retention, "CHUNK", 2)
    rows_with_bodies, calls = body_retention._rows_with_bodies, []

    def stop(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rows_with_bodies(*arguments)

    with monkeypatch.context() as broken:
        broken.setattr(body_retention, "_rows_with_bodies", stop)
        with pytest.raises(KeyboardInterrupt):
            body_retention.delete_due()
    assert len(with_bodies()) > 3
    body_retention.delete_due()
    assert with_bodies() == [2, 1, 0]


@pytest.mark.parametrize(("history", "bodies"), [(5, 9), (5, 5)])
def test_bodies_that_are_kept_as_long_as_the_history_go_with_their_rows(
    week: World, settings: Any, history: int, bodies: int
) -> None:
    settings.ROUTERDASH = replace(settings.ROUTERDASH, history_retention_days=history, body_retention_days=bodies)
    tasks.prune_history()
    assert stored_day(BODIES_BEFORE) is None
    assert with_bodies() == [5, 5, 5, 4, 3, 2, 1, 0]


def test_the_task_deletes_bodies(week: World) -> None:
    tasks.prune_history()
    assert with_bodies() == [2, 1, 0]
    assert RequestHistory.objects.count() == 10
