"""CORS: preflight requests and responses to pages of other origins."""

import pytest

from gateway.http.cors import _REQUEST_HEADERS
from tests.gateway.process import GatewayProcess, read_until
from tests.gateway.scripted import DONE, LAST, always, chunk, stream, upstream

CHAT = "/v1/chat/completions"
WAY = "x-request-id, x-routerdash-endpoint, x-routerdash-reason, x-routerdash-attempts, x-routerdash-queue-ms"
PAGE = "https://chat.example.com"
OTHER = "https://evil.example"


@pytest.fixture(scope="module")
def _listing(tmp_path_factory):
    yield from running(tmp_path_factory, ROUTERDASH_CORS_ORIGINS=f"{PAGE},http://localhost:3000")


@pytest.fixture
def listing(_listing):
    """A gateway with two allowed origins."""
    _listing.records()
    return _listing


@pytest.fixture(scope="module")
def welcoming(tmp_path_factory):
    """A gateway that allows all origins."""
    yield from running(tmp_path_factory, ROUTERDASH_CORS_ORIGINS="*")


@pytest.fixture(scope="module")
def keyless(tmp_path_factory):
    yield from running(tmp_path_factory, ROUTERDASH_CORS_ORIGINS=PAGE, ROUTERDASH_REQUIRE_API_KEY="false")


def running(tmp_path_factory, **environment):
    process = GatewayProcess(tmp_path_factory.mktemp("cors"), **environment).start()
    yield process
    log = process.log()
    process.end()
    assert "Traceback" not in log


def preflight(gateway, origin=PAGE, headers="authorization,content-type", path=CHAT):
    fields = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
    return gateway.request("OPTIONS", path, None, key=None, headers=fields)


def cors_headers(response):
    """Return the CORS headers of a response without their common prefix."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return {name.removeprefix("access-control-"): text for name, text in headers.items() if "control-" in name}


# Preflights


def test_a_preflight_request_of_an_allowed_origin(listing):
    response = preflight(listing)
    assert (response.status, response.body) == (204, b"")
    assert cors_headers(response) == {
        "allow-origin": PAGE,
        "allow-methods": "GET, POST, DELETE",
        "allow-headers": "authorization, content-type",
        "max-age": "600",
    }
    assert response.headers["vary"] == "Origin"
    assert listing.records() == []


def test_headers_that_common_clients_request():
    good = "authorization, content-type, x-api-key, x-request-id, anthropic-version, openai-beta, x-stainless-os"
    assert all(_REQUEST_HEADERS.fullmatch(name.encode()) for name in good.split(", "))


def test_a_browser_may_not_send_arbitrary_headers(listing):
    assert (
        cors_headers(preflight(listing, headers="cookie, X-Api-Key, x-forwarded-for,, x\tb"))["allow-headers"]
        == "x-api-key"
    )


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/nothing"])
def test_preflight_requests_are_allowed_for_every_path(listing, path):
    assert preflight(listing, path=path).status == 204


def test_a_preflight_request_of_another_origin_is_refused(listing):
    response = preflight(listing, origin=OTHER)
    assert response.status == 401
    assert cors_headers(response) == {}


def test_an_options_request_that_is_no_preflight_needs_a_key(listing):
    assert listing.request("OPTIONS", CHAT, None, key=None, headers={"Origin": PAGE}).status == 401


def test_only_the_api_is_for_other_pages(listing):
    assert preflight(listing, path="/login").status != 204


# Responses


def test_a_response_may_be_read_by_the_page(listing, sim):
    response = listing.post(CHAT, {"model": listing.add(sim.add()), "messages": []}, headers={"Origin": PAGE})
    assert response.status == 200
    assert cors_headers(response) == {"allow-origin": PAGE, "expose-headers": WAY}
    assert response.headers["vary"] == "Origin"


def test_a_second_response_on_a_connection_may_be_read(listing, sim):
    data = listing.chat_bytes(listing.add(sim.add()), f"Origin: {PAGE}")
    received = listing.send(data * 2 + listing.chat_bytes("unknown", f"Origin: {PAGE}", "Connection: close"))
    assert received.count(b"access-control-allow-origin: https://chat.example.com\r\n") == 3


def test_a_stream_may_be_read(listing):
    with upstream(always(stream(chunk("x"), LAST, DONE))) as server, listing.connect() as connection:
        connection.sendall(listing.chat_bytes(listing.add(server), f"Origin: {PAGE}", stream=True))
        assert b"\r\naccess-control-allow-origin: https://chat.example.com\r\n" in read_until(connection, b"0\r\n\r\n")


@pytest.mark.parametrize(("key", "path", "status"), [(None, CHAT, 401), ("", "/v1/nothing", 404), ("", CHAT, 400)])
def test_an_error_may_be_read(listing, key, path, status):
    response = listing.post(path, {}, key=key, headers={"Origin": PAGE})
    assert (response.status, cors_headers(response).get("allow-origin")) == (status, PAGE)


@pytest.mark.parametrize("headers", [{}, {"Origin": OTHER}, {"Origin": "null"}])
def test_other_origins_may_not_read_a_response(listing, headers):
    response = listing.get("/v1/models", headers=headers)
    assert (response.status, cors_headers(response), response.headers["vary"]) == (200, {}, "Origin")


def test_all_origins_can_be_allowed(welcoming):
    assert cors_headers(welcoming.get("/v1/models", headers={"Origin": OTHER}))["allow-origin"] == "*"
    assert preflight(welcoming, origin="null").status == 204


def test_by_default_there_are_no_cors_headers(gateway):
    assert cors_headers(gateway.get("/v1/models", headers={"Origin": PAGE})) == {}
    assert preflight(gateway).status == 401


# Without keys


def test_an_allowed_origin_needs_no_key(keyless):
    assert keyless.post(CHAT, {}, key=None, headers={"Origin": PAGE}).status == 400
    assert preflight(keyless).status == 204


@pytest.mark.parametrize("origin", [OTHER, "null", "http://[nonsense"])
def test_other_origins_stay_refused(keyless, origin):
    assert keyless.post(CHAT, {}, key=None, headers={"Origin": origin}).status == 403
