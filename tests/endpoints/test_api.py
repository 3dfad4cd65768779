"""`/api/endpoints` through Django with committed transactions: a response has the data that the next reader sees."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from access.models import INFERENCE, MANAGE_ENDPOINTS, READ_ENDPOINTS, User
from benchmarks.simulator import Simulator
from endpoints.models import NUMBER_OPTIONS, Endpoint, EndpointModel, HealthCheck
from endpoints.registry import registry
from tests.access.people import Api, key_for, make_admin, session_of, with_key, without_database
from tests.endpoints.conftest import Serve, listing, make_endpoint, make_model, meanwhile, sql

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

LIST = "/api/endpoints"
MISSING = f"{LIST}/0a1b2c3d-4e5f-4071-8a9b-0c1d2e3f4a5b"


def path_of(endpoint: Endpoint, tail: str = "") -> str:
    return f"{LIST}/{endpoint.pk}{tail}"


def add(api: Api, url: str, name: str = "gpu-box", **fields: Any) -> Any:
    return api.call("POST", LIST, {"name": name, "base_url": url, **fields})


def stored() -> Endpoint:
    return Endpoint.objects.get()


# Access

ROUTES = [
    ("GET", LIST),
    ("POST", LIST),
    ("POST", f"{LIST}/detect"),
    ("POST", f"{LIST}/discover"),
    ("GET", "{}"),
    ("PUT", "{}"),
    ("PATCH", "{}"),
    ("DELETE", "{}"),
    ("GET", "{}/models"),
    ("POST", "{}/test"),
    ("POST", "{}/sync"),
    ("POST", "{}/drain"),
    ("POST", "{}/disable"),
    ("POST", "{}/enable"),
    ("POST", "{}/reset-breaker"),
]
READS = [route for route in ROUTES if route[0] == "GET"]
WRITES = [route for route in ROUTES if route[0] != "GET"]


def send_request(api: Api, route: tuple[str, str], url: str) -> int:
    method, path = route
    status: int = api.call(method, path.format(path_of(make_endpoint(base_url=url))), {}).status_code
    return status


@pytest.mark.parametrize("route", ROUTES)
def test_anonymous_requests_get_401(anybody: Api, route: tuple[str, str], nowhere: str) -> None:
    assert send_request(anybody, route, nowhere) == 401


@pytest.mark.parametrize("route", ROUTES)
def test_an_unknown_key_is_401(route: tuple[str, str], nowhere: str) -> None:
    assert send_request(with_key("sk_unknown"), route, nowhere) == 401


@pytest.mark.parametrize("route", ROUTES)
def test_a_key_without_the_permission_is_403(admin: User, route: tuple[str, str], nowhere: str) -> None:
    wrong = MANAGE_ENDPOINTS if route in READS else READ_ENDPOINTS
    assert send_request(with_key(key_for(admin, INFERENCE, wrong)), route, nowhere) == 403


@pytest.mark.parametrize("route", ROUTES)
def test_a_key_with_the_permission_is_accepted(admin: User, route: tuple[str, str], nowhere: str) -> None:
    right = READ_ENDPOINTS if route in READS else MANAGE_ENDPOINTS
    assert send_request(with_key(key_for(admin, right)), route, nowhere) not in (401, 403)


@pytest.mark.parametrize("route", READS)
def test_a_viewer_reads(as_viewer: Api, route: tuple[str, str], nowhere: str) -> None:
    assert send_request(as_viewer, route, nowhere) == 200


@pytest.mark.parametrize("route", WRITES)
def test_a_viewer_does_not_write(as_viewer: Api, route: tuple[str, str], nowhere: str) -> None:
    assert send_request(as_viewer, route, nowhere) == 403
    assert stored().name == "gpu-box"


@pytest.mark.parametrize("route", ROUTES)
def test_an_administrator_has_access(as_admin: Api, route: tuple[str, str], nowhere: str) -> None:
    assert send_request(as_admin, route, nowhere) not in (401, 403)


@pytest.mark.parametrize("route", WRITES)
def test_a_session_needs_a_csrf_token_to_write(admin: User, route: tuple[str, str], nowhere: str) -> None:
    assert send_request(session_of(admin, enforce_csrf_checks=True), route, nowhere) == 403


def test_a_session_with_its_csrf_token_writes(admin: User) -> None:
    api = session_of(admin, enforce_csrf_checks=True)
    api.get("/account/password")
    api.defaults["HTTP_X_CSRFTOKEN"] = api.cookies["routerdash_csrf"].value
    assert api.call("DELETE", path_of(make_endpoint())).status_code == 204


def test_a_key_needs_no_csrf_token(admin: User) -> None:
    api = Api(enforce_csrf_checks=True, headers={"X-API-Key": key_for(admin, MANAGE_ENDPOINTS)})
    assert api.call("DELETE", path_of(make_endpoint())).status_code == 204


@pytest.mark.parametrize("route", ROUTES)
def test_a_generated_password_gives_no_access(route: tuple[str, str], nowhere: str) -> None:
    api = session_of(make_admin(must_change_password=True))
    assert send_request(api, route, nowhere) == 403


# Unknown paths


@pytest.mark.parametrize("tail", ["", "/models", "/test", "/sync", "/drain", "/disable", "/enable", "/reset-breaker"])
def test_an_unknown_endpoint_is_404(manager: Api, tail: str) -> None:
    method = "GET" if tail in ("", "/models") else "POST"
    assert manager.call(method, MISSING + tail).json() == {"error": "Endpoint not found"}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_writing_to_an_unknown_endpoint_is_404(manager: Api, method: str) -> None:
    assert manager.call(method, MISSING, {}).status_code == 404


@pytest.mark.parametrize("path", ["gpu-box", "1", "0a1b2c3d", MISSING[len(LIST) + 1 :] + "/nothing"])
def test_a_bad_id_is_404(manager: Api, path: str) -> None:
    assert manager.call("GET", f"{LIST}/{path}").status_code == 404


def test_paths_have_no_trailing_slash(manager: Api) -> None:
    assert manager.call("GET", f"{LIST}/").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", LIST),
        ("PATCH", LIST),
        ("DELETE", LIST),
        ("POST", MISSING),
        ("POST", MISSING + "/models"),
        ("GET", MISSING + "/test"),
        ("GET", MISSING + "/sync"),
    ],
)
def test_other_methods_are_405(manager: Api, method: str, path: str) -> None:
    response = manager.call(method, path)
    assert response.status_code == 405
    assert response["Allow"]


# Reading


def test_an_empty_list(manager: Api) -> None:
    assert manager.call("GET", LIST).json() == {"endpoints": [], "total": 0}


def test_the_newest_endpoint_comes_first(manager: Api) -> None:
    for name in ("a", "b", "c"):
        make_endpoint(name)
    body = manager.call("GET", LIST).json()
    assert ([row["name"] for row in body["endpoints"]], body["total"]) == (["c", "b", "a"], 3)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("status=online", ["a"]),
        ("status=offline", ["c", "b"]),
        ("type=ollama", ["b"]),
        ("status=offline&type=vllm", ["c"]),
        ("status=online&type=ollama", []),
        ("status=asleep", []),
        ("type=nothing", []),
        ("status=", []),
        ("other=1", ["c", "b", "a"]),
        ("q=A.invalid", ["a"]),
        ("tag=Tokyo&type=vllm", ["c"]),
        ("model=tiny", ["b"]),
        ("model=", []),
    ],
)
def test_the_list_can_be_filtered(manager: Api, query: str, names: list[str]) -> None:
    make_endpoint("a", status="online", endpoint_type="vllm")
    make_model(make_endpoint("b", status="offline", endpoint_type="ollama"), "tiny")
    make_endpoint("c", status="offline", endpoint_type="vllm").set_options(tags=["tokyo"])
    body = manager.call("GET", f"{LIST}?{query}").json()
    assert ([row["name"] for row in body["endpoints"]], body["total"]) == (names, len(names))


@pytest.mark.parametrize("rows", [1, 12])
def test_a_list_needs_no_query(manager: Api, rows: int, django_assert_num_queries: Any) -> None:
    for number in range(rows):
        make_model(make_endpoint(f"box{number}"))
    manager.call("GET", LIST)
    with django_assert_num_queries(0):
        assert manager.call("GET", LIST).json()["total"] == rows


def test_a_model_of_an_endpoint(manager: Api) -> None:
    endpoint = make_endpoint()
    make_model(endpoint, "org/tiny", max_tokens=4096)
    registry.reload()
    reported = manager.call("GET", path_of(endpoint, "/models/org/tiny/info")).json()
    assert reported == {
        "model_id": "org/tiny",
        "endpoint_id": str(endpoint.pk),
        "max_tokens": 4096,
        "last_checked": None,
    }
    assert manager.call("GET", path_of(endpoint, "/models/org%2Ftiny/info")).json() == reported
    assert manager.call("GET", path_of(endpoint, "/models/tiny/info")).json() == {"error": "Model not found"}


def test_one_endpoint_with_its_models(manager: Api) -> None:
    endpoint = make_endpoint("gpu-box", "http://gpu:8000", endpoint_type="vllm", latency_ms=120)
    make_model(endpoint, "tiny", capabilities=["chat"], max_tokens=4096)
    body = manager.call("GET", path_of(endpoint)).json()
    assert (body["id"], body["name"], body["latency_ms"]) == (str(endpoint.pk), "gpu-box", 120)
    assert [(model["model_id"], model["max_tokens"]) for model in body["models"]] == [("tiny", 4096)]


def test_only_the_models(manager: Api) -> None:
    endpoint = make_endpoint()
    make_model(endpoint, "b")
    make_model(endpoint, "a")
    body = manager.call("GET", path_of(endpoint, "/models")).json()
    assert body["endpoint_id"] == str(endpoint.pk)
    assert [model["model_id"] for model in body["models"]] == ["a", "b"]


def test_a_row_of_llmlb_is_shown(manager: Api) -> None:
    endpoint_id = str(uuid.uuid4())
    columns = "INSERT INTO endpoints (id, name, base_url, registered_at)"
    sql(f"{columns} VALUES (%s, 'theirs', 'http://a:1', '2026-04-15T01:02:03+00:00')", endpoint_id)
    body = manager.call("GET", f"{LIST}/{endpoint_id}").json()
    assert (body["name"], body["registered_at"]) == ("theirs", "2026-04-15T01:02:03Z")


# Adding


def test_an_added_endpoint_is_returned_and_stored(manager: Api, sim: Simulator) -> None:
    url = sim.add(kind="vllm").url
    response = add(manager, url, notes="basement", health_check_interval_secs=10, inference_timeout_secs=60)
    body = response.json()
    assert response.status_code == 201
    assert (body["name"], body["base_url"], body["status"], body["endpoint_type"]) == (
        "gpu-box",
        url,
        "pending",
        "vllm",
    )
    assert (body["notes"], body["health_check_interval_secs"], body["inference_timeout_secs"]) == ("basement", 10, 60)
    assert str(stored().pk) == body["id"]


def test_an_added_endpoint_is_in_the_next_list(manager: Api, sim: Simulator) -> None:
    assert manager.call("GET", LIST).json()["total"] == 0
    added = add(manager, sim.add().url).json()
    assert [row["id"] for row in manager.call("GET", LIST).json()["endpoints"]] == [added["id"]]


def test_defaults_are_those_of_llmlb(manager: Api, sim: Simulator) -> None:
    body = add(manager, sim.add().url).json()
    assert (body["health_check_interval_secs"], body["inference_timeout_secs"]) == (30, 120)
    assert stored().capabilities == ["chat_completion"]


def test_capabilities_are_stored(manager: Api, sim: Simulator) -> None:
    add(manager, sim.add().url, capabilities=["embeddings", "chat_completion"])
    assert stored().capabilities == ["embeddings", "chat_completion"]


def test_an_endpoint_is_added_with_its_limits(manager: Api, sim: Simulator) -> None:
    limits: dict[str, Any] = dict.fromkeys(NUMBER_OPTIONS, 7)
    body = add(manager, sim.add().url, **limits).json()
    assert {name: body[name] for name in limits} == limits


@pytest.mark.parametrize("tail", ["/", "/v1", "/v1/"])
def test_a_base_url_is_normalised(manager: Api, sim: Simulator, tail: str) -> None:
    url = sim.add().url
    assert add(manager, url + tail).json()["base_url"] == url


@pytest.mark.parametrize("name", ["日本語の名前", "gpu <1> & \"2\" '3' / 4", "x" * 200])
def test_any_name_is_accepted(manager: Api, sim: Simulator, name: str) -> None:
    assert add(manager, sim.add().url, name).json()["name"] == name


@pytest.mark.parametrize("missing", ["name", "base_url"])
def test_a_missing_field_is_400(manager: Api, missing: str) -> None:
    body = {"name": "a", "base_url": "http://a.invalid"}
    del body[missing]
    response = manager.call("POST", LIST, body)
    assert response.status_code == 400
    assert list(response.json()["fields"]) == [missing]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", ""),
        ("name", "  "),
        ("base_url", ""),
        ("base_url", "ftp://nonsense"),
        ("base_url", "ftp://a:1"),
        ("health_check_interval_secs", 0),
        ("health_check_interval_secs", 3601),
        ("inference_timeout_secs", 0),
        ("operator_state", "asleep"),
        ("capabilities", "chat"),
    ],
)
def test_a_wrong_field_is_400_without_a_probe(manager: Api, serve: Serve, field: str, wrong: Any) -> None:
    server = serve({"/v1/models": listing("a")})
    response = manager.call("POST", LIST, {"name": "a", "base_url": server.url, field: wrong})
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"{field}: ")
    assert server.requests == []
    assert not Endpoint.objects.exists()


@pytest.mark.parametrize("interval", [1, 3600])
def test_intervals_go_from_a_second_to_an_hour(manager: Api, sim: Simulator, interval: int) -> None:
    assert add(manager, sim.add().url, health_check_interval_secs=interval).status_code == 201


@pytest.mark.parametrize("body", ["{", "", "{'name': 1}", '{"name": NaN}', "\xff"])
def test_malformed_json_is_400(manager: Api, body: str) -> None:
    response: Any = manager.generic("POST", LIST, body.encode("latin-1"), content_type="application/json")
    assert response.status_code == 400
    assert set(response.json()) >= {"error"}


@pytest.mark.parametrize("body", [[], "gpu-box", 7, None, [{"name": "a"}]])
def test_json_that_is_no_object_is_400(manager: Api, body: Any) -> None:
    response: Any = manager.post(LIST, body, content_type="application/json")
    assert response.status_code == 400
    assert isinstance(response.json()["error"], str)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_another_content_type_is_415(manager: Api, kind: str) -> None:
    response: Any = manager.generic("POST", LIST, "name=a", content_type=kind)
    assert response.status_code == 415
    assert isinstance(response.json()["error"], str)


def test_a_name_in_use_is_400(manager: Api, sim: Simulator) -> None:
    make_endpoint("gpu-box")
    response = add(manager, sim.add().url)
    assert response.status_code == 400
    assert list(response.json()["fields"]) == ["name"]


def test_names_differ_by_case(manager: Api, sim: Simulator) -> None:
    make_endpoint("gpu-box")
    assert add(manager, sim.add().url, "GPU-box").status_code == 201


@pytest.mark.parametrize("tail", ["", "/", "/v1"])
def test_a_url_in_use_is_409_without_a_probe(manager: Api, serve: Serve, tail: str) -> None:
    server = serve({"/v1/models": listing("a")})
    make_endpoint("other", server.url)
    assert add(manager, server.url + tail).status_code == 409
    assert server.requests == []


def test_an_unreachable_endpoint_is_502(manager: Api, nowhere: str) -> None:
    response = add(manager, nowhere)
    assert response.status_code == 502
    assert response.json() == {"error": "The endpoint cannot be reached: connection refused"}
    assert not Endpoint.objects.exists()


@pytest.mark.parametrize("served", [404, 500, {"hello": "world"}])
def test_an_unknown_server_is_400(manager: Api, serve: Serve, served: Any) -> None:
    response = add(manager, serve({"/v1/models": served}).url)
    assert response.status_code == 400
    assert "inference server is not supported" in response.json()["error"]
    assert not Endpoint.objects.exists()


def test_a_wrong_upstream_key_is_400_with_the_reason(manager: Api, sim: Simulator) -> None:
    url = sim.add(api_key="sk-upstream").url
    error = add(manager, url, api_key="sk-other").json()["error"]
    assert error == "The server responded, but it cannot be used: HTTP 401: the API key is missing or wrong"
    assert add(manager, url, api_key="sk-upstream").status_code == 201


def test_a_name_taken_during_the_probe_is_409(manager: Api, serve: Serve) -> None:
    async def slowly(request: web.Request) -> web.Response:
        await asyncio.to_thread(meanwhile, lambda: make_endpoint("gpu-box"))
        return web.json_response(listing("a"))

    assert add(manager, serve({"/v1/models": slowly}).url).status_code == 409
    assert stored().base_url.endswith(".invalid:8000")


def test_a_name_is_free_again_after_deletion(manager: Api, sim: Simulator) -> None:
    url = sim.add().url
    first = add(manager, url).json()
    manager.call("DELETE", f"{LIST}/{first['id']}")
    assert add(manager, url).json()["id"] != first["id"]


# Changing


@pytest.fixture
def endpoint(sim: Simulator) -> Endpoint:
    return make_endpoint("gpu-box", sim.add().url, notes="old", latency_ms=120, status="online", total_requests=5)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "renamed"),
        ("notes", "new"),
        ("notes", ""),
        ("notes", None),
        ("health_check_interval_secs", 3600),
        ("inference_timeout_secs", 600),
        ("operator_state", "draining"),
        ("connect_timeout_secs", 1),
        ("idle_timeout_secs", 600),
        ("total_timeout_secs", 3600),
        ("max_concurrency", 4),
        ("max_concurrency", None),
        ("capabilities", ["chat_completion", "rerank"]),
    ],
)
def test_one_field_is_changed(manager: Api, endpoint: Endpoint, method: str, field: str, value: Any) -> None:
    before = manager.call("GET", path_of(endpoint)).json()
    response = manager.call(method, path_of(endpoint), {field: value})
    assert response.status_code == 200
    assert response.json() == before | {field: value}
    assert manager.call("GET", path_of(endpoint)).json() == before | {field: value}


def test_many_fields_at_once(manager: Api, endpoint: Endpoint) -> None:
    changes = {"name": "renamed", "notes": "new", "health_check_interval_secs": 5, "operator_state": "disabled"}
    body = manager.call("PATCH", path_of(endpoint), changes).json()
    assert {name: body[name] for name in changes} == changes


def test_capabilities_can_be_changed(manager: Api, endpoint: Endpoint) -> None:
    manager.call("PATCH", path_of(endpoint), {"capabilities": ["embeddings"]})
    assert stored().capabilities == ["embeddings"]


def test_chat_is_stored_in_the_spelling_of_llmlb(manager: Api, endpoint: Endpoint) -> None:
    manager.call("PATCH", path_of(endpoint), {"capabilities": ["chat", "rerank", "chat_completion"]})
    assert stored().capabilities == ["chat_completion", "rerank"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_an_empty_change_changes_nothing(manager: Api, endpoint: Endpoint, method: str) -> None:
    before = manager.call("GET", path_of(endpoint)).json()
    response = manager.call(method, path_of(endpoint), {})
    assert (response.status_code, response.json()) == (200, before)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", " "),
        ("name", None),
        ("base_url", "ftp://nonsense"),
        ("health_check_interval_secs", 0),
        ("health_check_interval_secs", 3601),
        ("inference_timeout_secs", "long"),
        ("operator_state", "asleep"),
    ],
)
def test_a_wrong_change_is_400_and_changes_nothing(manager: Api, endpoint: Endpoint, field: str, wrong: Any) -> None:
    response = manager.call("PATCH", path_of(endpoint), {"notes": "new", field: wrong})
    assert response.status_code == 400
    assert list(response.json()["fields"]) == [field]
    assert stored().notes == "old"


@pytest.mark.parametrize(
    "field",
    ["id", "status", "latency_ms", "last_seen", "error_count", "registered_at", "total_requests", "endpoint_type"],
)
def test_read_only_fields_are_ignored(manager: Api, endpoint: Endpoint, field: str) -> None:
    before = Endpoint.objects.values().get()
    assert manager.call("PATCH", path_of(endpoint), {field: "7"}).status_code == 200
    assert Endpoint.objects.values().get() == before


def test_a_change_to_a_name_in_use_is_refused(manager: Api, endpoint: Endpoint) -> None:
    make_endpoint("other")
    assert manager.call("PATCH", path_of(endpoint), {"name": "other"}).status_code == 400
    assert manager.call("PATCH", path_of(endpoint), {"name": "gpu-box"}).status_code == 200


def test_a_change_to_a_url_in_use_is_refused(manager: Api, endpoint: Endpoint) -> None:
    other = make_endpoint("other")
    assert manager.call("PATCH", path_of(endpoint), {"base_url": other.base_url + "/v1"}).status_code == 409


@pytest.mark.parametrize("body", ["{", "[]"])
def test_a_malformed_change_is_400(manager: Api, endpoint: Endpoint, body: str) -> None:
    response: Any = manager.generic("PATCH", path_of(endpoint), body, content_type="application/json")
    assert response.status_code == 400
    assert isinstance(response.json()["error"], str)


# Moving to another address


def test_a_move_detects_the_type_again(manager: Api, endpoint: Endpoint, sim: Simulator) -> None:
    url = sim.add(kind="ollama").url
    body = manager.call("PATCH", path_of(endpoint), {"base_url": url + "/v1"}).json()
    assert (body["base_url"], body["endpoint_type"]) == (url, "ollama")


def test_a_move_deletes_the_key(manager: Api, endpoint: Endpoint, serve: Serve) -> None:
    endpoint.set_api_key("sk-old")
    server = serve({"/v1/models": listing("a")})
    body = manager.call("PATCH", path_of(endpoint), {"base_url": server.url}).json()
    assert body["has_api_key"] is False
    assert stored().api_key is None
    assert {authorization for _, _, authorization in server.requests} == {""}


def test_a_move_deletes_the_plain_key_of_llmlb(manager: Api, endpoint: Endpoint, sim: Simulator) -> None:
    Endpoint.objects.update(api_key_encrypted="sk-theirs")
    manager.call("PATCH", path_of(endpoint), {"base_url": sim.add().url})
    assert stored().api_key is None


def test_a_move_with_a_new_key_stores_it(manager: Api, endpoint: Endpoint, sim: Simulator) -> None:
    endpoint.set_api_key("sk-old")
    url = sim.add(api_key="sk-new").url
    body = manager.call("PATCH", path_of(endpoint), {"base_url": url, "api_key": "sk-new"}).json()
    assert body["has_api_key"] is True
    assert stored().api_key == "sk-new"


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("old", ["sealed", "plain"])
@pytest.mark.parametrize("change", ["scheme", "host", "port"])
def test_a_key_is_not_sent_to_another_server(manager: Api, serve: Serve, method: str, old: str, change: str) -> None:
    server = serve({"/v1/models": listing("a")})
    port = server.url.rsplit(":", 1)[1]
    before = {"scheme": f"https://127.0.0.1:{port}", "host": f"http://localhost:{port}", "port": "http://127.0.0.1:9"}
    endpoint = make_endpoint(base_url=before[change], api_key_encrypted="sk-old" if old == "plain" else None)
    if old == "sealed":
        endpoint.set_api_key("sk-old")
    assert manager.call(method, path_of(endpoint), {"base_url": server.url}).json()["has_api_key"] is False
    assert stored().api_key is None
    assert {authorization for _, _, authorization in server.requests} == {""}


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_another_path_keeps_the_key_and_sends_it(manager: Api, serve: Serve, method: str) -> None:
    server = serve({"/openai/v1/models": listing("a")})
    endpoint = make_endpoint(base_url=server.url)
    endpoint.set_api_key("sk-old")
    body = manager.call(method, path_of(endpoint), {"base_url": server.url + "/openai"}).json()
    assert (body["base_url"], body["has_api_key"]) == (server.url + "/openai", True)
    assert {authorization for _, _, authorization in server.requests} == {"Bearer sk-old"}


def test_another_path_with_a_key_that_cannot_be_decrypted_is_502(manager: Api, endpoint: Endpoint) -> None:
    endpoint.set_options(sealed_api_key="nonsense")
    response = manager.call("PATCH", path_of(endpoint), {"base_url": endpoint.base_url + "/openai"})
    assert response.status_code == 502
    assert "store it again" in response.json()["error"]


def test_a_move_deletes_the_slots_reported_by_the_old_server(manager: Api, endpoint: Endpoint, sim: Simulator) -> None:
    endpoint.set_options(learned_slots=4, max_concurrency=9)
    body = manager.call("PATCH", path_of(endpoint), {"base_url": sim.add().url}).json()
    assert (body["learned_slots"], body["max_concurrency"]) == (None, 9)


def test_two_moves_at_once_do_not_mix_their_keys(manager: Api, endpoint: Endpoint, serve: Serve) -> None:
    async def slowly(request: web.Request) -> web.Response:
        await asyncio.to_thread(meanwhile, lambda: Endpoint.objects.update(base_url="http://elsewhere:1"))
        return web.json_response(listing("a"))

    body = {"base_url": serve({"/v1/models": slowly}).url, "api_key": "sk-new"}
    assert manager.call("PATCH", path_of(endpoint), body).status_code == 409
    assert (stored().base_url, stored().api_key) == ("http://elsewhere:1", None)


@pytest.mark.parametrize("url", ["http://169.254.169.254", "http://0xA9FEA9FE:80"])
def test_a_link_local_address_is_400(manager: Api, endpoint: Endpoint, url: str) -> None:
    for response in (add(manager, url, "other"), manager.call("PATCH", path_of(endpoint), {"base_url": url})):
        assert response.status_code == 400
        assert "ROUTERDASH_ALLOW_LINK_LOCAL" in response.json()["fields"]["base_url"][0]


@pytest.mark.parametrize("tail", ["", "/", "/v1"])
def test_the_same_address_is_not_a_move(manager: Api, endpoint: Endpoint, tail: str) -> None:
    endpoint.set_api_key("sk-old")
    body = manager.call("PUT", path_of(endpoint), {"base_url": endpoint.base_url + tail}).json()
    assert body["has_api_key"] is True


def test_a_move_to_a_closed_port_is_502(manager: Api, endpoint: Endpoint, nowhere: str) -> None:
    before = Endpoint.objects.values().get()
    assert manager.call("PATCH", path_of(endpoint), {"base_url": nowhere, "notes": "new"}).status_code == 502
    assert Endpoint.objects.values().get() == before


def test_a_move_to_an_unknown_server_is_400(manager: Api, endpoint: Endpoint, serve: Serve) -> None:
    before = Endpoint.objects.values().get()
    assert manager.call("PATCH", path_of(endpoint), {"base_url": serve({}).url}).status_code == 400
    assert Endpoint.objects.values().get() == before


def test_a_move_keeps_the_figures(manager: Api, endpoint: Endpoint, sim: Simulator) -> None:
    body = manager.call("PATCH", path_of(endpoint), {"base_url": sim.add().url}).json()
    assert (body["latency_ms"], stored().total_requests) == (120, 5)


# The upstream's key


def test_no_response_contains_a_key(manager: Api, sim: Simulator) -> None:
    url = sim.add(api_key="sk-upstream").url
    responses = [add(manager, url, api_key="sk-upstream")]
    path = f"{LIST}/{responses[0].json()['id']}"
    responses += [manager.call("GET", LIST), manager.call("GET", path), manager.call("GET", path + "/models")]
    responses += [manager.call("PATCH", path, {"api_key": "sk-upstream"}), manager.call("PUT", path, {"notes": "x"})]
    responses += [manager.call("POST", path + "/test"), manager.call("POST", path + "/sync")]
    sealed = stored().options.sealed_api_key
    for response in responses:
        assert response.status_code in (200, 201)
        assert "sk-upstream" not in response.content.decode()
        assert sealed not in response.content.decode()


def test_a_key_is_stored_sealed(manager: Api, sim: Simulator) -> None:
    assert add(manager, sim.add().url, api_key="sk-upstream").json()["has_api_key"] is True
    assert stored().api_key == "sk-upstream"
    assert "sk-upstream" not in str(sql("SELECT * FROM endpoint_options")) + str(sql("SELECT * FROM endpoints"))


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_key_is_forgotten_on_request(manager: Api, endpoint: Endpoint, nothing: str | None) -> None:
    endpoint.set_api_key("sk-old")
    assert manager.call("PATCH", path_of(endpoint), {"api_key": nothing}).json()["has_api_key"] is False


# Deleting


def test_a_deleted_endpoint_is_removed_at_once(manager: Api, endpoint: Endpoint) -> None:
    path = path_of(endpoint)
    make_model(endpoint)
    response = manager.call("DELETE", path)
    assert (response.status_code, response.content) == (204, b"")
    assert manager.call("GET", path).status_code == 404
    assert manager.call("DELETE", path).status_code == 404
    assert manager.call("GET", LIST).json()["total"] == 0
    assert not EndpointModel.objects.exists()


# Testing


def test_a_test_returns_latency_and_models(manager: Api, sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add(models=["a", "b"]).url)
    response = manager.call("POST", path_of(endpoint, "/test"))
    body = response.json()
    assert response.status_code == 200
    assert (body["success"], body["error"], body["models_found"]) == (True, None, ["a", "b"])
    assert body["endpoint_info"] == {"model_count": 2}
    assert manager.call("GET", path_of(endpoint)).json()["latency_ms"] == body["latency_ms"]


@pytest.mark.parametrize(("fault", "error"), [("401", "HTTP 401"), ("500", "HTTP 500")])
def test_a_failed_test_is_200_too(manager: Api, sim: Simulator, fault: str, error: str) -> None:
    endpoint = make_endpoint(base_url=sim.add(health_fault=fault).url, status="online", latency_ms=120)
    response = manager.call("POST", path_of(endpoint, "/test"))
    assert response.status_code == 200
    assert response.json() == {"success": False, "latency_ms": None, "error": error, "models_found": None}
    body = manager.call("GET", path_of(endpoint)).json()
    assert (body["status"], body["last_error"], body["latency_ms"], body["error_count"]) == ("error", error, 120, 1)


def test_a_test_of_an_unreachable_server_returns_the_reason(manager: Api, nowhere: str) -> None:
    response = manager.call("POST", path_of(make_endpoint(base_url=nowhere), "/test"))
    assert (response.status_code, response.json()["error"]) == (200, "connection refused")
    assert HealthCheck.objects.get().error_message == "connection refused"


def test_a_stored_link_local_address_is_not_connected_to(manager: Api) -> None:
    endpoint = make_endpoint(base_url="http://169.254.169.254")
    endpoint.set_api_key("sk-upstream")
    assert "link-local" in manager.call("POST", path_of(endpoint, "/test")).json()["error"]
    assert manager.call("POST", path_of(endpoint, "/sync")).status_code == 503


# Administrative state


@pytest.fixture
def in_flight(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint) -> None:
    monkeypatch.setattr(registry, "in_flight", lambda: {str(endpoint.pk): 3})


@pytest.mark.parametrize(
    ("operation", "state"), [("drain", "draining"), ("disable", "disabled"), ("enable", "enabled")]
)
def test_operations_return_in_flight_requests(
    manager: Api, endpoint: Endpoint, in_flight: None, operation: str, state: str
) -> None:
    response = manager.call("POST", path_of(endpoint, f"/{operation}"))
    body = response.json()
    assert (response.status_code, body["operator_state"], body["active_requests"]) == (200, state, 3)
    assert body == manager.call("GET", path_of(endpoint)).json()


@pytest.mark.usefixtures("in_flight")
def test_a_breaker_reset_reaches_gateways(manager: Api, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []
    monkeypatch.setattr(registry, "reset_breaker", reported.append)
    body = manager.call("POST", path_of(endpoint, "/reset-breaker")).json()
    assert reported == [str(endpoint.pk)]
    assert body == manager.call("GET", path_of(endpoint)).json()


@pytest.mark.parametrize("sent", [{}, {"deadline_secs": None}])
def test_a_drain_without_a_deadline_waits(manager: Api, endpoint: Endpoint, sent: Any) -> None:
    assert manager.call("POST", path_of(endpoint, "/drain"), sent).json()["drain_until"] is None


@pytest.mark.parametrize("seconds", [0, 60, 86400])
def test_a_drain_has_a_deadline(manager: Api, endpoint: Endpoint, seconds: int) -> None:
    earliest = datetime.now(UTC) + timedelta(seconds=seconds)
    body = manager.call("POST", path_of(endpoint, "/drain"), {"deadline_secs": seconds}).json()
    latest = datetime.now(UTC) + timedelta(seconds=seconds)
    assert earliest <= datetime.fromisoformat(body["drain_until"]) <= latest


@pytest.mark.parametrize("wrong", [-1, 86401, 1.5, "soon", True, []])
def test_a_wrong_deadline_is_400_and_drains_nothing(manager: Api, endpoint: Endpoint, wrong: Any) -> None:
    response = manager.call("POST", path_of(endpoint, "/drain"), {"deadline_secs": wrong})
    assert (response.status_code, list(response.json()["fields"])) == (400, ["deadline_secs"])
    assert manager.call("GET", path_of(endpoint)).json()["operator_state"] == "enabled"


@pytest.mark.parametrize("operation", ["enable", "disable", "drain"])
def test_another_operator_state_clears_the_deadline(manager: Api, endpoint: Endpoint, operation: str) -> None:
    manager.call("POST", path_of(endpoint, "/drain"), {"deadline_secs": 60})
    assert manager.call("POST", path_of(endpoint, f"/{operation}")).json()["drain_until"] is None


@pytest.mark.parametrize(("state", "kept"), [("draining", True), ("enabled", False), ("disabled", False)])
def test_a_change_of_state_clears_the_deadline(manager: Api, endpoint: Endpoint, state: str, kept: bool) -> None:
    manager.call("POST", path_of(endpoint, "/drain"), {"deadline_secs": 60})
    body = manager.call("PATCH", path_of(endpoint), {"operator_state": state}).json()
    assert (body["operator_state"], body["drain_until"] is not None) == (state, kept)


def test_values_reported_by_the_server_are_read_only(manager: Api, endpoint: Endpoint) -> None:
    body = manager.call("PATCH", path_of(endpoint), {"learned_slots": 7, "drain_until": "2026-01-01"}).json()
    assert (body["learned_slots"], body["drain_until"]) == (None, None)


# Syncing


def test_a_sync_reads_the_slots_of_llamacpp(manager: Api, serve: Serve) -> None:
    responses = {"/v1/models": listing("a"), "/props": {"total_slots": 4}, "/v1/embeddings": 400}
    endpoint = make_endpoint(base_url=serve(responses).url, endpoint_type="llamacpp")
    manager.call("POST", path_of(endpoint, "/sync"))
    body = manager.call("GET", path_of(endpoint)).json()
    assert (body["learned_slots"], body["max_concurrency"]) == (4, None)
    assert body["models"][0]["capabilities"] == ["embeddings"]


def test_a_sync_returns_the_changes(manager: Api, sim: Simulator) -> None:
    simulated = sim.add(models=["b", "a"])
    endpoint = make_endpoint(base_url=simulated.url)
    response = manager.call("POST", path_of(endpoint, "/sync"))
    assert response.status_code == 200
    body = response.json()
    assert [model["model_id"] for model in body.pop("synced_models")] == ["a", "b"]
    assert body == {"added": 2, "removed": 0, "updated": 0}
    simulated.set(models=["b", "c"])
    response = manager.call("POST", path_of(endpoint, "/sync"))
    body = response.json()
    synced = body.pop("synced_models")
    assert body == {"added": 1, "removed": 1, "updated": 1}
    models = manager.call("GET", path_of(endpoint)).json()["models"]
    assert [model["model_id"] for model in models] == ["b", "c"]
    assert synced == models


def test_synced_models_are_objects_as_in_llmlb(manager: Api, sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add(models=["nomic-embed-text"]).url)
    (model,) = manager.call("POST", path_of(endpoint, "/sync")).json()["synced_models"]
    assert model.keys() == {
        *("model_id", "capabilities", "max_tokens", "last_checked", "canonical_name"),
        *("max_output_tokens", "lacks", "features"),
    }
    assert (model["model_id"], model["capabilities"], model["max_tokens"]) == ("nomic-embed-text", ["embeddings"], 4096)


def test_a_sync_of_an_unreachable_server_is_503(manager: Api, nowhere: str) -> None:
    endpoint = make_endpoint(base_url=nowhere)
    make_model(endpoint)
    response = manager.call("POST", path_of(endpoint, "/sync"))
    assert response.status_code == 503
    assert response.json() == {"error": "The endpoint cannot be reached: connection refused"}
    assert EndpointModel.objects.count() == 1


@pytest.mark.parametrize("served", [500, 401, {"hello": "world"}, []])
def test_a_sync_with_a_malformed_list_is_502(manager: Api, serve: Serve, served: Any) -> None:
    endpoint = make_endpoint(base_url=serve({"/v1/models": served}).url)
    make_model(endpoint)
    assert manager.call("POST", path_of(endpoint, "/sync")).status_code == 502
    assert EndpointModel.objects.count() == 1


def test_a_sync_of_an_empty_server_empties_the_list(manager: Api, sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add(models=[]).url)
    make_model(endpoint)
    assert manager.call("POST", path_of(endpoint, "/sync")).json()["removed"] == 1
    assert manager.call("GET", path_of(endpoint)).json()["model_count"] == 0


def test_without_a_database_reading_works_and_writing_is_503(manager: Api) -> None:
    endpoint = make_endpoint()
    manager.call("GET", LIST)
    assert without_database(lambda: manager.call("GET", path_of(endpoint))).status_code == 200
    response = without_database(lambda: manager.call("DELETE", path_of(endpoint)))
    assert response.status_code == 503
    assert "database is currently unavailable" in response.json()["error"]


def test_create_change_operate_and_delete(manager: Api, sim: Simulator) -> None:
    simulated = sim.add(models=["tiny"], kind="vllm")
    path = f"{LIST}/{add(manager, simulated.url).json()['id']}"
    assert manager.call("POST", path + "/test").json()["success"]
    assert manager.call("POST", path + "/sync").json()["added"] == 1
    body = manager.call("PATCH", path, {"name": "renamed"}).json()
    assert (body["name"], body["status"], body["model_count"]) == ("renamed", "online", 1)
    assert manager.call("DELETE", path).status_code == 204
    assert registry.all() == ()
