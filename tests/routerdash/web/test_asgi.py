"""The ASGI application: the client address comes from the gateway, and a request runs in one thread."""

import asyncio
import threading
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path

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


def answer_of(target: str, handler: asgi.Handler) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, headers and body of a response to GET."""
    sent: list[dict[str, Any]] = []

    async def run() -> None:
        received = asyncio.Queue[dict[str, Any]]()
        received.put_nowait({"type": "http.request"})

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": target, "query_string": b"", "headers": []}
        await handler(scope, received.get, send)

    asyncio.run(run())
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


@override_settings(SERVESTATIC_USE_FINDERS=True)
def test_static_files_have_the_security_headers() -> None:
    status, headers, body = answer_of("/static/img/icons.svg", asgi.Handler())
    assert (status, body[:4]) == (200, b"<svg")
    assert {b"Content-Security-Policy", b"X-Content-Type-Options"} <= headers.keys()


class Middleware:
    """Notes the thread that runs it."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response: HttpResponse = self.get_response(request)
        response["x-thread"] += f" {threading.get_ident()}"
        return response


urlpatterns = [path("thread", lambda request: HttpResponse(headers={"x-thread": str(threading.get_ident())}))]


@override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.Middleware"] * 2)
def test_middleware_and_view_run_in_one_thread() -> None:
    _, headers, _ = answer_of("/thread", asgi.Handler())
    threads = headers[b"x-thread"].split()
    assert len(threads) == 3
    assert len({*threads}) == 1
    assert int(threads[0]) != threading.get_ident()
