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
from tests.routerdash.web.test_urls import API

# The schema itself, the HTML page of the API, and the event stream of pages.
NOT_DESCRIBED = {"api/schema/", "api/docs/", "api/dashboard/events", "api/metrics/cloud"}  # the last is a redirect


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("schema") / "schema.yaml"
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(path))
    return yaml.safe_load(path.read_text())


def test_every_path_is_described(schema: Any) -> None:
    paths = {re.sub(r"<\w+:(\w+)>", r"{\1}", str(url_pattern.pattern)) for url_pattern in API} - NOT_DESCRIBED | {
        "metrics"
    }
    assert {path.removeprefix("/") for path in schema["paths"]} == paths


def test_every_response_is_described(schema: Any) -> None:
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert any(code.startswith("2") for code in operation["responses"]), (path, method)


def test_every_operation_has_the_error_shape(schema: Any) -> None:
    shape = {"schema": {"$ref": "#/components/schemas/Error"}}
    for operations in schema["paths"].values():
        for operation in operations.values():
            assert operation["responses"]["default"]["content"]["application/json"] == shape


def test_own_keys_need_a_login(schema: Any) -> None:
    for path in ("/api/me/api-keys", "/api/me/api-keys/{key_id}"):
        assert all(operation["security"] == [{"session": []}] for operation in schema["paths"][path].values())


def test_the_schema_has_the_release(schema: Any) -> None:
    assert (schema["info"]["title"], schema["info"]["version"]) == ("RouterDash", __version__)


@pytest.mark.django_db
def test_the_served_schema_equals_the_written_one(script: Api, schema: Any) -> None:
    assert yaml.safe_load(script.get("/api/schema/").content) == schema


FORMS = ["application/vnd.oai.openapi", "application/yaml", "application/vnd.oai.openapi+json", "application/json"]


@pytest.mark.django_db
@pytest.mark.one_database
@pytest.mark.parametrize("query", ["", "lang=ja", "lang=xx"])
@pytest.mark.parametrize("accept", FORMS)
def test_the_cached_schema_equals_a_new_one(script: Api, as_admin: Api, accept: str, query: str) -> None:
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
def test_the_schema_needs_a_permission(anybody: Api) -> None:
    assert anybody.get("/api/schema/").status_code == 401
