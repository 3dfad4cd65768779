"""Refusals: error responses of RouterDash itself, in OpenAI's error format."""

import msgspec

from gateway.base.limits import Limit

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

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """Ends a request with a status and a sentence. `code` is also the reason it is counted under.

    `limit`: the limit (gateway.base.limits) that the request exceeds, if any.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        limit: Limit | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers
        self.limit = limit

    def body(self) -> bytes:
        return error_body(self.status, self.code, self.message, self.param)


def error_body(status: int, code: str, message: str, param: str | None = None, error_type: str | None = None) -> bytes:
    kind = error_type or _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})
