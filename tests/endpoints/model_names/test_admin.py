"""Model names in the admin, by the forms that its pages send."""

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from endpoints.model_names.name_cache import NameEntry, read_names
from endpoints.model_names.tables import NamedModel
from tests.access.people import Api
from tests.endpoints.conftest import make_endpoint, make_model
from tests.endpoints.model_names.made import make_name

pytestmark = pytest.mark.django_db

LIST = "/admin/endpoints/namedmodel/"


def form(name: str, targets: list[dict[str, Any]], steps: Any = (), **fields: Any) -> dict[str, Any]:
    """Return what a browser sends."""
    data = {"name": name, "enabled": "on", "note": "", "defaults": "{}", "overrides": "{}", "dropped": "[]", **fields}
    for prefix, rows in (("targets", targets), ("steps", list(steps))):
        stored = sum("id" in row for row in rows)
        data |= {f"{prefix}-TOTAL_FORMS": len(rows), f"{prefix}-INITIAL_FORMS": stored}
        for number, row in enumerate(rows):
            shown = {"step": 1, "weight": 1, "endpoint_id": "", "tag": ""} if prefix == "targets" else {}
            data |= {f"{prefix}-{number}-{key}": value for key, value in (shown | row).items()}
    return data


def save(api: Api, path: str, data: dict[str, Any]) -> str:
    """Save a form, and return the page if it was refused."""
    response = api.post(path, data)
    return "" if response.status_code == 302 else response.content.decode()


def only() -> NameEntry:
    (entry,) = read_names().values()
    return entry


def test_an_alias_needs_one_target(as_admin: Api) -> None:
    assert not save(as_admin, f"{LIST}add/", form("fast", [{"model": "tiny"}]))
    (step,) = only().steps
    assert [target.model for target in step.targets] == ["tiny"]
    assert LogEntry.objects.get().get_change_message().startswith("Added.")


def test_steps_with_conditions_weights_and_places(as_admin: Api) -> None:
    endpoint = make_endpoint()
    targets: list[dict[str, Any]] = [
        {"model": "tiny", "weight": 9},
        {"model": "small", "endpoint_id": str(endpoint.pk)},
        {"model": "big", "step": 2, "tag": "cloud"},
    ]
    steps = [{"position": 1, "if_full_secs": "2.5", "if_too_long": "on"}]
    data = form("fast", targets, steps, overrides='{"top_p": 0.5}', dropped='["logit_bias"]')
    assert not save(as_admin, f"{LIST}add/", data)
    entry = only()
    first, second = entry.steps
    assert [(target.model, target.weight, target.endpoint_id) for target in first.targets] == [
        ("tiny", 9, None),
        ("small", 1, str(endpoint.pk)),
    ]
    assert (first.if_unavailable, first.if_full_secs, first.if_failed, first.if_too_long) == (False, 2.5, False, True)
    assert (second.targets[0].tag, second.if_unavailable) == ("cloud", True)
    assert (entry.overrides, entry.dropped) == ({"top_p": 0.5}, ("logit_bias",))


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"name": "a*b*"}, "A name may contain only one *."),
        ({"name": "inner"}, "already exists"),
        ({"defaults": "{"}, "Enter a valid JSON."),
        ({"defaults": "[1]"}, "Enter a JSON object"),
        ({"dropped": "{}"}, "Enter a JSON list"),
        ({"overrides": '{"model": "x"}'}, "The parameter model cannot be set or removed here."),
        ({"targets-0-model": "inner", "name": "outer"}, "This name leads back to itself: outer → inner → outer."),
        ({"targets-0-weight": "0"}, "greater than or equal to 1"),
        ({"targets-0-model": ""}, "This field is required."),
        ({"targets-0-model": "m*"}, "A target may contain * only"),
        ({"targets-0-endpoint_id": "x"}, "Select a valid choice"),
        ({"steps-0-position": "3"}, "Step 3: A step needs at least one target."),
        ({"steps-0-if_full_secs": "-1"}, "greater than or equal to 0"),
    ],
)
def test_each_error_is_on_the_page(as_admin: Api, changed: dict[str, Any], text: str) -> None:
    make_name("inner", "outer")
    data = form("fast", [{"model": "tiny"}], [{"position": 1}]) | changed
    assert text in save(as_admin, f"{LIST}add/", data).replace("&#x27;", "'")
    assert NamedModel.objects.count() == 1


@pytest.mark.parametrize(
    ("name", "target", "warns"),
    [("tin*", "small", True), ("tin*", "tin*", False), ("big*", "small", False), ("tiny", "small", False)],
)
def test_a_pattern_that_matches_a_model_warns(as_admin: Api, name: str, target: str, warns: bool) -> None:
    make_model(make_endpoint("a"))
    text = f"The pattern {name} matches a model that exists: tiny."
    assert not save(as_admin, f"{LIST}add/", form(name, [{"model": target}]))
    for page in (LIST, f"{LIST}{NamedModel.objects.get().pk}/change/"):  # where the browser goes, and the form
        assert (text in as_admin.get(page).content.decode()) is warns


def test_a_target_whose_endpoint_was_deleted_stays(as_admin: Api) -> None:
    endpoint = make_endpoint("gone")
    name = make_name("fast", "tiny")
    name.targets.update(endpoint_id=endpoint.pk)
    gone = str(endpoint.pk)
    endpoint.delete()
    path = f"{LIST}{name.pk}/change/"
    page = as_admin.get(path).content.decode()
    assert "(deleted)" in page
    target, step = name.targets.get(), name.steps.get()
    rows = [{"id": target.pk, "model": "tiny", "endpoint_id": gone}]
    data = form("fast", rows, [{"id": step.pk, "position": 1, "if_failed": "on"}], note="x")
    data |= {"targets-0-named": name.pk, "steps-0-named": name.pk}
    assert not save(as_admin, path, data)
    entry = only()
    assert (entry.note, entry.steps[0].targets[0].endpoint_id) == ("x", gone)


def test_the_list_has_filters_and_targets(as_admin: Api) -> None:
    make_name("fast", "tiny=7 small", "big")
    make_name("claude-*", "big", enabled=False)
    page = as_admin.get(LIST).content.decode()
    assert "tiny | small → big" in page
    for query, names in (("kind=pattern", ["claude-*"]), ("enabled__exact=1", ["fast"]), ("q=tiny", ["fast"])):
        context: Any = as_admin.get(f"{LIST}?{query}").context
        assert [row.name for row in context["cl"].result_list] == names


def test_viewers_see_nothing_of_it(as_viewer: Api) -> None:
    assert as_viewer.get(LIST).status_code in (302, 403)


def test_values_of_the_form_are_shown_as_json(as_admin: Api) -> None:
    name = make_name("fast", "tiny", defaults={"seed": 1})
    context: Any = as_admin.get(f"{LIST}{name.pk}/change/").context
    assert json.loads(context["adminform"].form["defaults"].value()) == {"seed": 1}
