"""Refusals: error responses of RouterDash itself, in OpenAI's error format."""

import msgspec

from gateway.base.bounds import Bound

# Codes that clients and scripts may rely on.
INVALID_API_KEY = "invalid_api_key"
PERMISSION_DENIED = "permission_denied"
MODEL_NOT_FOUND = "model_not_found"
MODEL_NOT_CAPABLE = "model_not_capable"
EXTERNAL_NOT_ALLOWED = "external_not_allowed"
MODEL_NOT_ALLOWED = "model_not_allowed"
KIND_NOT_ALLOWED = "kind_not_allowed"
NETWORK_NOT_ALLOWED = "network_not_allowed"
KEY_DISABLED = "key_disabled"
QUEUE_FULL = "queue_full"
QUEUE_TIMEOUT = "queue_timeout"
NO_CAPABLE_ENDPOINTS = "no_capable_endpoints"
INVALID_REQUEST = "invalid_request"
AMBIGUOUS_REQUEST = "ambiguous_request"  # servers may read it in different ways
REQUEST_TOO_LARGE = "request_too_large"
TOO_MANY_REQUESTS = "too_many_requests"
NOT_FOUND = "not_found"
METHOD_NOT_ALLOWED = "method_not_allowed"
HOST_NOT_ALLOWED = "host_not_allowed"
ORIGIN_NOT_ALLOWED = "origin_not_allowed"
UPSTREAM_ERROR = "upstream_error"
UPSTREAM_TIMEOUT = "upstream_timeout"
UPSTREAM_AUTH = "upstream_auth"
INSUFFICIENT_QUOTA = "insufficient_quota"
RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
LIMITS_UNAVAILABLE = "limits_unavailable"
NOT_READY = "not_ready"
LOOP_DETECTED = "loop_detected"
BUFFERS_FULL = "buffers_full"
REQUEST_CANCELLED = "request_cancelled"
PREVIOUS_RESPONSE_NOT_FOUND = "previous_response_not_found"  # as OpenAI names it
UPGRADE_REQUIRED = "upgrade_required"

# All of them, by which refusals are counted in shared memory (gateway.ipc.request_counts).
CODES = (
    INVALID_API_KEY, PERMISSION_DENIED, MODEL_NOT_FOUND, MODEL_NOT_CAPABLE, EXTERNAL_NOT_ALLOWED,
    MODEL_NOT_ALLOWED, KIND_NOT_ALLOWED, NETWORK_NOT_ALLOWED, KEY_DISABLED, QUEUE_FULL, QUEUE_TIMEOUT,
    NO_CAPABLE_ENDPOINTS, INVALID_REQUEST, AMBIGUOUS_REQUEST, REQUEST_TOO_LARGE, TOO_MANY_REQUESTS, NOT_FOUND,
    METHOD_NOT_ALLOWED, HOST_NOT_ALLOWED, ORIGIN_NOT_ALLOWED, UPSTREAM_ERROR, UPSTREAM_TIMEOUT, UPSTREAM_AUTH,
    INSUFFICIENT_QUOTA, RATE_LIMIT_EXCEEDED, LIMITS_UNAVAILABLE, NOT_READY, LOOP_DETECTED, BUFFERS_FULL,
    REQUEST_CANCELLED, PREVIOUS_RESPONSE_NOT_FOUND, UPGRADE_REQUIRED,
)  # fmt: skip

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """Ends a request with a status and a sentence. `code` is also the reason it is counted under.

    `bound`: the bound (gateway.base.bounds) that the request exceeds, if any.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        bound: Bound | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers
        self.bound = bound

    def body(self) -> bytes:
        return error_body(self.status, self.code, self.message, self.param)


def error_body(status: int, code: str, message: str, param: str | None = None, error_type: str | None = None) -> bytes:
    kind = error_type or _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})
