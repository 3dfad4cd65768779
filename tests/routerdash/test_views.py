"""Is it alive, may it be asked, which release is it."""

import time

import pytest
from django.test import Client

from metrics.teller import surroundings
from routerdash import __version__
from tests.metrics.records import request
from tests.metrics.world import World

NOT_RESTORED = "figures are not restored from the database yet"


@pytest.fixture
def away(teller: World) -> World:
    """The database went away, with two records waiting for it."""
    teller.folder.seed(teller.trackers.state, "db")
    teller.folder.database_id = "the database of this test"
    teller.gateway(request(), request())
    teller.folder.catch_up()
    teller.writer.backlog.error = "no route to host"
    return teller


def test_it_is_alive_and_says_what_is_missing(client: Client) -> None:
    response = client.get("/health")
    assert response.status_code == 200
    assert response.json() == {"status": "degraded", "reasons": [NOT_RESTORED], "version": __version__}


def test_it_is_not_ready_before_anything_can_be_served(client: Client) -> None:
    response = client.get("/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False, "reasons": [NOT_RESTORED]})


def test_with_everything_there_it_is_well(client: Client, teller: World) -> None:
    teller.folder.seed(teller.trackers.state, "db")
    assert client.get("/health").json() == {"status": "ok", "reasons": [], "version": __version__}


def test_it_is_ready_to_serve_while_the_database_is_away(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "serving", lambda: True)
    assert client.get("/ready").json() == {"ready": True, "reasons": [NOT_RESTORED]}


def test_well_and_serving_it_is_ready(client: Client, teller: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "serving", lambda: True)
    teller.folder.seed(teller.trackers.state, "db")
    assert client.get("/ready").json() == {"ready": True, "reasons": []}


def test_a_database_that_went_away_is_a_reason(client: Client, away: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "writer", away.writer)
    (reason,) = client.get("/health").json()["reasons"]
    assert reason.endswith("2 records wait for it")
    assert client.get("/ready").json()["reasons"] == [reason]


def test_a_database_that_is_behind_is_a_reason(client: Client, away: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "writer", away.writer)
    away.writer.backlog.error = None
    away.writer.backlog.busy_since = time.time() - 60
    assert client.get("/health").json()["reasons"] == ["the database is behind; 2 records wait for it"]


def test_a_journal_that_cannot_be_written_is_a_reason(
    client: Client, teller: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    teller.folder.seed(teller.trackers.state, "db")
    monkeypatch.setattr(surroundings, "unrecorded", lambda: 3)
    (reason,) = client.get("/health").json()["reasons"]
    assert reason.endswith("3 requests were served unrecorded")


def test_the_release_is_told_to_anybody(client: Client) -> None:
    assert client.get("/api/version").json() == {"version": __version__}


def test_a_wrong_key_does_not_matter_there(client: Client) -> None:
    assert client.get("/api/version", headers={"X-API-Key": "sk_wrong"}).status_code == 200


@pytest.mark.parametrize("path", ["/v1", "/chat/completions", "/embeddings", "/responses"])
def test_a_client_without_v1_is_told_of_it(client: Client, path: str) -> None:
    for response in (client.get(path), client.post(path, {})):
        assert response.status_code == 404
        assert "use http://testserver/v1 as base URL" in response.json()["error"]["message"]


def test_a_client_without_v1_that_asks_for_models_is_told_of_it(client: Client) -> None:
    for headers in ({"Authorization": "Bearer sk_x"}, {"X-API-Key": "sk_x"}):
        assert client.get("/models", headers=headers).status_code == 404
    assert client.post("/models").status_code == 404


@pytest.mark.django_db
def test_people_get_a_page_of_models(client: Client) -> None:
    assert client.get("/models")["Location"] == "/login?next=/models"
