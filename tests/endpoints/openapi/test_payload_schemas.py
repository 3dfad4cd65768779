"""The schema of a payload: the same as that of a serializer which is written field by field."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from django.urls import path
from drf_spectacular.generators import SchemaGenerator
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.openapi import descriptions
from endpoints.openapi.descriptions import apply_descriptions, extend_schema
from endpoints.openapi.payload_fields import Choices, DateText, Help, Schema, TimeText, UuidText
from endpoints.openapi.payload_schemas import serializer_of, with_serializers

STATES = (("on", "Online"), ("off", "Offline"))
DECIMAL = {"type": "string", "format": "decimal", "example": "2.5"}
Amount = Annotated[str | int, Schema(DECIMAL)]


class _Named(TypedDict):
    id: UuidText


class WheelPayload(_Named):
    """A wheel."""

    size: Annotated[float | None, Help("In metres; null if unknown.")]


class CarPayload(TypedDict):
    wheels: Annotated[list[WheelPayload], Help("Front first.")]
    spare: WheelPayload | None
    built: DateText
    sold_at: Annotated[TimeText | None, Help("Null: not yet.")]
    state: Annotated[str | None, Choices(STATES), Help("Whether it runs.")]
    gear: Literal["one", "two"]
    seats: NotRequired[Annotated[int, Help("Only of cars.")]]
    extras: NotRequired[Any | None]
    notes: list[str | None]
    owners: list[UuidText]
    counts: dict[str, int]
    loose: dict[str, Any]
    price: Amount | None
    is_new: bool
    # Names that serializers of DRF have as attributes.
    data: int
    source: str
    fields: str


class WheelSerializer(serializers.Serializer[Any]):
    """A wheel."""

    id = serializers.UUIDField()
    size = serializers.FloatField(allow_null=True, help_text="In metres; null if unknown.")


class CarSerializer(serializers.Serializer[Any]):
    wheels = WheelSerializer(many=True, help_text="Front first.")
    spare = WheelSerializer(allow_null=True)
    built = serializers.DateField()
    sold_at = serializers.DateTimeField(allow_null=True, help_text="Null: not yet.")
    state = serializers.ChoiceField(STATES, allow_null=True, help_text="Whether it runs.")
    gear = serializers.ChoiceField(("one", "two"))
    seats = serializers.IntegerField(required=False, help_text="Only of cars.")
    extras = serializers.JSONField(required=False, allow_null=True)
    notes = serializers.ListField(child=serializers.CharField(allow_null=True))
    owners = serializers.ListField(child=serializers.UUIDField())
    counts = serializers.DictField(child=serializers.IntegerField())
    loose = serializers.DictField()
    price = serializers.CharField(allow_null=True)  # described by DECIMAL alone
    is_new = serializers.BooleanField()

    def get_fields(self) -> Any:
        names = {
            "data": serializers.IntegerField(),
            "source": serializers.CharField(),
            "fields": serializers.CharField(),
        }
        return {**super().get_fields(), **names}


@pytest.fixture(autouse=True)
def _no_other_descriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions, "_waiting", [])
    monkeypatch.setattr(descriptions, "RESPONSES", {})


def schema_of(responses: Any) -> Any:
    class View(APIView):
        @extend_schema(operation_id="car", responses=responses)
        def get(self, request: Request) -> Response:
            return Response({})

    apply_descriptions()
    generator: Any = SchemaGenerator
    return generator(patterns=[path("api/car", View.as_view())]).get_schema(request=None, public=True)


def test_a_payload_has_the_schema_of_a_written_serializer() -> None:
    made, written = schema_of(CarPayload), schema_of(CarSerializer)
    car, expected = (schema["components"]["schemas"]["Car"] for schema in (made, written))
    assert car["properties"].pop("price") == {**DECIMAL, "nullable": True}
    del expected["properties"]["price"]
    assert made == written
    assert list(car["properties"]) == list(expected["properties"])


def test_a_list_of_payloads_is_an_array() -> None:
    assert schema_of(list[WheelPayload]) == schema_of(WheelSerializer(many=True))


def test_responses_may_be_given_by_status() -> None:
    by_status = {200: WheelPayload, (201, "application/json"): list[WheelPayload], 204: None}
    assert schema_of(by_status) == schema_of(
        {200: WheelSerializer, (201, "application/json"): WheelSerializer(many=True), 204: None}
    )


def test_other_responses_stay_as_they_are() -> None:
    assert with_serializers(CarSerializer) is CarSerializer
    assert with_serializers(None) is None


def test_a_payload_has_one_serializer() -> None:
    assert serializer_of(WheelPayload) is serializer_of(WheelPayload)
    assert serializer_of(WheelPayload).__name__ == "WheelSerializer"


def test_a_payload_inherits_fields_and_not_the_description() -> None:
    class RimPayload(WheelPayload):
        colour: str

    rim = schema_of(RimPayload)["components"]["schemas"]["Rim"]
    assert list(rim["properties"]) == ["id", "size", "colour"]
    assert "description" not in rim


def test_optional_fields_are_not_required() -> None:
    required = schema_of(CarPayload)["components"]["schemas"]["Car"]["required"]
    assert not {"seats", "extras"} & set(required)
    assert {"wheels", "spare", "sold_at"} <= set(required)


@pytest.mark.parametrize("kind", [bytes, set[str], int | str])
def test_a_field_of_an_unknown_type_fails(kind: Any) -> None:
    payload_of: Any = TypedDict
    with pytest.raises(TypeError, match="cannot have the type"):
        serializer_of(payload_of("OddPayload", {"odd": kind}))
