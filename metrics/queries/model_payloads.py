"""Payloads of models over all endpoints, with their figures (metrics.queries.model_figures)."""

from typing import Annotated, NotRequired, TypedDict

from endpoints.models import OperatorState, Status
from endpoints.openapi.payload_fields import Choices, DateText, Help, UuidText
from metrics.costs.of_period import CostsPayload
from metrics.counting.reported_details import TokenDetailsPayload

SHOWN = (*Status.values, OperatorState.DRAINING.value, OperatorState.DISABLED.value)  # states of an endpoint


# Moving average of the speed of a requested name at an endpoint.
class SpeedPayload(TypedDict):
    endpoint_id: UuidText
    model_id: Annotated[str, Help("Model name in the requests.")]
    api_kind: str
    tps: float
    request_count: Annotated[int, Help("Successful requests today.")]


# A model at one endpoint.
class OfferPayload(TypedDict):
    endpoint_id: UuidText
    endpoint_name: str
    model_id: Annotated[str, Help("The name of the model at the endpoint.")]
    status: Annotated[str, Choices(Status.choices)]
    operator_state: Annotated[str, Choices(OperatorState.choices)]
    shown_status: Annotated[
        str, Choices(SHOWN), Help("The administrative state if it is not `enabled`, else the status.")
    ]
    max_tokens: int | None
    active_requests: Annotated[int, Help("Requests in flight at the endpoint, for all its models.")]
    max_concurrency: Annotated[int | None, Help("Requests at a time; null means no limit.")]
    fastest_tps: float | None
    speeds: list[SpeedPayload]


# Requests and tokens of a model, or of one of its names.
class ModelCounts(TypedDict):
    requests_today: Annotated[int, Help("Requests with any name of the model, without cancelled ones.")]
    failed_today: int
    cancelled_today: int
    requests_7_days: Annotated[int, Help("Requests of today and the six local days before.")]
    failed_7_days: int
    cancelled_7_days: int
    input_tokens_7_days: int
    output_tokens_7_days: int


class TopProviderPayload(TypedDict):
    """Limits in the form of OpenRouter's list."""

    context_length: NotRequired[int]
    max_completion_tokens: NotRequired[int]


class ArchitecturePayload(TypedDict):
    """Modalities in the form of OpenRouter's list."""

    input_modalities: NotRequired[list[str]]
    output_modalities: NotRequired[list[str]]


# The fields of GET /v1/models; the gateway has their types (gateway.routing.model_list.ModelPayload).
class ListedModelPayload(TypedDict):
    id: str
    object: str
    created: NotRequired[Annotated[int, Help("When an endpoint first listed it, in seconds since 1970.")]]
    owned_by: str
    lifecycle_status: str
    download_progress: float | None
    ready: Annotated[bool, Help("True if an endpoint with the model is online.")]
    capabilities: list[str]
    supported_apis: list[str]
    max_tokens: Annotated[int | None, Help("Largest context length among its endpoints.")]
    context_length: NotRequired[
        Annotated[int, Help("Least context length among its endpoints; absent if unknown, as are the next ones.")]
    ]
    max_model_len: NotRequired[Annotated[int, Help("The same.")]]
    max_output_tokens: NotRequired[Annotated[int, Help("Least limit of output tokens.")]]
    max_completion_tokens: NotRequired[Annotated[int, Help("The same.")]]
    max_output_length: NotRequired[Annotated[int, Help("The same.")]]
    top_provider: NotRequired[TopProviderPayload]
    input_modalities: NotRequired[list[str]]
    output_modalities: NotRequired[list[str]]
    architecture: NotRequired[ArchitecturePayload]
    supported_features: NotRequired[list[str]]
    endpoint_ids: list[UuidText]
    canonical_name: str | None
    aliases: list[str]


class _ModelEndpoints(TypedDict):
    endpoints: list[OfferPayload]
    endpoints_online: int
    fastest_tps: float | None


class CatalogueModelPayload(ListedModelPayload, _ModelEndpoints, ModelCounts):
    """The fields of GET /v1/models, and figures."""

    costs_7_days: CostsPayload


# Requests and tokens of a model on one local day, with their costs.
class ModelDayPayload(CostsPayload):
    """Costs of some requests, and the number of those without one."""

    day: DateText
    requests: Annotated[int, Help("Requests, without cancelled ones.")]
    successful_requests: int
    failed_requests: int
    cancelled_requests: int
    input_tokens: int
    output_tokens: int
    average_duration_ms: Annotated[float | None, Help("Average duration of the successful requests.")]


class CatalogueModelDetailPayload(CatalogueModelPayload):
    """The fields of GET /v1/models, and figures."""

    asked_names: Annotated[list[str], Help("Model names in the requests of these days.")]
    days: list[ModelDayPayload]
    token_details: Annotated[TokenDetailsPayload, Help("Sums over these days.")]
    costs: Annotated[CostsPayload, Help("Sums over these days.")]


class CataloguePayload(TypedDict):
    object: str
    data: list[CatalogueModelPayload]
