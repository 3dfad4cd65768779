"""Health, readiness and version."""

import time

import pytest
from django.test import Client

from metrics.memory.runtime import runtime
from routerdash import __version__
from tests.metrics.records import request
from tests.metrics.world import World

NOT_RESTORED = "figures are not restored from the database yet"


@pytest.fixture
def away(shown_world: World) -> World:
    """The database is unavailable, with two records waiting for it."""
    shown_world.follower.seed(shown_world.trackers.state, "db")
    shown_world.follower.database_id = "the database of this test"
    shown_world.gateway(request(), request())
    shown_world.follower.catch_up()
    shown_world.writer.backlog.error = "no route to host"
    return shown_world


@pytest.mark.parametrize("path", ["/health", "/healthz", "/livez"])
def test_liveness_with_the_missing_parts(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.json() == {"status": "degraded", "reasons": [NOT_RESTORED], "version": __version__}


@pytest.mark.parametrize("path", ["/ready", "/readyz"])
def test_not_ready_before_requests_can_be_served(client: Client, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()) == (503, {"ready": False, "reasons": [NOT_RESTORED]})


def test_healthy_with_all_parts(client: Client, shown_world: World) -> None:
    shown_world.follower.seed(shown_world.trackers.state, "db")
    assert client.get("/health").json() == {"status": "ok", "reasons": [], "version": __version__}


@pytest.mark.parametrize("path", ["/ready", "/readyz"])
def test_ready_without_the_database(client: Client, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(runtime.installation, "is_serving", lambda: True)
    assert client.get(path).json() == {"ready": True, "reasons": [NOT_RESTORED]}


def test_ready_if_healthy_and_serving(client: Client, shown_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.installation, "is_serving", lambda: True)
    shown_world.follower.seed(shown_world.trackers.state, "db")
    assert client.get("/ready").json() == {"ready": True, "reasons": []}


def test_an_unavailable_database_is_a_reason(client: Client, away: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.installation, "writer", away.writer)
    (reason,) = client.get("/health").json()["reasons"]
    assert reason.endswith("2 records wait for it")
    assert client.get("/ready").json()["reasons"] == [reason]


def test_a_database_that_is_behind_is_a_reason(client: Client, away: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.installation, "writer", away.writer)
    away.writer.backlog.error = None
    away.writer.backlog.busy_since = time.time() - 60
    assert client.get("/health").json()["reasons"] == ["the database is behind; 2 records wait for it"]


def test_a_journal_that_cannot_be_written_is_a_reason(
    client: Client, shown_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown_world.follower.seed(shown_world.trackers.state, "db")
    monkeypatch.setattr(runtime.installation, "unrecorded", lambda **which: 3)
    (reason,) = client.get("/health").json()["reasons"]
    assert reason.endswith("3 requests were served unrecorded")


def test_the_release_is_public(client: Client) -> None:
    assert client.get("/api/version").json() == {"version": __version__}


def test_a_wrong_key_is_ignored(client: Client) -> None:
    assert client.get("/api/version", headers={"X-API-Key": "sk_wrong"}).status_code == 200


@pytest.mark.parametrize("path", ["/v1", "/chat/completions", "/embeddings", "/responses"])
def test_a_client_without_v1_gets_a_hint(client: Client, path: str) -> None:
    for response in (client.get(path), client.post(path, {})):
        assert response.status_code == 404
        assert "use http://testserver/v1 as base URL" in response.json()["error"]["message"]


def test_a_client_without_v1_that_requests_models_gets_a_hint(client: Client) -> None:
    for headers in ({"Authorization": "Bearer sk_x"}, {"X-API-Key": "sk_x"}):
        assert client.get("/models", headers=headers).status_code == 404
    assert client.post("/models").status_code == 404


@pytest.mark.django_db
def test_browsers_get_the_page_of_models(client: Client) -> None:
    assert client.get("/models")["Location"] == "/login?next=/models"
