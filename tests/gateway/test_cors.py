"""Pages of other origins, as their browsers ask and what these are told."""

import pytest

from gateway.cors import _ASKABLE
from tests.gateway.process import GatewayProcess, read_until
from tests.gateway.scripted import DONE, LAST, always, chunk, stream, upstream

CHAT = "/v1/chat/completions"
WAY = "x-request-id, x-routerdash-endpoint, x-routerdash-attempts, x-routerdash-queue-ms"
PAGE = "https://chat.example.com"
OTHER = "https://evil.example"


@pytest.fixture(scope="module")
def _listing(tmp_path_factory):
    yield from running(tmp_path_factory, ROUTERDASH_CORS_ORIGINS=f"{PAGE},http://localhost:3000")


@pytest.fixture
def listing(_listing):
    """A gateway that names two origins."""
    _listing.records()
    return _listing


@pytest.fixture(scope="module")
def welcoming(tmp_path_factory):
    """A gateway that anybody's page may use."""
    yield from running(tmp_path_factory, ROUTERDASH_CORS_ORIGINS="*")


@pytest.fixture(scope="module")
def keyless(tmp_path_factory):
    yield from running(tmp_path_factory, ROUTERDASH_CORS_ORIGINS=PAGE, ROUTERDASH_REQUIRE_API_KEY="false")


def running(tmp_path_factory, **environment):
    process = GatewayProcess(tmp_path_factory.mktemp("cors"), **environment).start()
    yield process
    log = process.log()
    process.kill()
    assert "Traceback" not in log


def preflight(gateway, origin=PAGE, asked="authorization,content-type", path=CHAT):
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    return gateway.request("OPTIONS", path, None, key=None, headers=headers)


def told(answer):
    """What an answer says of origins, without the prefix that all of it has."""
    found = {name.lower(): value for name, value in answer.headers.items()}
    return {name.removeprefix("access-control-"): text for name, text in found.items() if "control-" in name}


# Preflights


def test_a_browser_may_ask_first(listing):
    answer = preflight(listing)
    assert (answer.status, answer.body) == (204, b"")
    assert told(answer) == {
        "allow-origin": PAGE,
        "allow-methods": "GET, POST, DELETE",
        "allow-headers": "authorization, content-type",
        "max-age": "600",
    }
    assert answer.headers["vary"] == "Origin"
    assert listing.records() == []


def test_what_clients_of_all_kinds_ask_for():
    good = "authorization, content-type, x-api-key, x-request-id, anthropic-version, openai-beta, x-stainless-os"
    assert all(_ASKABLE.fullmatch(name.encode()) for name in good.split(", "))


def test_a_browser_may_not_send_just_anything(listing):
    assert told(preflight(listing, asked="cookie, X-Api-Key, x-forwarded-for,, x\tb"))["allow-headers"] == "x-api-key"


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/nothing"])
def test_a_browser_may_ask_first_for_every_path(listing, path):
    assert preflight(listing, path=path).status == 204


def test_a_page_of_another_origin_is_not_answered(listing):
    answer = preflight(listing, origin=OTHER)
    assert answer.status == 401
    assert told(answer) == {}


def test_an_options_request_that_is_no_preflight_needs_a_key(listing):
    assert listing.request("OPTIONS", CHAT, None, key=None, headers={"Origin": PAGE}).status == 401


def test_only_the_api_is_for_other_pages(listing):
    assert preflight(listing, path="/login").status != 204


# Answers


def test_an_answer_may_be_read(listing, sim):
    answer = listing.post(CHAT, {"model": listing.add(sim.add()), "messages": []}, headers={"Origin": PAGE})
    assert answer.status == 200
    assert told(answer) == {"allow-origin": PAGE, "expose-headers": WAY}
    assert answer.headers["vary"] == "Origin"


def test_a_second_answer_on_a_connection_may_be_read(listing, sim):
    data = listing.chat_bytes(listing.add(sim.add()), f"Origin: {PAGE}")
    received = listing.say(data * 2 + listing.chat_bytes("unknown", f"Origin: {PAGE}", "Connection: close"))
    assert received.count(b"access-control-allow-origin: https://chat.example.com\r\n") == 3


def test_a_stream_may_be_read(listing):
    with upstream(always(stream(chunk("x"), LAST, DONE))) as server, listing.connect() as connection:
        connection.sendall(listing.chat_bytes(listing.add(server), f"Origin: {PAGE}", stream=True))
        assert b"\r\naccess-control-allow-origin: https://chat.example.com\r\n" in read_until(connection, b"0\r\n\r\n")


@pytest.mark.parametrize(("key", "path", "status"), [(None, CHAT, 401), ("", "/v1/nothing", 404), ("", CHAT, 400)])
def test_an_error_may_be_read(listing, key, path, status):
    answer = listing.post(path, {}, key=key, headers={"Origin": PAGE})
    assert (answer.status, told(answer).get("allow-origin")) == (status, PAGE)


@pytest.mark.parametrize("headers", [{}, {"Origin": OTHER}, {"Origin": "null"}])
def test_others_may_not_read_it(listing, headers):
    answer = listing.get("/v1/models", headers=headers)
    assert (answer.status, told(answer), answer.headers["vary"]) == (200, {}, "Origin")


def test_every_origin_may_be_welcome(welcoming):
    assert told(welcoming.get("/v1/models", headers={"Origin": OTHER}))["allow-origin"] == "*"
    assert preflight(welcoming, origin="null").status == 204


def test_nobody_is_told_anything_by_default(gateway):
    assert told(gateway.get("/v1/models", headers={"Origin": PAGE})) == {}
    assert preflight(gateway).status == 401


# Without keys


def test_a_page_that_is_named_needs_no_key(keyless):
    assert keyless.post(CHAT, {}, key=None, headers={"Origin": PAGE}).status == 400
    assert preflight(keyless).status == 204


@pytest.mark.parametrize("origin", [OTHER, "null", "http://[nonsense"])
def test_pages_of_others_stay_refused(keyless, origin):
    assert keyless.post(CHAT, {}, key=None, headers={"Origin": origin}).status == 403
