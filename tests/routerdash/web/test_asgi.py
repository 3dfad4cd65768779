"""The client address comes from the gateway, the only process that reaches control's socket."""

import asyncio
from typing import Any

import pytest

from gateway.http.control_proxy import CLIENT_IP, CLIENT_SCHEME
from routerdash.web import asgi


def scope_seen(monkeypatch: pytest.MonkeyPatch, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    """Return the scope that Django receives."""
    seen: dict[str, Any] = {}

    async def django(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.update(scope)

    monkeypatch.setattr(asgi, "_django", django)
    scope = {"type": "http", "headers": list(headers), "client": ("/control.sock", 0), "scheme": "http"}
    asyncio.run(asgi.application(scope, None, None))
    return seen


def test_the_client_address_comes_from_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scope_seen(monkeypatch, (CLIENT_IP, b"198.51.100.7"), (CLIENT_SCHEME, b"https"))
    assert (seen["client"], seen["scheme"]) == (("198.51.100.7", 0), "https")


def test_without_a_header_of_the_gateway_the_scheme_is_http(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scope_seen(monkeypatch)["scheme"] == "http"


def test_headers_of_the_client_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scope_seen(
        monkeypatch, (b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-proto", b"https"), (CLIENT_IP, b"198.51.100.7")
    )
    assert (seen["client"], seen["scheme"]) == (("198.51.100.7", 0), "http")
