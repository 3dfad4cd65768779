"""Who is let in, and what the gateway answers by itself."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest

from gateway import snapshot
from gateway.handler import bearer
from gateway.livepage import LivePage
from tests.gateway.process import ALL, KEY, GatewayProcess
from tests.gateway.samples import make_endpoint
from tests.router import until

CHAT = "/v1/chat/completions"


def refused(answer):
    """Status and code of a refusal, which has OpenAI's shape."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["content-type"] == "application/json"
    return answer.status, error["code"]


def counted(gateway):
    """The records of requests that never reached an endpoint: status and reason."""
    records = gateway.records()
    assert all((record.outcome, record.attempts, record.model) == ("rejected", (), "") for record in records)
    return [(record.status, record.error) for record in records]


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
def test_a_key_has_its_time(gateway, ago, status):
    key = gateway.add_key(f"sk_expires{ago}", expires_at=time.time() - ago)
    gateway.publish()
    assert gateway.get("/v1/models", key=key).status == status


def test_an_expired_key_is_told_so(gateway):
    key = gateway.add_key("sk_long_ago", expires_at=1.0)
    gateway.publish()
    answer = gateway.get("/v1/models", key=key)
    assert refused(answer) == (401, "invalid_api_key")
    assert "has expired" in answer.json()["error"]["message"]


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
def test_a_key_has_its_permissions(gateway, permission, method, path, status):
    key = gateway.add_key(f"sk_{permission}", (permission,))
    gateway.publish()
    assert gateway.request(method, path, b"" if method == "POST" else None, key=key).status == status


def test_a_missing_permission_is_counted_for_its_key(gateway):
    key = gateway.add_key("sk_powerless", ())
    gateway.publish()
    answer = gateway.post(CHAT, {}, key=key)
    assert refused(answer) == (403, "permission_denied")
    assert "openai.inference" in answer.json()["error"]["message"]
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
    answer = gateway.get(path)
    assert refused(answer) == (404, "not_found")
    assert path in answer.json()["error"]["message"]
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
def test_a_method_that_a_path_does_not_take(gateway, method, path, allowed):
    answer = gateway.request(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert counted(gateway) == [(405, "method_not_allowed")]


@pytest.mark.parametrize("host", ["router.example", "router.example:1", "x.below.example", "127.0.0.1", "[::1]:1"])
def test_an_allowed_host(gateway, host):
    assert gateway.get("/v1/models", headers={"Host": host}).status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/", "/health"])
def test_a_host_that_is_not_allowed(gateway, path):
    answer = gateway.get(path, headers={"Host": "evil.example"})
    assert refused(answer) == (400, "host_not_allowed")
    assert "ROUTERDASH_ALLOWED_HOSTS" in answer.json()["error"]["message"]
    assert counted(gateway) == [(400, "host_not_allowed")] * (path == "/v1/models")


# Bodies


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{bad", None),
        (b"[]", None),
        (b'"text"', None),
        (b"{}", "model"),
        (b'{"model":7}', "model"),
        (b'{"model":""}', "model"),
        (b'{"model":"m","stream":"yes"}', "stream"),
        (b'{"model":"m","stream_options":[]}', "stream_options"),
    ],
)
def test_a_bad_body(gateway, body, param):
    answer = gateway.post(CHAT, body)
    assert refused(answer) == (400, "invalid_request")
    assert answer.json()["error"]["param"] == param
    assert counted(gateway) == [(400, "invalid_request")]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses"])
def test_an_unknown_model(gateway, path):
    answer = gateway.post(path, {"model": "nobody's"})
    assert refused(answer) == (404, "model_not_found")
    assert answer.json()["error"]["param"] == "model"
    assert "nobody's" in answer.json()["error"]["message"]
    assert counted(gateway) == [(404, "model_not_found")]


# Who asked


@pytest.mark.parametrize(
    ("headers", "ip"),
    [
        ({}, "127.0.0.1"),
        ({"X-Forwarded-For": "192.0.2.7"}, "192.0.2.7"),
        ({"X-Forwarded-For": "198.51.100.1, 2001:DB8::7"}, "2001:db8::7"),
        ({"X-Forwarded-For": "nonsense"}, "127.0.0.1"),
    ],
)
def test_a_record_says_who_asked(gateway, headers, ip):
    gateway.get("/v1/nothing", headers=headers)
    gateway.post(CHAT, {}, headers=headers)
    assert [record.client_ip for record in gateway.records()] == [ip, ip]
    assert KEY not in gateway.log()


# Models


def test_models_are_listed(gateway, sim):
    model = gateway.add(sim.add(), known_as="upstream:latest")
    assert gateway.chat(model).status == 200
    entries = {entry["id"]: entry for entry in gateway.get("/v1/models").json()["data"]}
    assert entries[model]["ready"]
    assert entries[model]["aliases"] == ["upstream:latest"]


def test_a_model_by_its_name(gateway):
    endpoint = make_endpoint("", "org/named %ü")
    gateway.endpoints[endpoint.id] = endpoint
    gateway.publish()
    entry = gateway.get("/v1/models/org%2Fnamed%20%25%C3%BC").json()
    assert (entry["id"], entry["endpoint_ids"]) == ("org/named %ü", [endpoint.id])


@pytest.mark.parametrize("name", ["nobody's", "%FF", "a/b/c"])
def test_an_unknown_model_by_its_name(gateway, name):
    assert refused(gateway.get(f"/v1/models/{name}")) == (404, "model_not_found")
    assert counted(gateway) == [(404, "model_not_found")]


def test_looking_at_models_leaves_no_record(gateway):
    gateway.get("/v1/models")
    assert gateway.records() == []


# Without keys


@pytest.fixture(scope="module")
def open_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(
        tmp_path_factory.mktemp("open"), ROUTERDASH_REQUIRE_API_KEY="false", ROUTERDASH_STORE_BODIES="errors"
    )
    yield process.start()
    process.kill()


@pytest.fixture
def anybody(open_gateway):
    open_gateway.records()
    return open_gateway


@pytest.mark.parametrize("key", [None, "sk_unknown"])
def test_anybody_may_ask(anybody, sim, key):
    answer = anybody.post(CHAT, {"model": anybody.add(sim.add()), "messages": []}, key=key)
    assert answer.status == 200
    assert anybody.record().api_key_id is None


def test_a_known_key_is_told_of_all_the_same(anybody, sim):
    anybody.chat(anybody.add(sim.add()))
    assert anybody.record().api_key_id == KEY[3:11]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.2", "http://localhost"])
def test_pages_of_another_site_may_not_ask(anybody, origin):
    answer = anybody.post(CHAT, {}, key=None, headers={"Origin": origin})
    assert refused(answer) == (403, "origin_not_allowed")
    assert counted(anybody) == [(403, "origin_not_allowed")]


@pytest.mark.parametrize("origin", ["http://127.0.0.1", "https://127.0.0.1:8443"])
def test_our_own_pages_may(anybody, origin):
    assert anybody.post(CHAT, {}, key=None, headers={"Origin": origin}).status == 400
    assert anybody.get("/v1/models", key=None, headers={"Origin": origin}).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_could_send_is_refused(anybody, kind):
    answer = anybody.request("POST", CHAT, b"{}", key=None, headers={"Content-Type": kind})
    assert refused(answer) == (415, "invalid_request")
    assert counted(anybody) == [(415, "invalid_request")]


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_taken(anybody, kind):
    assert anybody.post(CHAT, b"{}", key=None, headers={"Content-Type": kind}).status == 400


def test_with_keys_pages_of_another_site_may_ask(gateway):
    headers = {"Origin": "https://app.example", "Content-Type": "text/plain"}
    assert gateway.post(CHAT, b"{}", headers=headers).status == 400


def test_bodies_of_failed_requests_are_stored_where_that_is_wanted(anybody, sim):
    simulated = sim.add(fault="400")
    model = anybody.add(simulated)
    anybody.chat(model)
    simulated.set(fault="")
    anybody.chat(model)
    failed, went_well = anybody.records()
    assert json.loads(failed.request_body)["model"] == model
    assert json.loads(failed.response_body)["error"]["message"] == "simulated 400"
    assert (went_well.request_body, went_well.response_body) == (None, None)


# Snapshots


def test_a_gateway_without_a_snapshot_waits_for_one(make_gateway):
    process = make_gateway(ROUTERDASH_STORE_BODIES="all").start(published=False)
    answer = process.get("/v1/models")
    assert refused(answer) == (503, "not_ready")
    assert answer.headers["retry-after"] == "2"
    assert process.get("/ready").status == 503
    process.publish()
    assert process.get("/v1/models").status == 200
    assert process.get("/ready").status == 200
    assert process.records() == []  # there was no journal to count the refusal in


def test_a_changed_endpoint_is_taken_over_soon(gateway, sim):
    model = gateway.add(sim.add())
    assert gateway.chat(model).status == 200
    (endpoint,) = gateway.endpoints_of(model)
    gateway.endpoints[endpoint.id] = msgspec.structs.replace(endpoint, status=snapshot.OFFLINE)
    gateway.publish()
    until(lambda: gateway.chat(model).status == 503, 2)


def test_a_deleted_key_stops_working_soon(gateway):
    key = gateway.add_key("sk_deleted_soon", ALL)
    gateway.publish()
    assert gateway.get("/v1/models", key=key).status == 200
    del gateway.keys[key[3:11]]
    gateway.publish()
    until(lambda: gateway.get("/v1/models", key=key).status == 401, 2)


def test_the_journal_follows_the_database(make_gateway, sim):
    process = make_gateway().start()
    model = process.add(sim.add())
    process.chat(model)
    process.database_id = "database-2"
    process.publish()
    until(lambda: process.chat(model).status == 200 and process.database_ids() == {"database-1", "database-2"}, 5)


def test_a_damaged_snapshot_leaves_the_old_one_in_force(make_gateway, sim):
    process = make_gateway().start()
    model = process.add(sim.add())
    assert process.chat(model).status == 200
    process.config.snapshot_path.write_bytes(b"nonsense")
    LivePage(process.config.live_page_path).version += 1
    until(lambda: "snapshot snapshot" in process.log(), 2)
    assert process.chat(model).status == 200


# Requests that bear the same head as the one before them on their connection


@pytest.fixture
def kept(gateway):
    """A client that keeps its connection."""
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)) as connection:

        def ask(path="/v1/models", key=KEY, method="GET", body=None, **headers):
            sent = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
            connection.request(method, path, body, sent)
            with connection.getresponse() as answer:
                answer.read()
                return answer.status

        yield ask


def test_the_same_again(kept):
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


def test_another_key_another_answer(gateway, kept):
    gateway.add_key("sk_reads_only", ("openai.models.read",))
    gateway.publish()
    chat = {"path": CHAT, "method": "POST", "body": b"{}"}
    assert [kept(**chat), kept(key="sk_reads_only", **chat), kept(**chat)] == [400, 403, 400]


def test_the_same_head_for_another_path_or_method(kept):
    assert [kept(), kept("/v1/nothing"), kept(), kept(method="POST"), kept()] == [200, 404, 200, 405, 200]


def test_the_same_head_with_another_host(kept):
    assert [kept(Host="localhost"), kept(Host="evil.example"), kept(Host="localhost")] == [200, 400, 200]


def test_who_asks_is_looked_for_in_each_head(gateway, kept):
    for client in ("192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.1"):
        assert kept(CHAT, method="POST", body=b"{}", **{"X-Forwarded-For": client}) == 400
    assert [record.client_ip for record in gateway.records()] == ["192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.1"]


# Compressed bodies


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses", "/v1/audio/transcriptions"])
@pytest.mark.parametrize("coding", ["gzip", "identity, br", "GZIP"])
def test_a_compressed_body_is_refused_and_the_client_told_to_send_it_plain(gateway, path, coding):
    answer = gateway.post(path, {"model": "tiny"}, headers={"Content-Encoding": coding})
    error = answer.json()["error"]
    assert answer.status == 415
    assert "send it uncompressed" in error["message"]
    assert error["type"] == "invalid_request_error"
    assert (answer.json().get("type") == "error") is (path == "/v1/messages")
    assert counted(gateway) == [(415, "invalid_request")]


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_a_body_that_says_it_is_plain_is_read(gateway, coding):
    answer = gateway.post(CHAT, {"model": "unknown"}, headers={"Content-Encoding": coding})
    assert refused(answer) == (404, "model_not_found")
