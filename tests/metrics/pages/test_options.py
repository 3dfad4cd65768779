"""Choices of the filter by API key."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.models import ApiKey
from metrics.pages import options
from metrics.queries.figures import Moment
from tests.access.people import make_user
from tests.metrics.records import request
from tests.metrics.world import World

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

DAYS = 86400.0


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Five keys, ids by name, where a filter offers three."""
    monkeypatch.setattr(options, "MAX_OPTIONS", 3)
    owner = make_user()
    return {name: str(ApiKey.issue(owner, name, [])[0].pk) for name in ("busy", "idle", "used", "earlier", "never")}


def offered(chosen: str = "") -> list[str]:
    return list(options.keys(Moment.now(), chosen).values())


def serve(world: World, *requests: tuple[str, float]) -> None:
    """Serve a request of a key some seconds ago, for each of these pairs."""
    world.gateway(*(request(api_key_id=key, ago=ago) for key, ago in requests))
    world.write()


def test_a_few_keys_are_all_offered(shown_world: World, keys: dict[str, str]) -> None:
    ApiKey.objects.filter(name__in=("idle", "never")).delete()
    assert sorted(offered()) == ["busy", "earlier", "used"]


def test_of_many_keys_the_busiest_and_the_last_used_are_offered(shown_world: World, keys: dict[str, str]) -> None:
    days_ago = {"used": 2, "idle": 5, "earlier": 9}
    serve(shown_world, (keys["busy"], 10), *((keys[name], days * DAYS) for name, days in days_ago.items()))
    assert sorted(offered()) == ["busy", "idle", "used"]


def test_the_chosen_key_is_offered(shown_world: World, keys: dict[str, str]) -> None:
    serve(shown_world, (keys["busy"], 10))
    assert offered(keys["never"]) == ["busy", "never"]
    assert offered(keys["busy"]) == ["busy"]


def test_a_deleted_key_is_offered_only_if_it_is_chosen(shown_world: World, keys: dict[str, str]) -> None:
    serve(shown_world, (keys["busy"], 10), (keys["used"], 20))
    ApiKey.objects.filter(name="busy").delete()
    assert offered() == ["used"]
    assert offered(keys["busy"]) == ["used", keys["busy"]]


def test_no_query_reads_or_sorts_all_keys(shown_world: World, keys: dict[str, str]) -> None:
    serve(shown_world, (keys["busy"], 10))
    moment = Moment.now()
    with CaptureQueriesContext(connection) as queries:
        options.keys(moment, keys["never"])
    assert len(queries) == 4
    for query in queries:
        assert "LIMIT" in query["sql"] or " IN (" in query["sql"]
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            for query in queries:
                cursor.execute("EXPLAIN QUERY PLAN " + query["sql"])
                plan = " ".join(row[3] for row in cursor.fetchall())
                assert plan
                assert "TEMP B-TREE" not in plan
