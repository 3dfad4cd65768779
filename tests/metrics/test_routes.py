"""Where a request would go: as gateways find and decide, with a reason for each endpoint that is not in question."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import time_machine
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from access.models import INFERENCE, User
from gateway import balancer, kinds, snapshot
from gateway.kinds import CHAT, EMBEDDINGS
from gateway.livepage import LivePage
from gateway.roster import Roster
from gateway.sealing import Sealer
from gateway.snapshot import Endpoint, Model, Snapshot
from gateway.upstream import Sweeper
from metrics import routes
from metrics import teller as teller_module
from tests.access.people import Api, key_for, with_key
from tests.metrics.records import AT, NOW, A, B

C = "cccccccc-0000-4000-8000-000000000009"
NAMES = {A: "a", B: "b", C: "c"}
ROUTE = "/api/route"


def endpoint(endpoint_id: str, model: Model | None = None, **fields: Any) -> Endpoint:
    given: dict[str, Any] = {"slot": 0, "base_url": "http://x.invalid", "kind": "vllm", "status": snapshot.ONLINE}
    models = (model or Model("tiny"),)
    return Endpoint(id=endpoint_id, name=NAMES.get(endpoint_id, endpoint_id), models=models, **{**given, **fields})


def told(
    *endpoints: Endpoint,
    model: str = "tiny",
    kind: str = CHAT,
    load: dict[str, int] | None = None,
    due: dict[str, int] | None = None,
) -> Any:
    known = Snapshot(version=1, database_id="db", endpoints=endpoints)
    return routes.told(model, kind, routes.candidates(known, model, kind, load or {}, due or {}, AT))


def decided(*endpoints: Endpoint, **of: Any) -> tuple[str, str] | None:
    """The names of where it would go, and why."""
    decision = told(*endpoints, **of)["decision"]
    return decision and ("".join(NAMES[it] for it in decision["endpoint_ids"]), decision["reason"])


def excluded(*endpoints: Endpoint, **of: Any) -> list[str | None]:
    return [row["excluded"] for row in told(*endpoints, **of)["endpoints"]]


# The decision


def test_the_only_one_is_taken() -> None:
    assert decided(endpoint(A)) == ("a", "only")


def test_the_least_loaded_is_taken() -> None:
    assert decided(endpoint(A), endpoint(B), load={A: 2, B: 1}) == ("b", "least")


def test_equals_have_the_same_chance() -> None:
    assert decided(endpoint(A), endpoint(B), endpoint(C), load={B: 1}) == ("ac", "drawn")


def test_where_all_are_full_it_would_wait() -> None:
    assert decided(endpoint(A, max_concurrency=2), load={A: 2}) == ("", "wait")


def test_where_none_can_be_asked_there_is_no_decision() -> None:
    assert decided(endpoint(A, status=snapshot.OFFLINE)) is None


def test_where_all_breakers_are_open_the_first_due_is_tried() -> None:
    assert decided(endpoint(A), endpoint(B), due={A: int(AT) + 9, B: int(AT) + 3}) == ("b", "trial")


def test_a_breaker_past_its_time_lets_one_through() -> None:
    assert decided(endpoint(A), endpoint(B), due={A: int(AT) - 1}, load={B: 1}) == ("a", "least")


# Who is not in question


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
def test_each_has_its_reason(fields: dict[str, Any], reason: str) -> None:
    assert excluded(endpoint(A, **fields), endpoint(B), load={A: 1}) == [reason, None]


def test_an_open_breaker_is_a_reason_while_others_work() -> None:
    assert excluded(endpoint(A), endpoint(B), due={A: int(AT) + 9}) == ["breaker_open", None]
    assert excluded(endpoint(A), due={A: int(AT) + 9}) == [None]


def test_while_it_would_wait_each_says_why_it_is_not_asked() -> None:
    found = excluded(endpoint(A, max_concurrency=1), endpoint(B), load={A: 1}, due={B: int(AT) + 9})
    assert found == ["full", "breaker_open"]


def test_what_is_not_known_to_be_impossible_may_be_asked() -> None:
    chats = Model("tiny", capabilities=("chat",))
    assert [row["capable"] for row in told(endpoint(A), endpoint(B, chats), kind=EMBEDDINGS)["endpoints"]] == [
        True, False,
    ]  # fmt: skip


def test_an_endpoint_is_told_with_its_facts() -> None:
    found = told(
        endpoint(A, Model("tiny:7b", "org/tiny"), max_concurrency=4),
        model="ORG/tiny", load={A: 3}, due={A: int(AT) + 5},
    )  # fmt: skip
    assert found["endpoints"] == [
        {
            "endpoint_id": A, "name": "a", "model": "tiny:7b", "status": "online", "operator_state": "enabled",
            "breaker": "open", "trial_due": "2026-03-10T12:00:35.000Z", "in_flight": 3, "max_concurrency": 4,
            "capable": True, "excluded": None,
        }
    ]  # fmt: skip


# Names


def test_a_model_is_found_by_all_of_its_names() -> None:
    model = Model("llama3.3:70b", "meta/Llama", ("llama-70",))
    for name in ("llama3.3:70b", "meta/Llama", "META/llama", "Llama-70"):
        assert decided(endpoint(A, model), model=name) == ("a", "only")
    assert told(endpoint(A, model), model="LLAMA3.3:70B")["endpoints"] == []


def test_a_name_as_it_is_written_goes_first() -> None:
    written, folded = Model("x", aliases=("Tiny",)), Model("y", aliases=("tiny",))
    assert decided(endpoint(A, written), endpoint(B, folded), model="tiny") == ("b", "only")


# As gateways find and decide

WORDS = ("tiny", "Tiny", "TINY", "large")
MODELS = st.builds(
    Model,
    st.sampled_from(WORDS),
    st.none() | st.sampled_from(WORDS),
    st.lists(st.sampled_from(WORDS), max_size=2).map(tuple),
)


@pytest.fixture
def roster(tmp_path: Path) -> Iterator[Roster]:
    """A gateway's own. Its loop never runs."""
    with closing(asyncio.new_event_loop()) as loop:
        sweeper = Sweeper(loop)
        yield Roster(tmp_path / "snapshot", LivePage(tmp_path / "live"), Sealer([Fernet.generate_key()]), sweeper)
        sweeper.stop()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(MODELS, max_size=3), max_size=3), st.sampled_from((*WORDS, "tINY", "none")))
def test_a_model_is_found_as_gateways_find_it(roster: Roster, models: list[list[Model]], name: str) -> None:
    endpoints = (msgspec.structs.replace(endpoint(it), models=tuple(of)) for it, of in zip(NAMES, models, strict=False))
    known = Snapshot(version=roster.page.version + 1, database_id="db", endpoints=tuple(endpoints))
    snapshot.save(roster.path, known)
    roster.page.version = known.version
    roster.refresh()
    found = [(it.id, it.model) for it in routes.candidates(known, name, CHAT, {}, {}, AT)]
    assert found == [(it.endpoint.id, it.model) for it in roster.routes(name)]


STATES = st.builds(
    endpoint,
    st.sampled_from((A, B, C)),
    status=st.sampled_from(("online", "online", "pending", "error", "offline")),
    operator_state=st.sampled_from(("enabled", "enabled", "enabled", "draining", "disabled")),
    max_concurrency=st.sampled_from((None, 0, 1, 2)),
)
LOADS = st.dictionaries(st.sampled_from((A, B, C)), st.integers(0, 3))
DUES = st.dictionaries(st.sampled_from((A, B, C)), st.sampled_from((int(AT) - 5, int(AT) + 2, int(AT) + 9)))


@given(st.lists(STATES, max_size=3, unique_by=lambda it: it.id), LOADS, DUES)
def test_it_is_decided_as_a_gateway_would(endpoints: list[Endpoint], load: dict[str, int], due: dict[str, int]) -> None:
    known = Snapshot(version=1, database_id="db", endpoints=tuple(endpoints))
    candidates = routes.candidates(known, "tiny", CHAT, load, due, AT)
    found = routes.told("tiny", CHAT, candidates)
    rng = random.Random(1)
    drawn = Counter(
        decision and decision.endpoint_id
        for decision in (balancer.pick(candidates, lambda it: it.in_flight, choose=rng.choice) for _ in range(40))
    )
    chosen = found["decision"] and set(found["decision"]["endpoint_ids"])
    assert {it for it in drawn if it} == (chosen or set())
    for row in found["endpoints"]:
        assert (row["excluded"] is None) >= (row["endpoint_id"] in (chosen or ()))


# As JSON


@pytest.fixture
def _published() -> Any:
    known = Snapshot(version=1, database_id="db", endpoints=(endpoint(A), endpoint(B)))
    teller_module.surroundings.snapshot = lambda: known
    teller_module.surroundings.in_flight = lambda: {A: 1, B: 0}
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.mark.django_db
@pytest.mark.usefixtures("_published")
def test_it_is_told_to_who_asks(script: Api) -> None:
    found = script.call("GET", f"{ROUTE}?model=tiny&kind=embeddings").json()
    assert (found["model"], found["kind"]) == ("tiny", "embeddings")
    assert found["decision"] == {"endpoint_ids": [B], "reason": "least"}
    assert [row["name"] for row in found["endpoints"]] == ["a", "b"]


@pytest.mark.django_db
@pytest.mark.usefixtures("_published")
@pytest.mark.parametrize("kind", [kind.name for kind in kinds.KINDS])
def test_every_kind_is_known(script: Api, kind: str) -> None:
    assert script.call("GET", f"{ROUTE}?model=tiny&kind={kind}").status_code == 200


@pytest.mark.django_db
@pytest.mark.usefixtures("_published")
@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("model=none", 404, "The model 'none' does not exist"),
        ("model=%20tiny", 404, "The model ' tiny' does not exist"),
        ("model=tiny&kind=telepathy", 400, 'There is no kind "telepathy"; known are chat_completions'),
        ("", 400, "model: This field is required."),
        ("model=", 400, "model: "),
        ("model=tiny&verbose=1", 400, "verbose: There is no such parameter"),
    ],
)
def test_wrong_input_is_an_error_in_words(script: Api, query: str, status: int, words: str) -> None:
    answer = script.call("GET", f"{ROUTE}?{query}")
    assert answer.status_code == status
    assert words in answer.json()["error"]


@pytest.mark.django_db
def test_before_anything_was_published_there_is_nowhere_to_go(script: Api) -> None:
    assert script.call("GET", f"{ROUTE}?model=tiny").status_code == 503


@pytest.mark.django_db
@pytest.mark.usefixtures("_published")
def test_who_may_read(anybody: Api, as_viewer: Api, admin: User) -> None:
    weak = with_key(key_for(admin, INFERENCE))
    found = [api.call("GET", f"{ROUTE}?model=tiny").status_code for api in (anybody, weak, as_viewer)]
    assert found == [401, 403, 200]
