"""The playground: who may, under which key it counts, and that no key can be had of it."""

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


def ask(api: Api, endpoint: str | None = None) -> Any:
    headers = {} if endpoint is None else {"X-RouterDash-Endpoint": endpoint}
    return api.post(CHAT, "", content_type="application/json", headers=headers)


def test_a_user_has_one_key_of_its_own(as_viewer: Api, viewer: User, settings: Any) -> None:
    first, second = ask(as_viewer).json(), ask(as_viewer).json()
    assert first == second
    key = ApiKey.objects.get()
    assert first == {"api_key_id": str(key.pk), "endpoint_id": None}
    assert (key.name, key.created_by_id, key.permissions) == ("playground (vera)", viewer.pk, [INFERENCE])


def test_nobody_can_send_it(as_viewer: Api) -> None:
    ask(as_viewer)
    access.reload()
    key = ApiKey.objects.get()
    assert key.key_prefix is None
    assert access.key(key.key_hash) is not None  # gateways know a hash of which nobody knows what it is of
    assert with_key(key.key_hash).get("/api/endpoints").status_code == 401


def test_two_users_have_two(as_viewer: Api, as_admin: Api) -> None:
    assert ask(as_viewer).json()["api_key_id"] != ask(as_admin).json()["api_key_id"]


def test_a_deleted_one_is_made_again(as_viewer: Api) -> None:
    before = ask(as_viewer).json()
    ApiKey.objects.all().delete()
    access.reload()
    assert ask(as_viewer).json() == before
    assert ApiKey.objects.count() == 1


def test_a_key_that_the_user_called_so_stays(as_viewer: Api, viewer: User) -> None:
    key_for(viewer, INFERENCE, name="playground (vera)")
    ask(as_viewer)
    own, made = ApiKey.objects.order_by("created_at")
    assert own.name == "playground (vera)"
    assert made.name == f"playground (vera) {made.pk}"


def test_known_keys_cost_no_query(as_viewer: Api, django_assert_num_queries: Any) -> None:
    ask(as_viewer)
    access.reload()
    with django_assert_num_queries(0):
        ask(as_viewer)


def test_one_endpoint(as_viewer: Api, endpoints: tuple[Endpoint, Endpoint]) -> None:
    assert ask(as_viewer, A).json()["endpoint_id"] == A


@pytest.mark.parametrize("endpoint", ["", "nonsense", NOWHERE])
def test_an_endpoint_that_is_none(as_viewer: Api, endpoints: object, endpoint: str) -> None:
    response = ask(as_viewer, endpoint)
    assert response.status_code == 400
    assert "X-RouterDash-Endpoint" in response.json()["error"]


def test_it_takes_a_session(anybody: Api, admin: User) -> None:
    assert ask(anybody).status_code == 401
    assert ask(with_key(key_for(admin, INFERENCE))).status_code == 401


def test_it_takes_the_pages_token(viewer: User) -> None:
    assert ask(session_of(viewer, enforce_csrf_checks=True)).status_code == 403
    assert ApiKey.objects.count() == 0


def test_it_takes_a_password_of_ones_own() -> None:
    response = ask(session_of(make_user("nora", must_change_password=True)))
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
    found = re.search(rf'<script id="{what}" type="application/json">(.*?)</script>', html)
    return found and json.loads(found[1])


def test_it_offers_models_that_chat(as_viewer: Api, models: None) -> None:
    assert [it["name"] for it in offered(as_viewer)] == ["mystery", "tiny"]


def test_endpoints_that_answer_come_first(as_viewer: Api, models: None) -> None:
    assert [it["endpoints"] for it in offered(as_viewer)] == [[1], [0, 1]]
    assert offered(as_viewer, "endpoints") == [
        {"id": B, "name": "b", "online": True},
        {"id": A, "name": "a", "online": False},
    ]


def test_it_asks_no_database(as_viewer: Api, models: None, django_assert_num_queries: Any) -> None:
    as_viewer.get("/playground")
    with django_assert_num_queries(0):
        as_viewer.get("/playground")


def test_without_a_model_it_says_so(as_viewer: Api, endpoints: object) -> None:
    registry.reload()
    assert b"No endpoint has a model that chats." in as_viewer.get("/playground").content


def test_it_is_for_people_who_logged_in(anybody: Api) -> None:
    assert anybody.get("/playground")["Location"] == "/login?next=/playground"


def test_the_page_holds_no_key(as_viewer: Api, models: None) -> None:
    ask(as_viewer)
    html = as_viewer.get("/playground").content.decode()
    key = ApiKey.objects.get()
    assert key.key_hash not in html
    assert uuid.UUID(str(key.pk)).hex not in html.replace("-", "")
