"""The playground: access, the API key under which it counts, and no way to obtain that key."""

import json
import re
import uuid
from typing import Any

import pytest
from django.test import Client

from access.directory import access
from access.models import INFERENCE, ApiKey, User
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from tests.access.people import Api, key_for, make_user, session_of, with_key
from tests.metrics.records import A, B
from tests.metrics.world import add_endpoint

pytestmark = pytest.mark.django_db

CHAT = "/api/playground/chat"
NOWHERE = "eeeeeeee-0000-4000-8000-000000000009"


@pytest.fixture
def endpoints(db: None) -> tuple[Endpoint, Endpoint]:
    return add_endpoint(A, "a"), add_endpoint(B, "b")


def start_session(api: Api, endpoint: str | None = None) -> Any:
    headers = {} if endpoint is None else {"X-RouterDash-Endpoint": endpoint}
    return api.post(CHAT, "", content_type="application/json", headers=headers)


def test_a_user_has_one_key_of_its_own(as_viewer: Api, viewer: User, settings: Any) -> None:
    first, second = start_session(as_viewer).json(), start_session(as_viewer).json()
    assert first == second
    key = ApiKey.objects.get()
    expected = {
        "api_key_id": str(key.pk),
        "api_key_hash": key.key_hash,
        "endpoint_id": None,
        "external": False,
        "owner_id": str(viewer.pk),
    }
    assert first == expected
    assert (key.name, key.created_by_id, key.permissions) == ("playground (vera)", viewer.pk, [INFERENCE])


def test_administrators_alone_may_use_external_endpoints(as_viewer: Api, as_admin: Api) -> None:
    assert [start_session(api).json()["external"] for api in (as_viewer, as_admin)] == [False, True]


def test_the_key_cannot_be_sent(as_viewer: Api) -> None:
    start_session(as_viewer)
    access.reload()
    key = ApiKey.objects.get()
    assert key.key_prefix is None
    assert access.key(key.key_hash) is not None  # gateways have a hash whose key is unknown to everyone
    assert with_key(key.key_hash).get("/api/endpoints").status_code == 401


def test_two_users_have_two_keys(as_viewer: Api, as_admin: Api) -> None:
    assert start_session(as_viewer).json()["api_key_id"] != start_session(as_admin).json()["api_key_id"]


def test_a_deleted_key_is_created_again(as_viewer: Api) -> None:
    before = start_session(as_viewer).json()
    ApiKey.objects.all().delete()
    after = start_session(as_viewer).json()
    assert after["api_key_id"] == before["api_key_id"]
    assert after["api_key_hash"] == ApiKey.objects.get().key_hash != before["api_key_hash"]


def test_a_users_key_with_the_same_name_stays(as_viewer: Api, viewer: User) -> None:
    key_for(viewer, INFERENCE, name="playground (vera)")
    start_session(as_viewer)
    own, made = ApiKey.objects.order_by("created_at")
    assert own.name == "playground (vera)"
    assert made.name == f"playground (vera) {made.pk}"


def test_known_keys_need_no_query_in_control(
    as_viewer: Api, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    """Control looks keys up in the registry store (routerdash.publication)."""
    key = access.key(start_session(as_viewer).json()["api_key_hash"])
    monkeypatch.setattr(access, "find_key", lambda hashed: key if key and key.hash == hashed else None)
    with django_assert_num_queries(0):
        start_session(as_viewer)


def test_one_endpoint(as_viewer: Api, endpoints: tuple[Endpoint, Endpoint]) -> None:
    assert start_session(as_viewer, A).json()["endpoint_id"] == A


@pytest.mark.parametrize("endpoint", ["", "nonsense", NOWHERE])
def test_an_unknown_endpoint(as_viewer: Api, endpoints: object, endpoint: str) -> None:
    response = start_session(as_viewer, endpoint)
    assert response.status_code == 400
    assert "X-RouterDash-Endpoint" in response.json()["error"]


def test_the_playground_needs_a_session(anybody: Api, admin: User) -> None:
    assert start_session(anybody).status_code == 401
    assert start_session(with_key(key_for(admin, INFERENCE))).status_code == 401


def test_the_playground_needs_a_csrf_token(viewer: User) -> None:
    assert start_session(session_of(viewer, enforce_csrf_checks=True)).status_code == 403
    assert ApiKey.objects.count() == 0


def test_the_playground_needs_a_changed_password() -> None:
    response = start_session(session_of(make_user("nora", must_change_password=True)))
    assert (response.status_code, response.json()) == (403, {"error": "password_change_required"})


# The page


@pytest.fixture
def models(endpoints: tuple[Endpoint, Endpoint]) -> None:
    a, b = endpoints
    Endpoint.objects.filter(pk=B).update(status="online")
    for endpoint, name, able in (
        (a, "tiny", ["chat"]),
        (b, "tiny", ["chat"]),
        (a, "ears", ["audio_transcription"]),
        (a, "mystery", []),
    ):
        EndpointModel(endpoint=endpoint, model_id=name, capabilities=able).save(force_insert=True)
    registry.reload()


def offered(client: Client, what: str = "models") -> Any:
    html = client.get("/playground").content.decode()
    match = re.search(rf'<script id="{what}" type="application/json">(.*?)</script>', html)
    return match and json.loads(match[1])


def test_chat_models_are_offered(as_viewer: Api, models: None) -> None:
    assert [model["name"] for model in offered(as_viewer)] == ["mystery", "tiny"]


def test_endpoints_that_respond_come_first(as_viewer: Api, models: None) -> None:
    assert [model["endpoints"] for model in offered(as_viewer)] == [[1], [0, 1]]
    assert offered(as_viewer, "endpoints") == [
        {"id": B, "name": "b", "online": True},
        {"id": A, "name": "a", "online": False},
    ]


def test_the_page_needs_no_database(as_viewer: Api, models: None, django_assert_num_queries: Any) -> None:
    as_viewer.get("/playground")
    with django_assert_num_queries(0):
        as_viewer.get("/playground")


def test_without_a_model_the_page_shows_a_message(as_viewer: Api, endpoints: object) -> None:
    registry.reload()
    assert b"No endpoint offers a chat model." in as_viewer.get("/playground").content


def test_the_page_needs_a_login(anybody: Api) -> None:
    assert anybody.get("/playground")["Location"] == "/login?next=/playground"


def test_the_page_contains_no_key(as_viewer: Api, models: None) -> None:
    start_session(as_viewer)
    html = as_viewer.get("/playground").content.decode()
    key = ApiKey.objects.get()
    assert key.key_hash not in html
    assert uuid.UUID(str(key.pk)).hex not in html.replace("-", "")
