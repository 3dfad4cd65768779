"""Edits by the API and in the admin are recorded in one log."""

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from endpoints import edit_log
from endpoints.models import Endpoint
from endpoints.registry import registry
from tests.access.people import Api
from tests.endpoints.conftest import make_endpoint

pytestmark = pytest.mark.django_db

PATH = "/api/endpoints/{}"
CHANGELIST = "/admin/endpoints/endpoint/"


@pytest.fixture
def endpoint() -> Endpoint:
    made = make_endpoint()
    registry.reload()
    return made


def last(endpoint: Endpoint) -> edit_log.Edit:
    return edit_log.latest(str(endpoint.pk))[0]


def test_a_change_by_the_api_is_logged(as_admin: Api, endpoint: Endpoint) -> None:
    as_admin.call("PATCH", PATH.format(endpoint.pk), {"max_concurrency": 4, "notes": "rack 3"})
    edit = last(endpoint)
    assert (edit.user, edit.via) == ("ada", "api")
    assert edit.values == {"max_concurrency": (None, 4), "notes": (None, None)}


def test_tags_are_logged_with_old_and_new_ones(as_admin: Api, endpoint: Endpoint) -> None:
    as_admin.call("PATCH", PATH.format(endpoint.pk), {"tags": []})
    assert edit_log.latest(str(endpoint.pk)) == []
    as_admin.call("PATCH", PATH.format(endpoint.pk), {"tags": ["tokyo", "rack 3"]})
    assert last(endpoint).values == {"tags": ([], ["tokyo", "rack 3"])}
    assert last(endpoint).text == "Changed tags."


def test_an_operator_state_set_by_the_api_is_logged(as_admin: Api, endpoint: Endpoint) -> None:
    as_admin.call("POST", PATH.format(endpoint.pk) + "/disable")
    assert last(endpoint).state == ("enabled", "disabled")
    assert "Enabled → Disabled" in last(endpoint).text


def test_a_breaker_reset_is_logged(as_admin: Api, endpoint: Endpoint) -> None:
    as_admin.call("POST", PATH.format(endpoint.pk) + "/reset-breaker")
    edit = last(endpoint)
    assert (edit.user, edit.via, edit.values) == ("ada", "api", {"breaker": (None, None)})
    assert edit.text == "Changed circuit breaker (reset)."


def test_a_change_without_effect_is_not_logged(as_admin: Api, endpoint: Endpoint) -> None:
    as_admin.call("PATCH", PATH.format(endpoint.pk), {"name": endpoint.name})
    as_admin.call("POST", PATH.format(endpoint.pk) + "/enable")
    assert edit_log.latest(str(endpoint.pk)) == []


def test_a_changed_secret_is_logged_without_its_value(as_admin: Api, endpoint: Endpoint) -> None:
    as_admin.call("PATCH", PATH.format(endpoint.pk), {"api_key": "sk-upstream-secret"})
    assert last(endpoint).values == {"api_key": (None, None)}
    assert "secret" not in LogEntry.objects.get().change_message


def test_a_deletion_stays_in_the_log(as_admin: Api, endpoint: Endpoint) -> None:
    as_admin.call("DELETE", PATH.format(endpoint.pk))
    entry = LogEntry.objects.get()
    assert (entry.is_deletion(), entry.object_repr) == (True, "gpu-box")


def test_a_change_in_the_admin_is_logged_with_old_and_new_values(as_admin: Api, endpoint: Endpoint) -> None:
    sent = {
        "name": "gpu-box", "base_url": endpoint.base_url, "health_check_interval_secs": 60,
        "inference_timeout_secs": 120, "notes": "rack 3", "capabilities": "chat_completion", "max_concurrency": 8,
    }  # fmt: skip
    assert as_admin.post(f"{CHANGELIST}{endpoint.pk}/change/", sent).status_code == 302
    edit = last(endpoint)
    assert edit.via == ""
    assert edit.values == {"health_check_interval_secs": (30, 60), "max_concurrency": (None, 8), "notes": (None, None)}


def test_an_action_in_the_admin_is_logged_as_operator_state(as_admin: Api, endpoint: Endpoint) -> None:
    as_admin.post(CHANGELIST, {"action": "disable", "_selected_action": str(endpoint.pk), "confirmed": "yes"})
    assert last(endpoint).state == ("enabled", "disabled")


@pytest.mark.parametrize(
    "message",
    ["Disabled", "[not json", '[{"changed": {"fields": ["a"]}, "values": [1]}]', '[{"values": {"a": 1}}]'],
)
def test_log_entries_of_other_writers_are_shown_unchanged(admin: Any, endpoint: Endpoint, message: str) -> None:
    LogEntry.objects.create(
        user=admin, content_type=edit_log._kind(), object_id=str(endpoint.pk), action_flag=2, change_message=message
    )
    assert (last(endpoint).values, last(endpoint).state) == ({}, None)


def test_several_endpoints_have_separate_log_entries(as_admin: Api, endpoint: Endpoint) -> None:
    other = make_endpoint("other")
    registry.reload()
    as_admin.call("PATCH", PATH.format(other.pk), {"notes": "rack 4"})
    assert edit_log.latest(str(endpoint.pk)) == []
    assert json.loads(LogEntry.objects.get().change_message)[0]["via"] == "api"
