"""Permissions of the API key of a request, and refusals of requests that it does not permit."""

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.http.exchange import Exchange
from gateway.registry.key_rules import AllowedUse
from gateway.routing.lists.model_access import ModelAccess

READ_ENDPOINTS = "endpoints.read"  # permission


def may_use_external(exchange: Exchange) -> bool:
    """Return True if the API key of a request may use external endpoints. Without a key, no request may."""
    key = exchange.api_key
    return key is not None and key.external


def use_of(exchange: Exchange) -> AllowedUse | None:
    """Return the restrictions of a request's API key; None: there are none."""
    key = exchange.api_key
    return None if key is None else key.allowed


def model_access(exchange: Exchange) -> ModelAccess:
    """Return which models a client may see in lists."""
    key = exchange.api_key
    reads_endpoints = key is not None and READ_ENDPOINTS in key.permissions
    return ModelAccess(use_of(exchange), may_use_external(exchange), reads_endpoints)


def permits_of(exchange: Exchange) -> str:
    """Return a text that is equal for requests whose API keys may use the same endpoints."""
    key = exchange.api_key
    if key is None:
        return ""
    if key.allowed is None:
        return "external" if key.external else ""
    return key.allowed.permits[key.external]


def external_refusal(exchange: Exchange, model: str) -> Refusal:
    """Return the refusal of a request whose only candidates are external."""
    whose = "the model name" if may_use_external(exchange) else "this API key"
    if exchange.api_key is None:
        whose = "a request without an API key"
    message = f"The model {model!r} is only at external endpoints, which {whose} may not use."
    return Refusal(403, errors.EXTERNAL_NOT_ALLOWED, message, param="model")


def model_refusal(model: str) -> Refusal:
    """Return the refusal of a request for a model that its API key may not use."""
    message = f"This API key may not use the model {model!r}; GET /v1/models lists the models that it may use."
    return Refusal(403, errors.MODEL_NOT_ALLOWED, message, param="model")
