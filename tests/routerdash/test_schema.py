"""The description of the API: complete, and written without a warning."""

import re
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from drf_spectacular.views import SpectacularAPIView
from rest_framework.test import APIRequestFactory, force_authenticate

from routerdash import __version__
from tests.access.people import Api
from tests.routerdash.test_urls import API

# One describes itself, one is read by people, one is a stream for pages.
NOT_DESCRIBED = {"api/schema/", "api/docs/", "api/dashboard/events"}


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("schema") / "schema.yaml"
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(path))
    return yaml.safe_load(path.read_text())


def test_every_path_is_described(schema: Any) -> None:
    paths = {re.sub(r"<\w+:(\w+)>", r"{\1}", str(it.pattern)) for it in API} - NOT_DESCRIBED | {"metrics"}
    assert {path.removeprefix("/") for path in schema["paths"]} == paths


def test_every_answer_is_described(schema: Any) -> None:
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert any(code.startswith("2") for code in operation["responses"]), (path, method)


def test_every_operation_may_fail_in_the_one_shape(schema: Any) -> None:
    shape = {"schema": {"$ref": "#/components/schemas/Error"}}
    for operations in schema["paths"].values():
        for operation in operations.values():
            assert operation["responses"]["default"]["content"]["application/json"] == shape


def test_ones_own_keys_need_a_login(schema: Any) -> None:
    for path in ("/api/me/api-keys", "/api/me/api-keys/{key_id}"):
        assert all(operation["security"] == [{"session": []}] for operation in schema["paths"][path].values())


def test_it_says_which_release_it_is_of(schema: Any) -> None:
    assert (schema["info"]["title"], schema["info"]["version"]) == ("RouterDash", __version__)


@pytest.mark.django_db
def test_it_is_served_as_it_is_written(script: Api, schema: Any) -> None:
    assert yaml.safe_load(script.get("/api/schema/").content) == schema


FORMS = ["application/vnd.oai.openapi", "application/yaml", "application/vnd.oai.openapi+json", "application/json"]


@pytest.mark.django_db
@pytest.mark.one_database
@pytest.mark.parametrize("query", ["", "lang=ja", "lang=xx"])
@pytest.mark.parametrize("accept", FORMS)
def test_it_is_kept_as_it_would_be_made_for_each_who_asks(script: Api, as_admin: Api, accept: str, query: str) -> None:
    headers = {"Accept": accept}
    user = as_admin.get("/").wsgi_request.user
    request = APIRequestFactory().get(f"/api/schema/?{query}", headers=headers)
    force_authenticate(request, user)
    made = SpectacularAPIView.as_view(permission_classes=[])(request).render()
    for _ in range(2):
        for api in (script, as_admin):
            kept = api.get(f"/api/schema/?{query}", headers=headers)
            assert kept.content == made.content
            for name in ("Content-Type", "Content-Disposition"):
                assert kept.headers[name] == made.headers[name]


@pytest.mark.django_db
def test_it_is_for_those_who_may_read(anybody: Api) -> None:
    assert anybody.get("/api/schema/").status_code == 401
