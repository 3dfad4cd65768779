"""Errors of requests to endpoints and to control, and the map from exceptions of connecting to them."""

import ssl

from gateway.base.limits import Limit
from gateway.dialects.endpoint_errors import EndpointError
from gateway.ipc.record import CONNECTION_REFUSED

CONNECT, TIMEOUT, BROKEN = "connect", "timeout", "broken"


class UpstreamError(Exception):
    """A request without a complete response.

    `kind` is CONNECT, TIMEOUT or BROKEN. The text contains no address and no text of the endpoint. `reported` is the
    error that the endpoint reported, if any; `limit` is the limit that its response exceeds, if any.
    """

    def __init__(
        self, kind: str, message: str, reported: EndpointError | None = None, *, limit: Limit | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.reported = reported
        self.limit = limit


class EndpointWithdrawn(Exception):
    """The endpoint was disabled, drained, deleted or moved before the request was sent: it may not be sent any more."""


class StaleConnection(Exception):
    """An idle connection was closed before any byte of the response: the request may be sent again on a new one."""


def connect_error(error: Exception, timeout: float) -> UpstreamError:
    """Map an exception of opening a connection. `timeout` is the limit in seconds, for the message."""
    match error:
        case TimeoutError():
            return UpstreamError(CONNECT, f"no connection within {timeout:g} s")
        case ssl.SSLError():
            return UpstreamError(CONNECT, f"TLS failed: {error.reason or 'handshake'}")
        case ConnectionRefusedError():
            return UpstreamError(CONNECT, CONNECTION_REFUSED)
        case _:
            return UpstreamError(CONNECT, "no connection")
