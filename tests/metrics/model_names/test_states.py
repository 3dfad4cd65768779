"""What model names lead to now, on the page, in the API, and among the items that need attention."""

from typing import Any

import msgspec
import pytest

from endpoints.model_names.name_cache import model_names, read_names
from endpoints.model_names.tables import NamedModel
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway.routing.set_aside import AsideNote
from metrics.model_names import states
from metrics.queries.figures import Moment
from tests.access.people import Api
from tests.endpoints.model_names.made import make_name
from tests.markup import one_line
from tests.metrics.records import A, B, attempt, request
from tests.metrics.world import World, add_endpoint, fake_installation

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]


@pytest.fixture
def served(shown_world: World) -> World:
    """`tiny` at an online endpoint, `big` at an offline one."""
    for endpoint_id, name, status, model in ((A, "a", "online", "tiny"), (B, "b", "offline", "big")):
        made = add_endpoint(endpoint_id, name, status=status)
        EndpointModel(endpoint=made, model_id=model).save(force_insert=True)
    registry.reload()
    return shown_world


def state_of(name: NamedModel) -> states.NameStatePayload:
    return states.NameView.of(Moment.now()).state(read_names()[str(name.pk)])


def targets(name: NamedModel) -> list[list[tuple[str, str]]]:
    return [[(target["model"], target["state"]) for target in step["targets"]] for step in state_of(name)["steps"]]


def test_the_first_step_with_an_available_target_serves(served: World) -> None:
    name = make_name("fast", "big lost", "tiny", "tiny")
    assert targets(name) == [
        [("big", "unavailable"), ("lost", "not_offered")],
        [("tiny", "available")],
        [("tiny", "available")],
    ]
    state = state_of(name)
    assert (state["serving_step"], [step["serves"] for step in state["steps"]]) == (2, [False, True, False])


@pytest.mark.parametrize(("until", "state"), [(2_000_000_000, "unavailable"), (0, "available")])
def test_a_paused_endpoint_serves_no_step(served: World, until: int, state: str) -> None:
    note = AsideNote(until, "limited" if until else None, ("rerank",))
    fake_installation().aside = lambda: {A: note}
    assert targets(make_name("fast", "tiny")) == [[("tiny", state)]]


def test_shares_follow_the_weights(served: World) -> None:
    (step,) = state_of(make_name("fast", "tiny=70 big=20 lost=10"))["steps"]
    assert [target["share"] for target in step["targets"]] == [0.7, 0.2, 0.1]


def test_a_target_leads_through_another_name(served: World) -> None:
    inner = make_name("inner", "tiny")
    (target,) = state_of(make_name("outer", "inner"))["steps"][0]["targets"]
    assert (target["leads_to"], target["state"], target["endpoints_available"]) == (str(inner.pk), "available", 1)


def test_a_name_that_leads_to_the_model_of_its_id(served: World) -> None:
    state = state_of(make_name("tiny", "tiny"))
    assert (state["hidden_model"], state["serving_step"]) == ("tiny", 1)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"endpoint_id": A}, "available"),
        ({"endpoint_id": B}, "not_offered"),
        ({"endpoint_id": "dddddddd-0000-4000-8000-000000000004"}, "endpoint_deleted"),
        ({"tag": "lab"}, "available"),
        ({"tag": "cloud"}, "not_offered"),
    ],
)
def test_a_target_at_an_endpoint_or_tag(served: World, fields: dict[str, Any], state: str) -> None:
    Endpoint.objects.get(pk=A).set_options(tags=["lab"])
    registry.reload()
    name = make_name("fast", "tiny")
    name.targets.update(**fields)
    assert targets(name) == [[("tiny", state)]]


@pytest.mark.parametrize(("external", "state", "available"), [(False, "external", 0), (True, "available", 1)])
def test_external_endpoints_serve_only_names_that_may_use_them(
    served: World, as_viewer: Api, external: bool, state: str, available: int
) -> None:
    Endpoint.objects.get(pk=A).set_options(external=True)
    registry.reload()
    name = make_name("fast", "tiny", external=external)
    shown = state_of(name)
    (target,) = shown["steps"][0]["targets"]
    assert (target["state"], target["endpoints"], target["endpoints_available"]) == (state, 1, available)
    assert shown["serving_step"] == (1 if external else None)
    page = one_line(as_viewer.get(f"/model-names/{name.pk}").content.decode())
    assert ("which the name may not use" in page) is not external


@pytest.mark.parametrize(("outer", "inner"), [(False, True), (True, False), (True, True)])
def test_every_name_on_the_way_must_allow_external_endpoints(served: World, outer: bool, inner: bool) -> None:
    Endpoint.objects.get(pk=A).set_options(external=True)
    registry.reload()
    make_name("inner", "tiny", external=inner)
    expected = "available" if outer and inner else "external"
    assert targets(make_name("outer", "inner", external=outer)) == [[("inner", expected)]]


def test_an_own_endpoint_beside_an_external_one_serves(served: World) -> None:
    made = add_endpoint("cccccccc-0000-4000-8000-000000000003", "c", status="online")
    EndpointModel(endpoint=made, model_id="tiny").save(force_insert=True)
    made.set_options(external=True)
    registry.reload()
    (target,) = state_of(make_name("fast", "tiny"))["steps"][0]["targets"]
    assert (target["state"], target["endpoints"], target["endpoints_available"]) == ("available", 2, 1)


def test_a_pattern_wins_with_the_longest_literal(served: World) -> None:
    for name in ("*", "claude-*", "claude-3*", "claude-x"):
        make_name(name, "tiny")
    make_name("claude-30", "tiny", enabled=False)
    names = [model_names.of_gateways().find(requested) for requested in ("claude-x", "claude-30", "claude-y", "gpt")]
    assert [name and name.name for name in names] == ["claude-x", "claude-3*", "claude-*", "*"]


def test_the_state_by_api(served: World, as_viewer: Api) -> None:
    name = make_name("fast", "lost", "tiny")
    assert as_viewer.call("GET", f"/api/model-names/{name.pk}/state").json() == state_of(name)
    assert as_viewer.call("GET", f"/api/model-names/{A}/state").status_code == 404


# Attention


def items(api: Api) -> list[tuple[str, str, str]]:
    listed = api.call("GET", "/api/dashboard/attention").json()
    return [(item["kind"], item["model"], item["cause"]) for item in listed if item["kind"].startswith("name_")]


def test_targets_that_need_attention(served: World, as_viewer: Api) -> None:
    make_name("fast", "tiny lost")
    gone = make_name("gone", "tiny")
    gone.targets.update(endpoint_id="dddddddd-0000-4000-8000-000000000004")
    make_name("off", "lost", enabled=False)
    make_name("away", "big")  # offline: its endpoint has an item
    assert items(as_viewer) == [("name_endpoint", "gone", "tiny"), ("name_target", "fast", "lost")]
    page = one_line(as_viewer.get("/?part=attention").content.decode())
    assert "No endpoint offers <b>lost</b>, a target of the model name <b>fast</b>." in page
    assert "The endpoint of the target <b>tiny</b> of the model name <b>gone</b> was deleted." in page


def test_a_first_step_that_serves_nothing_needs_attention(served: World, as_viewer: Api) -> None:
    make_name("fast", "big", "tiny")
    later = msgspec.structs.replace(attempt(), step=2)
    served.gateway(*(request(model="fast", ago=ago, attempts=(later,)) for ago in (400.0, 1.0)))
    served.follower.catch_up()
    assert items(as_viewer) == [("name_step", "fast", "2")]
    assert "<b>fast</b> has served no request for 5 minutes" in as_viewer.get("/?part=attention").content.decode()


# Pages


def test_the_models_page_lists_names_first(served: World, as_admin: Api) -> None:
    make_name("fast", "big=9 tiny", "tiny")
    page = one_line(as_admin.get("/models").content.decode())
    assert page.index("Model names") < page.index("Models of all endpoints")
    assert "step 1" in page
    assert "90.0 %" in page
    assert "Model names" not in as_admin.get("/models?q=tiny").content.decode()


def test_both_pages_show_that_a_name_wins(served: World, as_viewer: Api) -> None:
    name = make_name("tiny", "tiny")
    assert "This name wins over the model" in one_line(as_viewer.get(f"/model-names/{name.pk}").content.decode())
    assert "wins over this model" in one_line(as_viewer.get("/models/tiny").content.decode())
    assert "wins over this model" not in as_viewer.get("/models/big").content.decode()


def test_a_pattern_wins_over_a_model_only_if_it_leads_to_itself(served: World, as_viewer: Api) -> None:
    make_name("bi*", "tiny")
    make_name("t*", "big", "t*")
    assert "wins over this model" not in as_viewer.get("/models/big").content.decode()
    assert "wins over this model" in one_line(as_viewer.get("/models/tiny").content.decode())


def test_the_page_of_a_name(served: World, as_viewer: Api) -> None:
    name = make_name("fast", "big lost", "tiny", note="for chats")
    name.steps.filter(position=1).update(if_full_secs=2.5)
    page = one_line(as_viewer.get(f"/model-names/{name.pk}").content.decode())
    for text in (
        "for chats",
        "serves now",
        "no endpoint offers it",
        "all have been full for 2.5 s",
        "Targets compared",
    ):
        assert text in page
    assert as_viewer.get(f"/model-names/{A}").status_code == 404
