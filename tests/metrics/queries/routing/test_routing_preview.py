"""The routing preview makes the same decision as the gateways and gives a reason for each excluded endpoint."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import time_machine
from cryptography.fernet import Fernet
from django.conf import settings as django_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from access.models import INFERENCE, User
from gateway.base import request_kinds
from gateway.base.request_kinds import CHAT, EMBEDDINGS, MESSAGES, RERANK
from gateway.base.sealing import Sealer
from gateway.ipc.live_page import LivePage
from gateway.registry import schema
from gateway.registry.schema import EndpointFacts, Model, PublishedEndpoint
from gateway.registry.writer import RegistryWriter, contents_of
from gateway.routing import balancer
from gateway.routing.roster import Roster
from gateway.routing.set_aside import AsideNote
from gateway.upstream.pool import Sweeper
from metrics.queries.routing import routing_preview
from tests.access.people import Api, key_for, with_key
from tests.metrics.records import AT, NOW, A, B
from tests.metrics.world import fake_installation

pytestmark = pytest.mark.every_database

C = "cccccccc-0000-4000-8000-000000000009"
NAMES = {A: "a", B: "b", C: "c"}
ROUTE = "/api/route"


def endpoint(endpoint_id: str, model: Model | None = None, **fields: Any) -> PublishedEndpoint:
    given: dict[str, Any] = {"slot": 0, "base_url": "http://x.invalid", "kind": "vllm", "status": schema.ONLINE}
    models = (model or Model("tiny"),)
    name = NAMES.get(endpoint_id, endpoint_id)
    return PublishedEndpoint(id=endpoint_id, name=name, models=models, **{**given, **fields})


def routes(endpoints: Iterable[PublishedEndpoint], name: str) -> list[tuple[EndpointFacts, Model]]:
    """Return the endpoints with a model of this name, as the registry store finds them."""
    named: list[tuple[EndpointFacts, dict[str, Model], dict[str, Model]]] = [
        (one, *schema.names(one.models)) for one in endpoints
    ]
    exact = [(one, exact[name]) for one, exact, _ in named if name in exact]
    return exact or [(one, folded[name.casefold()]) for one, _, folded in named if name.casefold() in folded]


def preview(
    *endpoints: PublishedEndpoint,
    model: str = "tiny",
    kind: str = CHAT,
    load: dict[str, int] | None = None,
    due: dict[str, int] | None = None,
    aside: dict[str, AsideNote] | None = None,
) -> Any:
    candidates = routing_preview.candidates(routes(endpoints, model), kind, load or {}, due or {}, AT, aside=aside)
    return routing_preview.with_last_resort(candidates, lambda some: routing_preview.route_payload(model, kind, some))


def decided(*endpoints: PublishedEndpoint, **of: Any) -> tuple[str, str] | None:
    """Return the names of the chosen endpoints and the reason."""
    decision = preview(*endpoints, **of)["decision"]
    return decision and ("".join(NAMES[endpoint_id] for endpoint_id in decision["endpoint_ids"]), decision["reason"])


def excluded(*endpoints: PublishedEndpoint, **of: Any) -> list[str | None]:
    return [row["excluded"] for row in preview(*endpoints, **of)["endpoints"]]


# The decision


def test_a_single_candidate_is_chosen() -> None:
    assert decided(endpoint(A)) == ("a", "only")


def test_the_least_loaded_is_chosen() -> None:
    assert decided(endpoint(A), endpoint(B), load={A: 2, B: 1}) == ("b", "least")


def test_equal_candidates_have_the_same_chance() -> None:
    assert decided(endpoint(A), endpoint(B), endpoint(C), load={B: 1}) == ("ac", "drawn")


def test_if_all_are_full_the_request_would_wait() -> None:
    assert decided(endpoint(A, max_concurrency=2), load={A: 2}) == ("", "wait")


def test_without_candidates_there_is_no_decision() -> None:
    assert decided(endpoint(A, status=schema.OFFLINE)) is None


def test_if_all_breakers_are_open_the_first_due_is_tried() -> None:
    assert decided(endpoint(A), endpoint(B), due={A: int(AT) + 9, B: int(AT) + 3}) == ("b", "trial")


def test_a_breaker_past_its_time_lets_one_through() -> None:
    assert decided(endpoint(A), endpoint(B), due={A: int(AT) - 1}, load={B: 1}) == ("a", "least")


# Excluded endpoints


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"operator_state": "disabled"}, "disabled"),
        ({"operator_state": "draining"}, "draining"),
        ({"status": "offline"}, "offline"),
        ({"status": "error"}, "less_healthy"),
        ({"status": "pending"}, "less_healthy"),
        ({"max_concurrency": 1}, "full"),
        ({"model": Model("tiny", capabilities=("embeddings",))}, "incapable"),
        ({"operator_state": "disabled", "status": "offline"}, "disabled"),
    ],
)
def test_each_excluded_endpoint_has_a_reason(fields: dict[str, Any], reason: str) -> None:
    assert excluded(endpoint(A, **fields), endpoint(B), load={A: 1}) == [reason, None]


def test_an_open_breaker_excludes_while_others_work() -> None:
    assert excluded(endpoint(A), endpoint(B), due={A: int(AT) + 9}) == ["breaker_open", None]
    assert excluded(endpoint(A), due={A: int(AT) + 9}) == [None]


PAUSE = AsideNote(int(AT) + 60, "limited", ())


def test_a_paused_endpoint_gets_no_request() -> None:
    assert excluded(endpoint(A), endpoint(B), aside={A: PAUSE}, load={B: 5}) == ["paused", None]
    assert excluded(endpoint(A), aside={A: PAUSE}) == ["paused"]
    assert decided(endpoint(A), aside={A: PAUSE}) is None


def test_a_pause_that_has_ended_is_none() -> None:
    assert excluded(endpoint(A), aside={A: PAUSE._replace(paused_until=int(AT))}) == [None]


def test_an_endpoint_that_has_lacked_the_path_is_asked_last() -> None:
    lacks = {A: AsideNote(0, None, (RERANK,))}
    assert excluded(endpoint(A), endpoint(B), kind=RERANK, aside=lacks, load={B: 5}) == ["lacking", None]
    assert decided(endpoint(A), endpoint(B, status="offline"), kind=RERANK, aside=lacks) == ("a", "only")
    assert decided(endpoint(A), endpoint(B, max_concurrency=1), kind=RERANK, aside=lacks, load={B: 1}) == ("", "wait")
    assert excluded(endpoint(A), endpoint(B), kind=CHAT, aside=lacks) == [None, None]


def test_a_kind_that_is_translated_is_not_lacking() -> None:
    lacks = {A: AsideNote(0, None, (MESSAGES,))}
    assert excluded(endpoint(A), endpoint(B), kind=MESSAGES, aside=lacks) == [None, None]


def test_a_cloud_is_never_asked_for_what_its_provider_does_not_offer() -> None:
    assert excluded(endpoint(A, kind="openai"), endpoint(B), kind=RERANK, load={B: 5}) == ["lacking", None]
    assert excluded(endpoint(A, kind="openai"), kind=RERANK) == ["lacking"]
    assert decided(endpoint(A, kind="openai"), kind=RERANK) is None
    lacks = {B: AsideNote(0, None, (RERANK,))}
    assert excluded(endpoint(A, kind="openai"), endpoint(B), kind=RERANK, aside=lacks) == ["lacking", None]


def test_while_the_request_would_wait_each_endpoint_has_a_reason() -> None:
    reasons = excluded(endpoint(A, max_concurrency=1), endpoint(B), load={A: 1}, due={B: int(AT) + 9})
    assert reasons == ["full", "breaker_open"]


def test_endpoints_with_unknown_capabilities_are_candidates() -> None:
    chats = Model("tiny", capabilities=("chat",))
    assert [row["capable"] for row in preview(endpoint(A), endpoint(B, chats), kind=EMBEDDINGS)["endpoints"]] == [
        True, False,
    ]  # fmt: skip


def test_a_worse_tier_is_excluded_until_the_better_one_is_full() -> None:
    own, cloud = endpoint(A, max_concurrency=2), endpoint(B, tier=2)
    assert decided(own, cloud, load={A: 1}) == ("a", "only")
    assert excluded(own, cloud, load={A: 1}) == [None, "worse_tier"]
    assert decided(own, cloud, load={A: 2}) == ("b", "spilled")
    assert excluded(own, cloud, load={A: 2}) == ["full", None]
    assert excluded(endpoint(A, status="error"), cloud) == ["less_healthy", None]


def test_an_endpoint_is_shown_with_its_facts() -> None:
    payload = preview(
        endpoint(A, Model("tiny:7b", "org/tiny"), max_concurrency=4),
        model="ORG/tiny", load={A: 3}, due={A: int(AT) + 5},
    )  # fmt: skip
    assert payload["endpoints"] == [
        {
            "endpoint_id": A, "name": "a", "model": "tiny:7b", "status": "online", "operator_state": "enabled",
            "breaker": "open", "trial_due": "2026-03-10T12:00:35.000Z", "in_flight": 3, "max_concurrency": 4,
            "tier": 1, "capable": True, "excluded": None,
        }
    ]  # fmt: skip


# Names


def test_a_model_is_found_by_all_of_its_names() -> None:
    model = Model("llama3.3:70b", "meta/Llama", ("llama-70",))
    for name in ("llama3.3:70b", "meta/Llama", "META/llama", "Llama-70"):
        assert decided(endpoint(A, model), model=name) == ("a", "only")
    assert preview(endpoint(A, model), model="LLAMA3.3:70B")["endpoints"] == []


def test_the_exact_name_takes_precedence() -> None:
    written, folded = Model("x", aliases=("Tiny",)), Model("y", aliases=("tiny",))
    assert decided(endpoint(A, written), endpoint(B, folded), model="tiny") == ("b", "only")


# The same decision as in the gateways

SENTENCES = ("tiny", "Tiny", "TINY", "large")
MODELS = st.builds(
    Model,
    st.sampled_from(SENTENCES),
    st.none() | st.sampled_from(SENTENCES),
    st.lists(st.sampled_from(SENTENCES), max_size=2).map(tuple),
)


@pytest.fixture
def roster(tmp_path: Path) -> Iterator[Roster]:
    """A roster as in a gateway. Its loop never runs."""
    with closing(asyncio.new_event_loop()) as loop:
        sweeper = Sweeper(loop)
        page = LivePage(tmp_path / "live")
        yield Roster(tmp_path / "registry", page, page.claim_row(), Sealer([Fernet.generate_key()]), sweeper)
        sweeper.stop()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(MODELS, max_size=3), max_size=3), st.sampled_from((*SENTENCES, "tINY", "none")))
def test_a_model_is_found_by_its_names_as_they_are_declared(
    roster: Roster, tmp_path: Path, models: list[list[Model]], name: str
) -> None:
    endpoints = [
        msgspec.structs.replace(
            endpoint(endpoint_id), slot=slot, models=tuple({model.id: model for model in of}.values())
        )
        for slot, (endpoint_id, of) in enumerate(zip(NAMES, models, strict=False))
    ]
    writer = RegistryWriter(tmp_path / "registry", roster.page)
    with closing(writer):
        writer.rebuild("db", contents_of(endpoints, []))
    roster.refresh()
    previewed = [
        (candidate.id, candidate.model)
        for candidate in routing_preview.candidates(routes(endpoints, name), CHAT, {}, {}, AT)
    ]
    assert previewed == [(route.endpoint.id, route.model) for route in roster.routes(name)]


STATES = st.builds(
    endpoint,
    st.sampled_from((A, B, C)),
    status=st.sampled_from(("online", "online", "pending", "error", "offline")),
    operator_state=st.sampled_from(("enabled", "enabled", "enabled", "draining", "disabled")),
    max_concurrency=st.sampled_from((None, 0, 1, 2)),
)
LOADS = st.dictionaries(st.sampled_from((A, B, C)), st.integers(0, 3))
DUES = st.dictionaries(st.sampled_from((A, B, C)), st.sampled_from((int(AT) - 5, int(AT) + 2, int(AT) + 9)))


@given(st.lists(STATES, max_size=3, unique_by=lambda published: published.id), LOADS, DUES)
def test_the_decision_is_that_of_a_gateway(
    endpoints: list[PublishedEndpoint], load: dict[str, int], due: dict[str, int]
) -> None:
    candidates = routing_preview.candidates(routes(endpoints, "tiny"), CHAT, load, due, AT)
    payload = routing_preview.route_payload("tiny", CHAT, candidates)
    rng = random.Random(1)
    drawn = Counter(
        decision and decision.endpoint_id
        for decision in (
            balancer.pick(candidates, lambda candidate: candidate.in_flight, choose=rng.choice) for _ in range(40)
        )
    )
    chosen = payload["decision"] and set(payload["decision"]["endpoint_ids"])
    assert {endpoint_id for endpoint_id in drawn if endpoint_id} == (chosen or set())
    for row in payload["endpoints"]:
        assert (row["excluded"] is None) >= (row["endpoint_id"] in (chosen or ()))


# As JSON


@pytest.fixture
def _published(monkeypatch: pytest.MonkeyPatch) -> Any:
    config = replace(django_settings.ROUTERDASH, balancer="least_inflight")
    monkeypatch.setattr(django_settings, "ROUTERDASH", config)
    known = (endpoint(A), endpoint(B))
    fake_installation().routes = lambda name: routes(known, name)
    fake_installation().is_serving = lambda: True
    fake_installation().in_flight = lambda: {A: 1, B: 0}
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.mark.django_db
@pytest.mark.usefixtures("_published")
def test_running_requests_are_available_by_the_api(script: Api) -> None:
    payload = script.call("GET", f"{ROUTE}?model=tiny&kind=embeddings").json()
    assert (payload["model"], payload["kind"]) == ("tiny", "embeddings")
    assert payload["decision"] == {"endpoint_ids": [B], "reason": "least"}
    assert [row["name"] for row in payload["endpoints"]] == ["a", "b"]


@pytest.mark.django_db
@pytest.mark.usefixtures("_published")
@pytest.mark.parametrize("policy", ["least_inflight", "adaptive"])
def test_a_pause_and_a_missing_path_are_known_to_both_policies(
    script: Api, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setattr(django_settings, "ROUTERDASH", replace(django_settings.ROUTERDASH, balancer=policy))

    def route(**aside: AsideNote) -> tuple[list[str], list[str | None]]:
        fake_installation().aside = lambda: {{"a": A, "b": B}[name]: note for name, note in aside.items()}
        payload = script.call("GET", f"{ROUTE}?model=tiny&kind=rerank").json()
        decision = payload["decision"] or {"endpoint_ids": []}
        return decision["endpoint_ids"], [row["excluded"] for row in payload["endpoints"]]

    lacks = AsideNote(0, None, (RERANK,))
    assert route(b=PAUSE) == ([A], [None, "paused"])
    assert route(b=lacks) == ([A], [None, "lacking"])
    assert route(a=PAUSE, b=lacks) == ([B], ["paused", None])
    assert route(a=PAUSE, b=PAUSE) == ([], ["paused", "paused"])


@pytest.mark.django_db
@pytest.mark.usefixtures("_published")
@pytest.mark.parametrize("kind", [kind.name for kind in request_kinds.KINDS])
def test_every_kind_is_known(script: Api, kind: str) -> None:
    assert script.call("GET", f"{ROUTE}?model=tiny&kind={kind}").status_code == 200


@pytest.mark.django_db
@pytest.mark.usefixtures("_published")
@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("model=none", 404, "The model 'none' does not exist"),
        ("model=%20tiny", 404, "The model ' tiny' does not exist"),
        ("model=tiny&kind=telepathy", 400, 'There is no kind "telepathy"; choose one of chat_completions'),
        ("", 400, "model: This field is required."),
        ("model=", 400, "model: "),
        ("model=tiny&verbose=1", 400, "verbose: This parameter does not exist"),
    ],
)
def test_wrong_input_is_an_error_with_a_message(script: Api, query: str, status: int, words: str) -> None:
    response = script.call("GET", f"{ROUTE}?{query}")
    assert response.status_code == status
    assert words in response.json()["error"]


@pytest.mark.django_db
def test_without_a_snapshot_there_are_no_endpoints(script: Api) -> None:
    assert script.call("GET", f"{ROUTE}?model=tiny").status_code == 503


@pytest.mark.django_db
@pytest.mark.usefixtures("_published")
def test_reading_needs_a_permission(anybody: Api, as_viewer: Api, admin: User) -> None:
    weak = with_key(key_for(admin, INFERENCE))
    statuses = [api.call("GET", f"{ROUTE}?model=tiny").status_code for api in (anybody, weak, as_viewer)]
    assert statuses == [401, 403, 200]
