"""Admission by the header block: host, path, API key, origin, method and encoding."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from gateway.http.admission import bearer
from tests.gateway.process import KEY, GatewayProcess
from tests.gateway.refusals import counted, refused
from tests.router import until

CHAT = "/v1/chat/completions"


# Keys


def test_without_a_key(gateway):
    assert refused(gateway.get("/v1/models", key=None)) == (401, "invalid_api_key")
    assert counted(gateway) == [(401, "invalid_api_key")]


@pytest.mark.parametrize("value", ["Bearer sk_unknown", "Bearer", "Bearer ", "Basic c2s6", KEY, f"Basic {KEY}"])
def test_with_a_bad_key(gateway, value):
    assert refused(gateway.get("/v1/models", key=None, headers={"Authorization": value})) == (401, "invalid_api_key")
    assert counted(gateway) == [(401, "invalid_api_key")]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"BEARER   {KEY}  "},
        {"X-API-Key": KEY},
        {"X-API-Key": KEY, "Authorization": "Bearer other"},
    ],
)
def test_with_a_good_key(gateway, headers):
    assert gateway.get("/v1/models", key=None, headers=headers).status == 200


@pytest.mark.parametrize(("ago", "status"), [(3600, 401), (-3600, 200)])
def test_an_expired_key_is_refused(gateway, ago, status):
    key = gateway.add_key(f"sk_expires{ago}", expires_at=time.time() - ago)
    gateway.publish()
    assert gateway.get("/v1/models", key=key).status == status


def test_the_refusal_of_an_expired_key_names_the_reason(gateway):
    key = gateway.add_key("sk_long_ago", expires_at=1.0)
    gateway.publish()
    response = gateway.get("/v1/models", key=key)
    assert refused(response) == (401, "invalid_api_key")
    assert "has expired" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("permission", "method", "path", "status"),
    [
        ("openai.inference", "GET", "/v1/models", 403),
        ("openai.inference", "GET", "/v1/models/tiny", 403),
        ("openai.inference", "POST", CHAT, 400),
        ("openai.models.read", "GET", "/v1/models", 200),
        ("openai.models.read", "POST", CHAT, 403),
        ("openai.models.read", "POST", "/v1/embeddings", 403),
    ],
)
def test_a_key_without_the_permission_is_refused(gateway, permission, method, path, status):
    key = gateway.add_key(f"sk_{permission}", (permission,))
    gateway.publish()
    assert gateway.request(method, path, b"" if method == "POST" else None, key=key).status == status


def test_a_missing_permission_is_counted_for_its_key(gateway):
    key = gateway.add_key("sk_powerless", ())
    gateway.publish()
    response = gateway.post(CHAT, {}, key=key)
    assert refused(response) == (403, "permission_denied")
    assert "openai.inference" in response.json()["error"]["message"]
    record = gateway.record()
    assert (record.status, record.error, record.api_key_id) == (403, "permission_denied", key[3:11])


def test_a_new_key_works_at_once(gateway):
    gateway.get("/v1/models")
    key = gateway.add_key("sk_made_just_now")
    gateway.publish()
    assert gateway.get("/v1/models", key=key).status == 200


@pytest.mark.parametrize(
    ("header", "key"),
    [(None, None), (b"bearer x", b"x"), (b"Bearer  x ", b"x"), (b"Bearer ", None), (b"Bearerx", None), (b"", None)],
)
def test_bearer(header, key):
    assert bearer(header) == key


# Paths, methods, hosts


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/", "/v1/chat", "/v1/models/", "/v1/chat/completions/"])
def test_an_unknown_path(gateway, path):
    response = gateway.get(path)
    assert refused(response) == (404, "not_found")
    assert path in response.json()["error"]["message"]
    assert counted(gateway) == [(404, "not_found")]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "POST"),
        ("HEAD", CHAT, "POST"),
        ("DELETE", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET"),
        ("PUT", "/v1/models/tiny", "GET"),
    ],
)
def test_a_method_that_a_path_does_not_support(gateway, method, path, allowed):
    response = gateway.request(method, path)
    assert (response.status, response.headers["allow"]) == (405, allowed)
    assert counted(gateway) == [(405, "method_not_allowed")]


@pytest.mark.parametrize("host", ["router.example", "router.example:1", "x.below.example", "127.0.0.1", "[::1]:1"])
def test_an_allowed_host(gateway, host):
    assert gateway.get("/v1/models", headers={"Host": host}).status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/", "/health"])
def test_a_host_that_is_not_allowed(gateway, path):
    response = gateway.get(path, headers={"Host": "evil.example"})
    assert refused(response) == (400, "host_not_allowed")
    assert "ROUTERDASH_ALLOWED_HOSTS" in response.json()["error"]["message"]
    assert counted(gateway) == [(400, "host_not_allowed")] * (path == "/v1/models")


# Clients


@pytest.mark.parametrize(
    ("headers", "ip"),
    [
        ({}, "127.0.0.1"),
        ({"X-Forwarded-For": "192.0.2.7"}, "192.0.2.7"),
        ({"X-Forwarded-For": "198.51.100.1, 2001:DB8::7"}, "2001:db8::7"),
        ({"X-Forwarded-For": "nonsense"}, "127.0.0.1"),
    ],
)
def test_a_record_has_the_client_address(gateway, headers, ip):
    gateway.post("/v1/embeddings", {}, headers=headers)
    gateway.post(CHAT, {}, headers=headers)
    assert [record.client_ip for record in gateway.records()] == [ip, ip]
    assert KEY not in gateway.log()


# Without keys


@pytest.fixture(scope="module")
def open_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(
        tmp_path_factory.mktemp("open"), ROUTERDASH_REQUIRE_API_KEY="false", ROUTERDASH_STORE_BODIES="errors"
    )
    yield process.start()
    process.end()


@pytest.fixture
def keyless(open_gateway):
    open_gateway.records()
    return open_gateway


@pytest.mark.parametrize("key", [None, "sk_unknown"])
def test_requests_without_a_key_are_admitted(keyless, sim, key):
    response = keyless.post(CHAT, {"model": keyless.add(sim.add()), "messages": []}, key=key)
    assert response.status == 200
    assert keyless.record().api_key_id is None


def test_a_known_key_is_recorded_although_it_is_not_needed(keyless, sim):
    keyless.chat(keyless.add(sim.add()))
    assert keyless.record().api_key_id == KEY[3:11]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.2", "http://localhost"])
def test_pages_of_another_origin_are_refused(keyless, origin):
    response = keyless.post(CHAT, {}, key=None, headers={"Origin": origin})
    assert refused(response) == (403, "origin_not_allowed")
    assert counted(keyless) == [(403, "origin_not_allowed")]


@pytest.mark.parametrize("origin", ["http://127.0.0.1", "https://127.0.0.1:8443"])
def test_pages_of_the_same_origin_are_admitted(keyless, origin):
    assert keyless.post(CHAT, {}, key=None, headers={"Origin": origin}).status == 400
    assert keyless.get("/v1/models", key=None, headers={"Origin": origin}).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_content_types_of_html_forms_are_refused(keyless, kind):
    response = keyless.request("POST", CHAT, b"{}", key=None, headers={"Content-Type": kind})
    assert refused(response) == (415, "invalid_request")
    assert counted(keyless) == [(415, "invalid_request")]


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_admitted(keyless, kind):
    assert keyless.post(CHAT, b"{}", key=None, headers={"Content-Type": kind}).status == 400


def test_with_a_key_pages_of_another_origin_are_admitted(gateway):
    headers = {"Origin": "https://app.example", "Content-Type": "text/plain"}
    assert gateway.post(CHAT, b"{}", headers=headers).status == 400


def test_bodies_of_failed_requests_are_stored_if_configured(keyless, sim):
    simulated = sim.add(fault="400")
    model = keyless.add(simulated)
    keyless.chat(model)
    simulated.set(fault="")
    keyless.chat(model)
    failed, went_well = keyless.records()
    assert json.loads(failed.request_body)["model"] == model
    assert json.loads(failed.response_body)["error"]["message"] == "simulated 400"
    assert (went_well.request_body, went_well.response_body) == (None, None)


# Requests with the same header block as the previous one of their connection


@pytest.fixture
def kept(gateway):
    """A client that keeps its connection. Returns a function that sends a request and returns the status."""
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)) as connection:

        def send_request(path="/v1/models", key=KEY, method="GET", body=None, **headers):
            sent = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
            connection.request(method, path, body, sent)
            with connection.getresponse() as response:
                response.read()
                return response.status

        yield send_request


def test_a_repeated_request_is_admitted_again(kept):
    assert [kept(), kept(), kept()] == [200, 200, 200]


def test_a_deleted_key_is_refused_on_a_kept_connection(gateway, kept):
    key = gateway.add_key("sk_soon_deleted")
    gateway.publish()
    assert [kept(key=key), kept(key=key)] == [200, 200]
    del gateway.keys[key[3:11]]
    gateway.publish()
    until(lambda: kept(key=key) == 401)


def test_a_key_expires_on_a_kept_connection(gateway, kept):
    key = gateway.add_key("sk_soon_old", expires_at=time.time() + 0.5)
    gateway.publish()
    assert kept(key=key) == 200
    until(lambda: kept(key=key) == 401)


def test_another_key_is_checked(gateway, kept):
    gateway.add_key("sk_reads_only", ("openai.models.read",))
    gateway.publish()
    chat = {"path": CHAT, "method": "POST", "body": b"{}"}
    assert [kept(**chat), kept(key="sk_reads_only", **chat), kept(**chat)] == [400, 403, 400]


def test_the_same_head_for_another_path_or_method(kept):
    assert [kept(), kept("/v1/nothing"), kept(), kept(method="POST"), kept()] == [200, 404, 200, 405, 200]


def test_the_same_head_with_another_host(kept):
    assert [kept(Host="localhost"), kept(Host="evil.example"), kept(Host="localhost")] == [200, 400, 200]


def test_the_client_address_is_read_from_each_header_block(gateway, kept):
    for client in ("192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.1"):
        assert kept(CHAT, method="POST", body=b"{}", **{"X-Forwarded-For": client}) == 400
    assert [record.client_ip for record in gateway.records()] == ["192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.1"]


# Compressed bodies


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses", "/v1/audio/transcriptions"])
@pytest.mark.parametrize("coding", ["gzip", "identity, br", "GZIP"])
def test_a_compressed_body_is_refused_with_advice(gateway, path, coding):
    response = gateway.post(path, {"model": "tiny"}, headers={"Content-Encoding": coding})
    error = response.json()["error"]
    assert response.status == 415
    assert "send it uncompressed" in error["message"]
    assert error["type"] == "invalid_request_error"
    assert (response.json().get("type") == "error") is (path == "/v1/messages")
    assert counted(gateway) == [(415, "invalid_request")]


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_a_body_with_identity_encoding_is_read(gateway, coding):
    response = gateway.post(CHAT, {"model": "unknown"}, headers={"Content-Encoding": coding})
    assert refused(response) == (404, "model_not_found")
