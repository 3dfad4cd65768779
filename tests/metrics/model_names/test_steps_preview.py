"""The preview of a model name goes through its steps as gateways do."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from access.models import INFERENCE, ApiKey, User
from gateway.base.request_kinds import CHAT, EMBEDDINGS
from gateway.model_names.plan import ModelNames
from gateway.registry.schema import EndpointFacts, Model, ModelName, PublishedEndpoint, Step, Target
from metrics.model_names.steps_preview import StepsPreview, StepsQuestion
from metrics.queries.routing import routing_preview
from tests.access.people import Api, key_for, with_key
from tests.metrics.queries.routing.test_routing_preview import ROUTE, C, endpoint, routes
from tests.metrics.records import AT, A, B
from tests.metrics.world import fake_installation

pytestmark = pytest.mark.every_database

WORKS, OFFLINE, FULL, BREAKER = "works", "offline", "full", "breaker"


def of(endpoint_id: str, model: str, state: str = WORKS, **fields: Any) -> PublishedEndpoint:
    """An endpoint with a model in this state."""
    context = fields.pop("max_tokens", None)
    capabilities = fields.pop("capabilities", ())
    if state == OFFLINE:
        fields["status"] = "offline"
    if state == FULL:
        fields["max_concurrency"] = 1
    lacks = fields.pop("lacks", ())
    made = Model(model, max_tokens=context, capabilities=capabilities, lacks=lacks)
    return endpoint(endpoint_id, made, **fields)


def named(*steps: Step | str, name: str = "fast", **fields: Any) -> ModelNames:
    made = tuple(Step((Target(step),)) if isinstance(step, str) else step for step in steps)
    return ModelNames([ModelName(id="1", name=name, steps=made, **fields)])


def look(
    names: ModelNames,
    *endpoints: PublishedEndpoint,
    kind: str = CHAT,
    tokens: float | None = None,
    due: dict[str, int] | None = None,
    name: str = "fast",
    external: bool = True,
) -> Any:
    def route(model: str, offers: Any) -> Any:
        load = {published.id: 1 for published in endpoints}
        return routing_preview.route_payload(model, kind, routing_preview.candidates(offers, kind, load, due or {}, AT))

    lookup: Callable[[str], list[tuple[EndpointFacts, Model]]] = lambda model: routes(endpoints, model)  # noqa: E731
    plan = names.plan(name)
    assert plan is not None
    return StepsPreview(StepsQuestion(kind, external, lambda model: tokens), lookup, route).payload(name, plan)


def seen(payload: Any) -> list[str]:
    """Return for each step `serves`, or why it is left; empty if it is not reached."""
    return ["serves" if step["serves"] else step["left"] or "" for step in payload["steps"]]


TWO = (of(A, "big"), of(B, "small"))


def test_the_first_step_serves_while_it_works():
    preview = look(named("big", "small"), *TWO)
    assert seen(preview) == ["serves", ""]
    assert (preview["model"], preview["decision"]["endpoint_ids"]) == ("fast", [A])


@pytest.mark.parametrize(
    ("state", "step", "expected"),
    [
        (OFFLINE, Step((Target("big"),)), ["unavailable", "serves"]),
        (OFFLINE, Step((Target("big"),), if_unavailable=False), ["", ""]),
        (FULL, Step((Target("big"),)), ["serves", ""]),
        (FULL, Step((Target("big"),), if_full_secs=2.0), ["full", "serves"]),
    ],
)
def test_a_step_is_left_by_its_conditions(state: str, step: Step, expected: list[str]) -> None:
    assert seen(look(named(step, "small"), of(A, "big", state), of(B, "small"))) == expected


def test_a_full_step_keeps_the_request_if_no_other_works():
    step = Step((Target("big"),), if_full_secs=2.0)
    preview = look(named(step, "small"), of(A, "big", FULL), of(B, "small", OFFLINE))
    assert (seen(preview), preview["decision"]["reason"]) == (["serves", ""], "wait")


def test_an_open_circuit_breaker_lets_the_request_go_on():
    due = {A: int(AT) + 9}
    assert seen(look(named("big", "small"), *TWO, due=due)) == ["unavailable", "serves"]
    assert seen(look(named("big", "small"), *TWO, due=due | {B: int(AT) + 9})) == ["serves", ""]


def test_a_prompt_that_seems_too_long_goes_on_if_another_step_holds_it():
    small = of(A, "big", max_tokens=100)
    assert seen(look(named("big", "small"), small, of(B, "small"), tokens=500)) == ["too_long", "serves"]
    assert seen(look(named("big", "small"), small, of(B, "small"), tokens=50)) == ["serves", ""]
    none_holds = look(named("big", "small"), small, of(B, "small", max_tokens=9), tokens=500)
    assert (seen(none_holds), none_holds["decision"]["endpoint_ids"]) == (["serves", ""], [A])


def test_incapable_models_are_skipped():
    preview = look(named("big", "small"), of(A, "big", capabilities=("embeddings",)), of(B, "small"))
    assert seen(preview) == ["not_capable", "serves"]
    assert [target["skipped"] for step in preview["steps"] for target in step["targets"]] == ["not_capable", None]


@pytest.mark.parametrize(
    ("key", "name", "expected"), [(True, True, "serves"), (False, True, "external"), (True, False, "external")]
)
def test_external_endpoints_need_key_and_name(key: bool, name: bool, expected: str) -> None:
    preview = look(named("big", "small", external=name), of(A, "big", external=True), of(B, "small"), external=key)
    assert seen(preview)[0] == expected


def test_embeddings_stay_with_their_model():
    offline = (of(A, "big", OFFLINE), of(B, "small"))
    assert seen(look(named("big", "small"), *offline, kind=EMBEDDINGS)) == ["unavailable", "other_vectors"]
    assert seen(look(named("big", "small", same_vectors=True), *offline, kind=EMBEDDINGS)) == ["unavailable", "serves"]


def test_a_target_may_be_bound_to_an_endpoint_or_a_tag():
    two = (of(A, "big"), of(B, "big", tags=("gpu",)), of(C, "big"))
    steps = (Step((Target("big", endpoint_id=C),)), Step((Target("big", tag="gpu"),)))
    assert look(named(*steps), *two)["decision"]["endpoint_ids"] == [C]
    preview = look(named(*steps), two[0], two[1])
    assert (seen(preview), preview["decision"]["endpoint_ids"]) == (["unavailable", "serves"], [B])


def test_the_other_targets_of_a_step_follow():
    preview = look(named(Step((Target("big", 9), Target("small", 1)))), of(A, "big", OFFLINE), of(B, "small"))
    assert (seen(preview), preview["decision"]["endpoint_ids"]) == (["serves"], [B])


def shares(payload: Any) -> list[list[float]]:
    return [[round(target["share"], 6) for target in step["targets"]] for step in payload["steps"]]


@pytest.mark.parametrize(
    ("states", "weights", "expected"),
    [
        ((WORKS, WORKS, WORKS), (70, 20, 10), [0.7, 0.2, 0.1]),
        ((OFFLINE, WORKS, WORKS), (70, 20, 10), [0, 0.666667, 0.333333]),
        ((FULL, WORKS, WORKS), (70, 20, 10), [0, 0.666667, 0.333333]),
        ((FULL, FULL, OFFLINE), (70, 20, 10), [0.777778, 0.222222, 0]),
        ((WORKS, WORKS, WORKS), (0, 20, 0), [0, 1, 0]),
        ((OFFLINE, WORKS, WORKS), (5, 0, 0), [0, 1, 0]),  # without a weight: in their order
        ((OFFLINE, OFFLINE, OFFLINE), (70, 20, 10), [0, 0, 0]),
    ],
)
def test_targets_that_work_share_the_requests(
    states: tuple[str, ...], weights: tuple[int, ...], expected: list[float]
) -> None:
    models, ids = ("big", "small", "tiny"), (A, B, C)
    step = Step(tuple(map(Target, models, weights)))
    preview = look(named(step), *map(of, ids, models, states))
    by_model = {target["model"]: target["share"] for target in preview["steps"][0]["targets"]}
    assert [by_model[model] for model in models] == pytest.approx(expected, abs=1e-5)
    largest = ids[max(range(3), key=lambda index: expected[index])]
    assert any(expected) is (preview["decision"] is not None)
    if preview["decision"] and preview["decision"]["reason"] != "wait":
        assert preview["decision"]["endpoint_ids"] == [largest]
    else:
        assert [row["endpoint_id"] for row in preview["endpoints"]] == [largest]


def nested(*steps: Step | str) -> ModelNames:
    """`fast` draws the model `big` and the name `inner`, which has these steps, in the ratio 3 to 1."""
    inner = tuple(Step((Target(step),)) if isinstance(step, str) else step for step in steps)
    outer = Step((Target("big", 3), Target("inner", 1)))
    return ModelNames([ModelName(id="1", name="fast", steps=(outer,)), ModelName(id="2", name="inner", steps=inner)])


def test_the_targets_of_another_name_share_its_part():
    three = (of(A, "big"), of(B, "small"), of(C, "tiny"))
    drawn = look(nested(Step((Target("small", 1), Target("tiny", 4)))), *three)
    assert shares(drawn) == [[0.75, 0.05, 0.2]]
    steps = nested("small", "tiny")
    in_steps = look(steps, *three)
    assert (shares(in_steps), seen(in_steps)) == ([[0.75], [0.25], [0]], ["serves", "serves", ""])
    later = look(steps, three[0], of(B, "small", OFFLINE), three[2])
    assert shares(later) == [[0.75], [0], [0.25]]


@pytest.mark.parametrize("down", ["", "big", "small", "big small"])
def test_shares_are_those_of_many_draws(down: str) -> None:
    names = nested("small", Step((Target("tiny", 2), Target("small", 2))))
    plan = names.plan("fast")
    assert plan is not None
    models = {"big": A, "small": B, "tiny": C}
    preview = look(
        names,
        *(of(endpoint_id, model, OFFLINE if model in down.split() else WORKS) for model, endpoint_id in models.items()),
    )
    draws, counts = random.Random(7), dict.fromkeys(models, 0)
    for _ in range(20_000):
        order = [leaf.model for stage in plan.stages(draws.random) for leaf in stage.leaves]
        counts[next(model for model in order if model not in down.split())] += 1
    shown = dict.fromkeys(models, 0.0)
    for step in preview["steps"]:
        for target in step["targets"]:
            shown[target["model"]] += target["share"]
    assert shown == pytest.approx({model: count / 20_000 for model, count in counts.items()}, abs=0.02)


def test_a_name_of_unknown_models_leads_nowhere():
    assert look(named("no-such-model")) is None


@pytest.mark.django_db
def test_models_that_lack_what_the_request_needs_are_skipped(as_admin: Api, admin: User) -> None:
    state = fake_installation()
    state.routes = lambda model: routes((of(A, "big", lacks=("vision",)), of(B, "small")), model)
    state.model_names = lambda: named("big", "small")
    state.is_serving = lambda: True
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
    for messages, expected in (([image], ["no_vision", "serves"]), ([], ["serves", ""])):
        body = {"model": "fast", "messages": messages}
        assert seen(as_admin.post(ROUTE, body, content_type="application/json").json()) == expected
    preview = as_admin.post(ROUTE, {"model": "big", "messages": [image]}, content_type="application/json").json()
    assert (preview["decision"], [row["excluded"] for row in preview["endpoints"]]) == (None, ["incapable"])


@pytest.mark.django_db
def test_the_api_shows_the_steps(as_admin: Api, admin: User) -> None:
    state = fake_installation()
    state.routes = lambda model: routes((of(A, "big", OFFLINE), of(B, "small")), model)
    state.model_names = lambda: named("big", "small")
    state.is_serving = lambda: True
    preview = as_admin.get(ROUTE, {"model": "fast"}).json()
    assert (seen(preview), preview["decision"]["endpoint_ids"]) == (["unavailable", "serves"], [B])
    body = {"model": "big", "models": ["none", "small"], "messages": []}
    preview = as_admin.post(ROUTE, body, content_type="application/json").json()
    assert seen(preview) == ["unavailable", "unavailable", "serves"]
    assert "steps" not in as_admin.get(ROUTE, {"model": "small"}).json()


@pytest.mark.django_db
@pytest.mark.parametrize("may", [True, False])
def test_a_key_sees_its_own_way(admin: User, may: bool) -> None:
    state = fake_installation()
    state.routes = lambda model: routes((of(A, "big", external=True), of(B, "small")), model)
    state.model_names = lambda: named("big", "small", external=True)
    state.is_serving = lambda: True
    secret = key_for(admin, INFERENCE, "endpoints.read")
    ApiKey.objects.update(external=may)
    api = with_key(secret)
    body = {"model": "fast", "messages": []}
    for response in (api.get(ROUTE, {"model": "fast"}), api.post(ROUTE, body, content_type="application/json")):
        assert seen(response.json())[0] == ("serves" if may else "external")
