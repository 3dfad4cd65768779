"""Responses that the gateway creates itself, and new snapshots."""

import msgspec
import pytest

from gateway.registry import folders, schema
from gateway.registry.store import FILE
from gateway.routing.model_list import ENDPOINT_FIELDS
from tests.gateway.process import ALL, KEY
from tests.gateway.refusals import counted, refused
from tests.gateway.samples import make_endpoint
from tests.router import until

CHAT = "/v1/chat/completions"


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
    response = gateway.post(CHAT, body)
    assert refused(response) == (400, "invalid_request")
    assert response.json()["error"]["param"] == param
    assert counted(gateway) == [(400, "invalid_request")]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses"])
def test_an_unknown_model(gateway, path):
    response = gateway.post(path, {"model": "nobody's"})
    assert refused(response) == (404, "model_not_found")
    assert response.json()["error"]["param"] == "model"
    assert "nobody's" in response.json()["error"]["message"]
    assert counted(gateway) == [(404, "model_not_found")]


# Models


def test_models_are_listed(gateway, sim):
    model = gateway.add(sim.add(), known_as="upstream:latest")
    assert gateway.chat(model).status == 200
    entries = {entry["id"]: entry for entry in gateway.get("/v1/models").json()["data"]}
    assert entries[model]["aliases"] == ["upstream:latest"]


def test_a_model_by_its_name(gateway):
    endpoint = make_endpoint("", "org/named %ü")
    gateway.endpoints[endpoint.id] = endpoint
    gateway.publish()
    entry = gateway.get("/v1/models/org%2Fnamed%20%25%C3%BC").json()
    assert (entry["id"], entry["object"]) == ("org/named %ü", "model")


def test_fields_of_endpoints_need_their_permission(make_gateway, sim):
    gateway = make_gateway().start()
    model = gateway.add(sim.add())
    reader = gateway.add_key("sk_reads-endpoints", (*ALL, "endpoints.read"))
    gateway.publish()
    for path in ("/v1/models", f"/v1/models/{model}"):
        seen = []
        for key in (KEY, reader):
            body = gateway.get(path, key=key).json()
            (entry,) = body.get("data", [body])
            seen.append(sorted(entry.keys() & set(ENDPOINT_FIELDS)))
        assert seen == [[], sorted(ENDPOINT_FIELDS)]


@pytest.mark.parametrize("path", ["/v1/models", "/ollama/api/tags", "/ollama/api/ps"])
@pytest.mark.parametrize("headers", [{}, {"anthropic-version": "2023-06-01"}])
def test_lists_show_external_models_to_keys_that_may_use_them(make_gateway, path, headers):
    gateway = make_gateway().start()
    own, cloud = make_endpoint("own", "own-model"), make_endpoint("cloud", "cloud-model", external=True)
    gateway.endpoints |= {own.id: own, cloud.id: cloud}
    may_not = gateway.add_key("sk_own-house-only")
    may = gateway.add_key("sk_may-use-external", external=True)
    gateway.publish()
    lists = [gateway.get(path, key=key, headers=headers).body.decode() for key in (may_not, may)]
    assert [("own-model" in text, "cloud-model" in text) for text in lists] == [(True, False), (True, True)]


@pytest.mark.parametrize("name", ["nobody's", "%FF", "a/b/c"])
def test_an_unknown_model_by_its_name(gateway, name):
    assert refused(gateway.get(f"/v1/models/{name}")) == (404, "model_not_found")
    assert counted(gateway) == [(404, "model_not_found")]


ANTHROPIC = {"anthropic-version": "2023-06-01"}


@pytest.mark.parametrize("header", [{"x-api-key": KEY}, {"Authorization": f"Bearer {KEY}"}])
def test_claude_code_discovers_models(make_gateway, sim, header):
    gateway = make_gateway().start()  # the shared process may have more models than one page
    model = gateway.add(sim.add(), known_as="upstream:latest")
    assert gateway.chat(model).status == 200
    response = gateway.get("/v1/models?limit=1000", key=None, headers={**ANTHROPIC, **header})
    assert response.status == 200
    page = response.json()
    entries = {entry["id"]: entry["type"] for entry in page["data"]}
    assert entries[model] == "model"
    assert page["has_more"] is False
    one = gateway.get(f"/v1/models/{model}", headers=ANTHROPIC).json()
    assert one == next(entry for entry in page["data"] if entry["id"] == model)


def test_later_models_are_in_the_next_list_for_anthropic(gateway, sim):
    gateway.get("/v1/models", headers=ANTHROPIC)
    model = gateway.add(sim.add())
    assert gateway.chat(model).status == 200
    page = gateway.get("/v1/models?limit=1000", headers=ANTHROPIC).json()
    assert model in [entry["id"] for entry in page["data"]]


@pytest.mark.parametrize(
    ("path", "key", "status", "kind"),
    [
        ("/v1/models?limit=0", KEY, 400, "invalid_request_error"),
        ("/v1/models/nobody's", KEY, 404, "not_found_error"),
        ("/v1/models", "wrong", 401, "authentication_error"),
    ],
)
def test_anthropic_clients_read_errors_of_the_model_list(gateway, path, key, status, kind):
    response = gateway.get(path, key=key, headers=ANTHROPIC)
    assert response.status == status
    assert (response.json()["type"], response.json()["error"]["type"]) == ("error", kind)


def test_reading_models_leaves_no_record(gateway):
    gateway.get("/v1/models")
    assert gateway.records() == []


# Publication


def test_a_gateway_waits_for_the_first_publication(make_gateway):
    process = make_gateway(ROUTERDASH_STORE_BODIES="all").start(published=False)
    response = process.get("/v1/models")
    assert refused(response) == (503, "not_ready")
    assert response.headers["retry-after"] == "2"
    assert process.get("/ready").status == 503
    process.publish()
    assert process.get("/v1/models").status == 200
    assert process.get("/ready").status == 200
    assert process.records() == []  # the refusal could not be counted without a journal


def test_a_changed_endpoint_is_used_soon(gateway, sim):
    model = gateway.add(sim.add())
    assert gateway.chat(model).status == 200
    (endpoint,) = gateway.endpoints_of(model)
    gateway.endpoints[endpoint.id] = msgspec.structs.replace(endpoint, status=schema.OFFLINE)
    gateway.publish()
    until(lambda: gateway.chat(model).status == 503)


def test_a_deleted_key_stops_working_soon(gateway):
    key = gateway.add_key("sk_deleted_soon", ALL)
    gateway.publish()
    assert gateway.get("/v1/models", key=key).status == 200
    del gateway.keys[key[3:11]]
    gateway.publish()
    until(lambda: gateway.get("/v1/models", key=key).status == 401)


def test_the_journal_follows_the_database(make_gateway, sim):
    process = make_gateway().start()
    model = process.add(sim.add())
    process.chat(model)
    process.database_id = "database-2"
    process.publish()
    until(lambda: process.chat(model).status == 200 and process.database_ids() == {"database-1", "database-2"})


def test_a_gateway_with_a_damaged_store_serves_what_it_has_in_memory(make_gateway, sim):
    process = make_gateway().start()
    model = process.add(sim.add())
    assert process.chat(model).status == 200
    generation = process.page.registry_generation
    (folders.folder(process.config.registry_dir, generation) / FILE).write_bytes(b"nonsense")
    process.page.version += 1
    until(lambda: process.page.damaged_generation == generation)
    assert process.chat(model).status == 200
    assert "the registry store cannot be read" in process.log()
