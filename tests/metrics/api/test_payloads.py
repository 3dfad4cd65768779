"""The schema of the API agrees with the typed payloads: the same fields, types, nulls and optional fields."""

from types import NoneType, UnionType
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from rest_framework import serializers

from metrics.api import (
    client_serializers,
    endpoint_serializers,
    figure_serializers,
    llmlb,
    models,
    overview_serializers,
    request_serializers,
    routing_serializers,
    usage_serializers,
)
from metrics.queries import (
    client_detail,
    client_hours,
    clients,
    endpoint_days,
    learned,
    model_figures,
    payloads,
    running_requests,
    uptime,
    usage,
)
from metrics.queries.requests import bodies, failures, lookups, payload
from metrics.queries.requests import llmlb as llmlb_records
from metrics.queries.routing import engine, routing_preview

SCHEMAS: dict[Any, Any] = {
    payloads.EndpointPayload: figure_serializers.DashboardEndpointSerializer,
    payloads.StatsPayload: figure_serializers.StatsSerializer,
    payloads.OverviewPayload: figure_serializers.OverviewSerializer,
    payloads.DayPayload: figure_serializers.DayStatsSerializer,
    payloads.ModelTotalsPayload: figure_serializers.ModelStatsSerializer,
    payloads.ModelTpsPayload: figure_serializers.ModelTpsSerializer,
    payloads.AttentionPayload: overview_serializers.AttentionSerializer,
    payloads.BusiestPayload: overview_serializers.BusiestSerializer,
    payloads.EndpointEventPayload: overview_serializers.EndpointEventSerializer,
    payloads.MinuteFiguresPayload: overview_serializers.MinuteFiguresSerializer,
    payload.RequestDetailPayload: request_serializers.RequestDetailSerializer,
    lookups.RequestPagePayload: request_serializers.RequestPageSerializer,
    bodies.BodiesPayload: request_serializers.BodiesSerializer,
    failures.FailurePayload: endpoint_serializers.FailureSerializer,
    engine.EnginePayload: endpoint_serializers.EngineSerializer,
    learned.LearnedPayload: endpoint_serializers.LearnedSerializer,
    uptime.HealthPayload: endpoint_serializers.HealthSerializer,
    routing_preview.RoutePayload: routing_serializers.RouteSerializer,
    running_requests.RunningRequestsPayload: routing_serializers.LiveSerializer,
    clients.RankedClientPayload: client_serializers.RankedSerializer,
    client_hours.ClientHourPayload: client_serializers.ClientHourSerializer,
    client_hours.HeatPayload: client_serializers.HeatSerializer,
    client_detail.ClientDetailPayload: client_serializers.ClientDetailSerializer,
    client_detail.ClientKeyPayload: client_serializers.ClientKeySerializer,
    usage.UsagePayload: usage_serializers.UsageSerializer,
    model_figures.ModelDetailPayload: models.CatalogueModelDetailSerializer,
    llmlb_records.LlmlbRecord: llmlb.RecordSerializer,
    llmlb.RegisteredModel: llmlb.RegisteredModelSerializer,
}

TYPES: dict[type[serializers.Field[Any, Any, Any, Any]], type] = {
    serializers.BooleanField: bool,
    serializers.IntegerField: int,
    serializers.FloatField: float,
    serializers.CharField: str,
    serializers.UUIDField: str,
    serializers.ChoiceField: str,
    serializers.DateField: str,
    serializers.DateTimeField: str,
}


def differences(payload_type: Any, fields: dict[str, Any], path: str = "") -> list[str]:
    hints = get_type_hints(payload_type)
    found = [f"{path}{name} is in one of them" for name in hints.keys() ^ fields.keys()]
    for name in hints.keys() & fields.keys():
        if fields[name].required != (name in payload_type.__required_keys__):
            found.append(f"{path}{name} is optional in one of them")
        found += _type_differences(hints[name], fields[name], f"{path}{name}")
    return found


def _type_differences(hint: Any, field: Any, path: str) -> list[str]:
    if get_origin(hint) is NotRequired:
        (hint,) = get_args(hint)
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    nullable = NoneType in kinds or Any in kinds
    if field.allow_null != nullable:
        return [f"{path} may be null in one of them"]
    kind = next((it for it in kinds if it is not NoneType), NoneType)
    if kind in (Any, NoneType):
        return []
    if isinstance(field, serializers.ListSerializer):
        (item,) = get_args(kind)
        child: Any = field.child
        return differences(item, child.get_fields(), f"{path}[].")
    if isinstance(field, serializers.ListField):
        (item,) = get_args(kind)
        return _type_differences(item, field.child, f"{path}[]")
    if isinstance(field, serializers.DictField):
        return [] if is_typeddict(kind) or get_origin(kind) is dict else [f"{path} is an object in one of them"]
    if isinstance(field, serializers.Serializer):
        if is_typeddict(kind):
            return differences(kind, field.get_fields(), f"{path}.")
        value = get_args(kind)[1]
        return [
            it for name, one in field.get_fields().items() for it in _type_differences(value, one, f"{path}.{name}")
        ]
    return [] if TYPES[type(field)] is kind else [f"{path} is {kind} and {type(field).__name__}"]


@pytest.mark.parametrize("payload_type", SCHEMAS, ids=lambda it: it.__name__)
def test_the_schema_has_the_fields_of_the_payload(payload_type: Any) -> None:
    assert differences(payload_type, SCHEMAS[payload_type]().get_fields()) == []


def test_sums_of_some_days_have_more_fields_than_those_of_all_time() -> None:
    fields = endpoint_serializers.ModelDaysSerializer().get_fields()
    hints = get_type_hints(endpoint_days.ModelDaysPayload)
    more = hints.keys() - get_type_hints(payloads.ModelTotalsPayload).keys()
    assert {name for name, field in fields.items() if not field.required} == more
    assert differences(endpoint_days.ModelDaysPayload, fields) == [
        f"{name} is optional in one of them" for name in hints.keys() & fields.keys() if name in more
    ]


def test_live_endpoints_have_some_of_the_fields_of_endpoints() -> None:
    assert get_type_hints(payloads.LiveEndpointPayload).items() <= get_type_hints(payloads.EndpointPayload).items()


def test_states_of_health_match_the_schema() -> None:
    assert tuple(endpoint_serializers.SecondsSerializer().get_fields()) == uptime.STATES[1:]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"success": None}, "success is in one of them"),
        ({"success": serializers.FloatField()}, "success is <class 'int'> and FloatField"),
        ({"success": serializers.IntegerField(allow_null=True)}, "success may be null in one of them"),
        ({"success": serializers.IntegerField(required=False)}, "success is optional in one of them"),
    ],
)
def test_a_difference_is_detected(change: dict[str, Any], difference: str) -> None:
    fields = figure_serializers.MinuteSerializer().get_fields() | change
    assert differences(payloads.MinutePayload, {name: it for name, it in fields.items() if it}) == [difference]
