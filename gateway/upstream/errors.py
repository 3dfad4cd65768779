"""Errors of requests to endpoints and to control, and the map from exceptions of connecting to them."""

import socket
import ssl
import time

from gateway.base import causes
from gateway.base.bounds import Bound
from gateway.dialects.endpoint_errors import EndpointError
from gateway.upstream.connection_settings import PLAIN, ConnectionSettings

CONNECT, TIMEOUT, BROKEN = "connect", "timeout", "broken"


class UpstreamError(Exception):
    """A request without a complete response.

    `kind` is CONNECT, TIMEOUT or BROKEN. The text contains no address and no text of the endpoint. `reported` is the
    error that the endpoint reported, if any; `bound` is the bound that its response exceeds, if any.
    """

    def __init__(
        self, kind: str, message: str, reported: EndpointError | None = None, *, bound: Bound | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.reported = reported
        self.bound = bound


class EndpointWithdrawn(Exception):
    """The endpoint was disabled, drained, deleted or moved before the request was sent: it may not be sent any more."""


class StaleConnection(Exception):
    """An idle connection was closed before any byte of the response: the request may be sent again on a new one."""


_CERTIFICATE_ERRORS = {  # of X509_verify_cert, by OpenSSL's numbers
    2: causes.UNKNOWN_ISSUER,
    9: causes.NOT_YET_VALID,
    10: causes.EXPIRED,
    18: causes.UNKNOWN_ISSUER,
    19: causes.UNKNOWN_ISSUER,
    20: causes.UNKNOWN_ISSUER,
    21: causes.UNKNOWN_ISSUER,
    62: causes.OTHER_HOST,
    64: causes.OTHER_HOST,
}
_PLAIN_TEXT = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL")
# Ends of OpenSSL's names of the alerts by which a server refuses a client certificate
_REFUSING_ALERTS = (
    *("ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_UNKNOWN", "ALERT_CERTIFICATE_REVOKED"),
    *("ALERT_UNSUPPORTED_CERTIFICATE", "ALERT_ACCESS_DENIED", "ALERT_DECRYPT_ERROR"),
)


def connect_error(error: Exception, timeout: float, settings: ConnectionSettings = PLAIN) -> UpstreamError:
    """Map an exception of opening a connection. `timeout` is the limit in seconds, for the message."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return UpstreamError(CONNECT, causes.NO_CONNECTION_IN_TIME.format(seconds=f"{timeout:g}"))
    return UpstreamError(CONNECT, cause_of(error, settings))


def cause_of(error: Exception, settings: ConnectionSettings = PLAIN) -> str:
    """Return why a connection could not be opened. The text names no address."""
    match error:
        case ssl.SSLError():
            return _tls_cause(error, settings)
        case socket.gaierror():
            return causes.UNRESOLVED
        case ConnectionRefusedError():
            return causes.CONNECTION_REFUSED
        case OSError():
            return causes.SYSTEM_CAUSES.get(error.errno or 0, causes.NO_CONNECTION)
        case _:
            return causes.NO_CONNECTION


def _tls_cause(error: ssl.SSLError, settings: ConnectionSettings) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        cause = _CERTIFICATE_ERRORS.get(error.verify_code, causes.UNVERIFIED)
        return causes.OTHER_ISSUER if cause == causes.UNKNOWN_ISSUER and settings.ca_bundle is not None else cause
    reason = error.reason or "handshake"
    if reason in _PLAIN_TEXT:
        return causes.NO_TLS
    return client_certificate_cause(reason, settings) or causes.TLS_FAILED.format(tls_detail=reason)


def client_certificate_cause(reason: str, settings: ConnectionSettings) -> str | None:
    """Return what is wrong with the client certificate by the name of an alert; None if the alert is about others."""
    if reason.endswith("ALERT_CERTIFICATE_REQUIRED"):
        return causes.CLIENT_NEEDED
    if settings.client_certificate is None:
        return causes.CLIENT_NEEDED if reason.endswith(_REFUSING_ALERTS) else None
    if reason.endswith("ALERT_CERTIFICATE_EXPIRED"):
        return causes.CLIENT_EXPIRED
    if not reason.endswith(_REFUSING_ALERTS):
        return None
    return causes.CLIENT_EXPIRED if _has_expired(settings) else causes.CLIENT_REFUSED


def _has_expired(settings: ConnectionSettings) -> bool:
    return (settings.client_certificate_expires or float("inf")) < time.time()


def broken_error(error: Exception | None, settings: ConnectionSettings, *, is_first: bool) -> UpstreamError:
    """Return the error of a connection that broke off. `is_first`: there was never a byte of a response on it.

    A server of TLS 1.3 checks the client certificate after its client has sent the request.
    """
    if is_first and isinstance(error, ssl.SSLError):
        return UpstreamError(CONNECT, _tls_cause(error, settings))
    if is_first and settings.client_certificate is not None and _has_expired(settings):
        return UpstreamError(CONNECT, causes.CLIENT_EXPIRED)
    return UpstreamError(BROKEN, causes.BROKE_OFF)


def silent_refusal(settings: ConnectionSettings) -> UpstreamError:
    """Return the error of a server that closes new connections, after the TLS handshake and before any request."""
    return UpstreamError(
        CONNECT, causes.CLIENT_MAY_BE_NEEDED if settings.client_certificate is None else causes.CLIENT_MAY_BE_REFUSED
    )


def proxy_unreachable(cause: str) -> UpstreamError:
    return UpstreamError(CONNECT, causes.PROXY_UNREACHABLE.format(cause=cause))


def proxy_refusal(status: int, *, has_login: bool, is_usual: bool) -> UpstreamError:
    """Return the error of a proxy that answered CONNECT with this status. `is_usual`: a setting names the proxy."""
    if status == 407:
        return UpstreamError(CONNECT, causes.PROXY_LOGIN if has_login else causes.PROXY_WITHOUT_LOGIN)
    cause = (causes.PROXY_FAILS if status >= 500 else causes.PROXY_REFUSES).format(status=status)
    return UpstreamError(CONNECT, causes.NEEDS_NO_PROXY.format(cause=cause) if is_usual else cause)
