"""`/api/model-names` with committed transactions."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from access.models import MANAGE_ENDPOINTS, READ_ENDPOINTS
from endpoints.model_names import name_cache
from endpoints.model_names.name_cache import model_names
from tests.access.people import Api, key_for, make_admin, with_key
from tests.endpoints.conftest import make_endpoint
from tests.endpoints.model_names.made import make_name

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

LIST = "/api/model-names"
UNKNOWN = "22222222-0000-4000-8000-000000000002"
STEPS = [
    {"targets": [{"model": "tiny", "weight": 7}, {"model": "small", "weight": 3}]},
    {"targets": [{"model": "big"}]},
]


def add(api: Api, name: str = "fast", **fields: Any) -> Any:
    return api.call("POST", LIST, {"name": name, "steps": STEPS, **fields})


def test_a_name_with_its_steps(as_admin: Api) -> None:
    endpoint = make_endpoint()
    steps = [
        {"targets": [{"model": "tiny", "endpoint_id": str(endpoint.pk)}], "if_full_secs": 2.5, "if_failed": False},
        {"targets": [{"model": "big", "tag": " cloud "}]},
    ]
    response = add(as_admin, "fast", steps=steps, defaults={"temperature": 0.2}, note="for chats")
    assert response.status_code == 201
    body = response.json()
    assert body["steps"] == [
        {
            "targets": [{"model": "tiny", "endpoint_id": str(endpoint.pk), "tag": None, "weight": 1}],
            "if_unavailable": True,
            "if_full_secs": 2.5,
            "if_failed": False,
            "if_too_long": True,
        },
        {
            "targets": [{"model": "big", "endpoint_id": None, "tag": "cloud", "weight": 1}],
            "if_unavailable": True,
            "if_full_secs": None,
            "if_failed": True,
            "if_too_long": True,
        },
    ]
    assert (body["enabled"], body["external"], body["defaults"]) == (True, False, {"temperature": 0.2})
    assert as_admin.call("GET", f"{LIST}/{body['id']}").json() == body
    assert as_admin.call("GET", LIST).json() == {"model_names": [body], "total": 1}


def test_the_cache_has_what_was_stored(as_admin: Api) -> None:
    model_names.reload()
    body = add(as_admin).json()
    assert model_names.get(body["id"]) == name_cache.read_names()[body["id"]]


def test_a_change_of_one_field_keeps_the_rest(as_admin: Api) -> None:
    body = add(as_admin, defaults={"seed": 1}).json()
    changed = as_admin.call("PATCH", f"{LIST}/{body['id']}", {"enabled": False})
    assert changed.json() == {**body, "enabled": False}
    changed = as_admin.call("PUT", f"{LIST}/{body['id']}", {"steps": [{"targets": [{"model": "x"}]}]})
    assert [step["targets"][0]["model"] for step in changed.json()["steps"]] == ["x"]
    assert changed.json()["defaults"] == {"seed": 1}


def test_an_outdated_edit_is_refused(as_admin: Api) -> None:
    path = f"{LIST}/{add(as_admin).json()['id']}"
    seen = as_admin.call("GET", path)["ETag"]
    assert as_admin.generic("PATCH", path, '{"note": "x"}', "application/json", HTTP_IF_MATCH=seen).status_code == 200
    for method in ("PATCH", "DELETE"):
        response = as_admin.generic(method, path, '{"note": "y"}', "application/json", HTTP_IF_MATCH=seen)
        assert response.status_code == 412
    seen = as_admin.call("GET", path)["ETag"]
    assert as_admin.generic("DELETE", path, HTTP_IF_MATCH=seen).status_code == 204
    assert as_admin.call("GET", path).status_code == 404


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"name": "taken"}, "name"),
        ({"steps": []}, "steps"),
        ({"steps": [{"targets": []}]}, "steps[0].targets"),
        ({"steps": [{"targets": [{"model": "m"}, {}]}]}, "steps[0].targets[1].model"),
        ({"steps": [{"targets": [{"model": "m", "weight": 0}]}]}, "steps[0].targets[0].weight"),
        ({"steps": [{"targets": [{"model": "m", "endpoint_id": "?"}]}]}, "steps[0].targets[0].endpoint_id"),
        ({"steps": [{"targets": [{"model": "m"}], "if_full_secs": -1}]}, "steps[0].if_full_secs"),
        (
            {"steps": [{"targets": [{"model": "m", "endpoint_id": UNKNOWN}]}]},
            "steps[0].targets[0].endpoint_id",
        ),
        ({"steps": [{"targets": [{"model": "taken"}]}], "name": "loop"}, "steps[0].targets[0].model"),
        ({"defaults": {"model": "m"}}, "defaults"),
        ({"defaults": [1]}, "defaults"),
        ({"dropped": "x"}, "dropped"),
        ({"enabled": "perhaps"}, "enabled"),
    ],
)
def test_each_error_names_its_place(as_admin: Api, fields: Any, place: str) -> None:
    make_name("taken", "loop")
    response = add(as_admin, **fields)
    assert response.status_code == 400
    assert list(response.json()["fields"]) == [place]
    assert response.json()["error"].startswith(f"{place}: ")


@pytest.mark.parametrize("body", [[], "x", 1])
def test_a_document_that_is_no_object(as_admin: Api, body: Any) -> None:
    assert as_admin.call("POST", LIST, body).status_code == 400
    assert as_admin.call("PATCH", f"{LIST}/{make_name('a', 'm').pk}", body).status_code == 400


def test_permissions_are_those_of_endpoints() -> None:
    name = make_name("fast", "tiny")
    admin = make_admin()
    reader, writer = (
        with_key(key_for(admin, permission, name=permission)) for permission in (READ_ENDPOINTS, MANAGE_ENDPOINTS)
    )
    path = f"{LIST}/{name.pk}"
    assert [reader.call(method, path).status_code for method in ("GET", "PATCH", "DELETE")] == [200, 403, 403]
    assert [writer.call(method, path).status_code for method in ("GET", "PATCH", "DELETE")] == [403, 200, 204]


def test_edits_are_logged(as_admin: Api) -> None:
    path = f"{LIST}/{add(as_admin).json()['id']}"
    as_admin.call("PATCH", path, {"enabled": False, "steps": [{"targets": [{"model": "m"}]}]})
    as_admin.call("PATCH", path, {"enabled": False})
    as_admin.call("DELETE", path)
    assert [entry.get_change_message() for entry in LogEntry.objects.order_by("id")] == [
        "Added.",
        "Changed enabled and steps.",
        "",
    ]


def test_a_search_finds_names_by_their_targets(as_admin: Api) -> None:
    make_name("fast", "tiny")
    make_name("slow", "big", note="for nights")
    totals = [as_admin.call("GET", f"{LIST}?q={words}").json()["total"] for words in ("tiny", "big nights", "none", "")]
    assert totals == [1, 1, 0, 2]


def test_a_name_may_be_deleted_while_another_leads_to_it(as_admin: Api) -> None:
    inner = make_name("inner", "tiny")
    outer = make_name("outer", "inner")
    assert as_admin.call("DELETE", f"{LIST}/{inner.pk}").status_code == 204
    assert as_admin.call("GET", f"{LIST}/{outer.pk}").json()["steps"][0]["targets"][0]["model"] == "inner"
