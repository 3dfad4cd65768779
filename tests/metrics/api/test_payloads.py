"""Payloads of figures: their fields, and the responses with them."""

from typing import Any, get_type_hints

import pytest
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.openapi.descriptions import RESPONSES
from gateway.routing.model_list import ModelPayload
from metrics.api.dashboard import MinuteHistory
from metrics.queries import endpoint_days, model_payloads, payloads, uptime
from metrics.queries.payloads import MinutePayload
from metrics.queries.requests.payload import FIELDS, RequestPayload
from tests.access.people import Api
from tests.payload_types import is_payload


def test_live_endpoints_have_some_of_the_fields_of_endpoints() -> None:
    live, every = (
        get_type_hints(payload) for payload in (payloads.LiveEndpointPayload, payloads.DashboardEndpointPayload)
    )
    assert live.items() <= every.items()


def test_sums_of_all_time_lack_the_optional_fields_of_some_days() -> None:
    of_days, of_all_time = endpoint_days.ModelDaysPayload, payloads.ModelStatsPayload
    assert of_days.__required_keys__ == of_all_time.__required_keys__
    assert of_days.__optional_keys__ == {
        "output_tokens", "tokens_per_second", "p50_duration_ms", "p50_first_token_ms",
    }  # fmt: skip


def test_seconds_of_health_are_those_of_its_states() -> None:
    assert tuple(uptime.SecondsPayload.__annotations__) == uptime.KNOWN_STATES


def test_listed_models_have_the_fields_of_the_gateway() -> None:
    listed = model_payloads.ListedModelPayload
    assert get_type_hints(listed).keys() == get_type_hints(ModelPayload).keys()
    assert listed.__required_keys__ == ModelPayload.__required_keys__


def test_exports_have_each_field_of_a_request_once() -> None:
    assert sorted(FIELDS) == sorted(RequestPayload.__annotations__)


def test_views_of_figures_declare_the_payloads_of_their_responses() -> None:
    declared = {view.__qualname__ for view, responses in RESPONSES.items() if is_payload(responses)}
    assert {"OverviewFigures.get", "Requests.get", "UsageByGroup.get", "DashboardModels.get", "Health.get"} <= declared


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("row", "difference"),
    [
        ({"minute": "2026-01-31T12:00:00Z", "success": 1}, "[].error is missing"),
        ({"minute": "2026-01-31T12:00:00Z", "success": 1, "error": 0, "late": 2}, "[].late is not declared"),
        ({"minute": "2026-01-31T12:00:00Z", "success": 1, "error": None}, "[].error is None, not int"),
        ({"minute": "noon", "success": 1, "error": 0}, "[].minute is 'noon', no date-time"),
    ],
)
def test_a_response_that_differs_from_its_declaration_fails(
    as_admin: Api, monkeypatch: pytest.MonkeyPatch, row: dict[str, Any], difference: str
) -> None:
    assert RESPONSES[MinuteHistory.get] == list[MinutePayload]

    def get(view: APIView, request: object) -> Response:
        return Response([row])

    monkeypatch.setitem(RESPONSES, get, list[MinutePayload])
    monkeypatch.setattr(MinuteHistory, "get", get)
    with pytest.raises(AssertionError, match=difference.replace("[", r"\[")):
        as_admin.get("/api/dashboard/request-history")
