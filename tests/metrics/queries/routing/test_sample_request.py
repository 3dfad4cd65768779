"""The preview of a request's body, and of the next request of a conversation: access, errors, and what is expected."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from access.models import INFERENCE, READ_ENDPOINTS, ApiKey, User
from gateway.base.config import load
from gateway.dialects.prompt_fields import decode_prompt
from gateway.ipc.live_page import LivePage
from gateway.registry.schema import EngineState, Lengths, PublishedEndpoint, Speeds
from gateway.routing.adaptive import UNKNOWN_LOAD_SECONDS
from gateway.routing.affinity.affinity import Affinity, open_affinity
from gateway.routing.loaded_models import HESITATION
from tests.access.people import Api, key_for, with_key
from tests.metrics.queries.routing.test_routing_preview import endpoint, routes
from tests.metrics.records import AT, KEY, A, B, request
from tests.metrics.world import World, fake_installation

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("endpoints", "frozen_clock")]

ROUTE = "/api/route"
EQUAL = Speeds(setup=0.01, read=0.001, write=0.01, share=0.001, completions=50, kept=(1.0, 0.5, 0.0, 0.0))
TEXT = "x" * 3000


def body(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text} for text in texts], **fields}


@pytest.fixture(autouse=True)
def installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Affinity:
    """Two equal endpoints. Return the affinity that the preview reads."""
    config = load({"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_BALANCER": "adaptive"})
    monkeypatch.setattr(settings, "ROUTERDASH", config)
    both = (endpoint(A, slot=0), endpoint(B, slot=1))
    state = fake_installation()
    state.is_serving = lambda: True
    state.routes = lambda model: routes(both, model)
    state.speeds = lambda endpoint_id, model_id, kind: EQUAL
    lengths = {None: Lengths(100.0, 4.0), KEY: Lengths(20.0, 3.0)}
    state.lengths = lambda model, key: lengths.get(key, lengths[None])
    page = LivePage(tmp_path / "live")
    affinity = open_affinity(config, page, lambda: {published.id: Placed(published) for published in both})
    assert affinity is not None
    state.affinity = lambda: affinity
    return affinity


class Placed:
    """An endpoint as a gateway has it."""

    def __init__(self, published: PublishedEndpoint) -> None:
        self.id, self.facts = published.id, published


def sent(affinity: Affinity, published: str, given: dict[str, Any], key: str | None = None) -> None:
    """Note that a body was sent to an endpoint, as a gateway does."""
    text = json.dumps(given).encode()
    prefix = affinity.read(decode_prompt(text), None, key, "tiny", len(text))
    assert prefix is not None
    affinity.store(prefix, Placed(endpoint(published, slot=0 if published == A else 1)))


def post(api: Api, given: Any, query: str = "", status: int = 200) -> Any:
    response = api.call("POST", ROUTE + query, given)
    assert response.status_code == status, response.content
    return response.json()


def kept(preview: Any) -> dict[str, int]:
    return {row["endpoint_id"]: row["kept_tokens"] for row in preview["endpoints"]}


def test_a_body_goes_where_its_beginning_was_sent(as_admin: Api, installation: Affinity) -> None:
    sent(installation, B, body(TEXT))
    preview = post(as_admin, body(TEXT, "more"))
    assert preview["decision"] == {"endpoint_ids": [B], "reason": "kept_prefix"}
    assert kept(preview)[A] == 0
    assert 500 < kept(preview)[B] < preview["demand"]["prompt_tokens"]
    costs = {row["endpoint_id"]: row["cost_ms"] for row in preview["endpoints"]}
    assert costs[A] - costs[B] == pytest.approx(kept(preview)[B] * EQUAL.read * 1000, abs=1)


def test_another_beginning_is_kept_nowhere(as_admin: Api, installation: Affinity) -> None:
    sent(installation, B, body(TEXT))
    assert set(kept(post(as_admin, body("y" * 3000))).values()) == {0}


def test_prompts_of_another_key_are_not_found(admin: User, installation: Affinity) -> None:
    mine = with_key(key_for(admin, READ_ENDPOINTS, name="mine"))
    own = str(ApiKey.objects.get(name="mine").pk)
    sent(installation, A, body(TEXT), KEY)
    assert set(kept(post(mine, body(TEXT, "more"))).values()) == {0}
    assert "api_key_id" in post(mine, body(TEXT), f"?api_key_id={KEY}", 403)["error"]
    sent(installation, B, body(TEXT), own)
    assert kept(post(mine, body(TEXT, "more"), f"?api_key_id={own}"))[B] > 0


def test_an_administrator_names_the_key(as_admin: Api, installation: Affinity) -> None:
    sent(installation, A, body(TEXT), KEY)
    preview = post(as_admin, body(TEXT, "more"), f"?api_key_id={KEY}")
    assert preview["decision"]["endpoint_ids"] == [A]
    assert preview["demand"]["output_tokens"] == 20
    assert preview["demand"]["prompt_tokens"] == len(json.dumps(body(TEXT, "more"))) // 3


@pytest.mark.parametrize(("fields", "output"), [({}, 100), ({"max_tokens": 7}, 7), ({"max_tokens": 5000}, 100)])
def test_the_demand_is_that_of_the_body(as_admin: Api, fields: dict[str, Any], output: int) -> None:
    given = body("short", **fields)
    demand = post(as_admin, given)["demand"]
    assert demand == {"prompt_tokens": len(json.dumps(given)) // 4, "output_tokens": output}


def test_a_big_body_is_read_too(as_admin: Api, installation: Affinity) -> None:
    big = body("z" * 300_000)
    sent(installation, B, big)
    assert kept(post(as_admin, {**big, "max_tokens": 9}))[B] > 20_000


def test_a_session_in_a_header_is_found(as_admin: Api, installation: Affinity) -> None:
    fields = decode_prompt(json.dumps(body("short")).encode())
    prefix = installation.read(fields, b"s-1", None, "tiny", 20)
    assert prefix is not None
    installation.store(prefix, Placed(endpoint(B, slot=1)))
    response = as_admin.generic(
        "POST", ROUTE, json.dumps(body("short")), content_type="application/json", headers={"x-session-id": "s-1"}
    )
    kept_tokens = kept(response.json())
    assert kept_tokens[B] > kept_tokens[A] == 0


@pytest.mark.parametrize(
    ("given", "query", "words"),
    [
        ([], "", "object"),
        ({"messages": []}, "", "model"),
        (body("x"), "?kind=poetry", "poetry"),
        (body("x"), "?model=tiny", "model"),
    ],
)
def test_a_wrong_body_or_parameter_is_explained(as_admin: Api, given: Any, query: str, words: str) -> None:
    error = post(as_admin, given, query, 400)
    assert words in json.dumps(error)


def test_only_administrators_and_keys_that_read_may_send_a_body(admin: User, as_viewer: Api) -> None:
    assert Api().call("POST", ROUTE, body("x")).status_code == 401
    post(as_viewer, body("x"), status=403)
    post(with_key(key_for(admin, INFERENCE, name="other")), body("x"), status=403)


# The next request of a conversation

CONVERSATION = "00000000000000a1"


def test_the_next_request_is_expected_at_its_endpoint(as_viewer: Api, shown_world: World) -> None:
    for ago, where, tokens in ((30, A, 300), (20, B, 500), (10, A, 900)):
        shown_world.gateway(
            request(ago=ago, endpoint=where, conversation=CONVERSATION, input_tokens=tokens, output_tokens=50)
        )
    shown_world.write()
    preview = as_viewer.call("GET", f"{ROUTE}?model=tiny&conversation={CONVERSATION}").json()
    assert kept(preview) == {A: 950, B: 550}
    assert preview["demand"]["prompt_tokens"] == 950
    assert preview["decision"] == {"endpoint_ids": [A], "reason": "kept_prefix"}
    longer = as_viewer.call("GET", f"{ROUTE}?model=tiny&conversation={CONVERSATION}&prompt_tokens=600").json()
    assert kept(longer) == {A: 600, B: 550}


def test_a_wrong_conversation_is_explained(as_viewer: Api, shown_world: World) -> None:
    shown_world.gateway(request(conversation=CONVERSATION, model="large"))
    shown_world.write()
    for key, status in ((CONVERSATION, 400), ("0" * 16, 404), ("x", 400)):
        assert as_viewer.call("GET", f"{ROUTE}?model=tiny&conversation={key}").status_code == status


# Models in memory


def test_an_endpoint_that_must_load_the_model_costs_more(as_viewer: Api) -> None:
    engines = {A: EngineState(AT, ("other",)), B: EngineState(AT, ("tiny",))}
    fake_installation().engine_state = engines.__getitem__
    preview = as_viewer.call("GET", f"{ROUTE}?model=tiny").json()
    assert preview["decision"] == {"endpoint_ids": [B], "reason": "fastest"}
    cold = {row["endpoint_id"]: row["cost_parts"]["cold_ms"] for row in preview["endpoints"]}
    assert cold == {A: 1000 * UNKNOWN_LOAD_SECONDS * HESITATION, B: 0.0}
