"""Stored responses belong to the API key that created them."""

import json
import signal

import pytest

from gateway.ipc.bound_hits import Hits
from tests.gateway.inference.helpers import event_data
from tests.gateway.process import GatewayProcess
from tests.gateway.scripted import Talk, each_time, http_response, stream, upstream

OTHER = "sk_" + "OtherKey00" * 3
BIG = "x" * 300_000
QUOTED = '"' * 150_000  # a parser reads a big body of short strings


def by(key):
    return {"headers": {"Authorization": f"Bearer {key}"}}


@pytest.fixture(scope="module")
def responding(tmp_path_factory):
    process = GatewayProcess(tmp_path_factory.mktemp("responses"))
    process.add_key(OTHER)
    process.start()
    yield process
    log = process.log()
    process.end()
    assert "Traceback" not in log


@pytest.fixture
def gateway(responding):
    responding.records()
    return responding


def create(gateway, model, **options):
    given = gateway.post("/v1/responses", {"model": model, "input": "a secret"}, **options)
    assert given.status == 200
    return given.json()


ASKED = [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")]


@pytest.mark.parametrize(("method", "action"), ASKED)
def test_another_key_cannot_distinguish_a_response_from_a_missing_one(gateway, sim, method, action):
    simulated = sim.add()
    made = create(gateway, gateway.add(simulated))["id"]
    before = simulated.seen.started
    theirs = gateway.request(method, f"/v1/responses/{made}{action}", **by(OTHER))
    unknown = gateway.request(method, f"/v1/responses/{made[:-1]}~{action}".replace("~", "_"), **by(OTHER))
    assert (theirs.status, theirs.json()["error"]["code"]) == (404, "not_found")
    assert theirs.body == unknown.body.replace(f"{made[:-1]}_".encode(), made.encode())
    assert simulated.seen.started == before
    own = gateway.request(method, f"/v1/responses/{made}{action}")
    assert own.status == 200


@pytest.mark.parametrize(("method", "action"), ASKED)
def test_an_unknown_response_is_not_requested(gateway, sim, method, action):
    simulated = sim.add()
    gateway.add(simulated)
    assert gateway.request(method, f"/v1/responses/resp_unknown{action}").status == 404
    assert simulated.seen.started == 0


def body_that_continues(model, previous, name="previous_response_id", padding=""):
    fields = {"model": model, "input": "b" + padding}
    return json.dumps(fields)[:-1] + f', "{name}": {json.dumps(previous)}}}'


@pytest.mark.parametrize("padding", ["", BIG, QUOTED], ids=["small", "big", "big and quoted"])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/compact"])
@pytest.mark.parametrize(
    "name", ["previous_response_id", "previous\\u005fresponse_id", "\\u0070revious_response_id", "Previous_Response_ID"]
)
def test_no_other_key_continues_a_response(gateway, sim, path, name, padding):
    simulated = sim.add()
    model = gateway.add(simulated)
    made = create(gateway, model)["id"]
    before = simulated.seen.started
    for previous in (made, "resp_unknown", 7, [made], {"id": made}):
        body = body_that_continues(model, previous, name, padding)
        headers = {**by(OTHER)["headers"], "Content-Type": "application/json"}
        given = gateway.post(path, body, headers=headers)
        assert (given.status, given.json()["error"]["param"]) == (404, "previous_response_id")
    assert simulated.seen.started == before


@pytest.mark.parametrize("padding", ["", BIG], ids=["small", "big"])
@pytest.mark.parametrize("previous", ["own", "", None])
def test_a_key_continues_its_own_response_or_none(gateway, sim, previous, padding):
    model = gateway.add(sim.add())
    made = create(gateway, model)["id"]
    body = body_that_continues(model, made if previous == "own" else previous, padding=padding)
    assert gateway.post("/v1/responses", body, headers={"Content-Type": "application/json"}).status == 200


@pytest.mark.parametrize("written", [{"type": "item_reference"}, {"type": None}, {}], ids=str)
@pytest.mark.parametrize("padding", ["", BIG], ids=["small", "big"])
def test_no_other_key_refers_to_an_item_of_a_response(gateway, sim, written, padding):
    simulated = sim.add()
    model = gateway.add(simulated)
    item = create(gateway, model)["output"][0]["id"]
    before = simulated.seen.started
    reference = [{"role": "user", "content": padding}, {**written, "id": item}]
    given = gateway.post("/v1/responses", {"model": model, "input": reference}, **by(OTHER))
    assert (given.status, given.json()["error"]["param"]) == (404, "input")
    assert simulated.seen.started == before
    assert gateway.post("/v1/responses", {"model": model, "input": reference}).status == 200


def test_an_item_with_content_needs_no_owner(gateway, sim):
    item = {"type": "message", "id": "msg_elsewhere", "role": "assistant", "content": []}
    model = gateway.add(sim.add())
    assert gateway.post("/v1/responses", {"model": model, "input": [item]}).status == 200


def test_an_item_of_a_stored_input_can_be_referred_to_once_it_is_listed(gateway, sim):
    model = gateway.add(sim.add())
    made = create(gateway, model)["id"]
    item = gateway.get(f"/v1/responses/{made}/input_items").json()["data"][0]["id"]
    request = {"model": model, "input": [{"type": "item_reference", "id": item}]}
    assert gateway.post("/v1/responses", request).status == 200
    assert gateway.post("/v1/responses", request, **by(OTHER)).status == 404


def test_more_objects_than_the_limit_are_refused(gateway, sim):
    model = gateway.add(sim.add())
    items = b'{"model":"%b","input":[%b{"id":"a"}]}' % (model.encode(), b"{}," * 60_000)
    before = Hits(gateway.page).totals().get("response_objects", 0)
    given = gateway.post("/v1/responses", items, headers={"Content-Type": "application/json"})
    assert given.status == 400
    assert Hits(gateway.page).totals()["response_objects"] == before + 1


def test_many_objects_without_ids_are_allowed(gateway, sim):
    model = gateway.add(sim.add())
    items = b'{"model":"%b","input":[%b{}]}' % (model.encode(), b"{}," * 60_000)
    assert gateway.post("/v1/responses", items, headers={"Content-Type": "application/json"}).status == 200


def test_an_id_whose_name_is_escaped_is_seen(gateway, sim):
    model = gateway.add(sim.add())
    items = b'{"model":"%b","input":[{"\\u0069d":"msg_of_somebody_else"}]}' % model.encode()
    assert gateway.post("/v1/responses", items, headers={"Content-Type": "application/json"}).status == 404


def test_an_unknown_conversation_is_refused(gateway, sim):
    simulated = sim.add()
    model = gateway.add(simulated)
    for conversation in ("conv_1", {"id": "conv_1"}):
        given = gateway.post("/v1/responses", {"model": model, "input": "", "conversation": conversation})
        assert (given.status, given.json()["error"]["param"]) == (404, "conversation")
    assert simulated.seen.started == 0
    assert gateway.post("/v1/responses", {"model": model, "input": "", "conversation": None}).status == 200


def test_a_streamed_response_is_known_from_its_first_event(gateway):
    created = b'data: {"type":"response.created","response":{"id":"resp_streamed","model":"m"}}\n\n'
    item = b'data: {"type":"response.output_item.added","item":{"id":"msg_streamed","type":"message"}}\n\n'
    stored = http_response(b'{"id":"resp_streamed","object":"response","output":[]}')

    def script(talk: Talk) -> None:
        if b'"stream"' in talk.request():
            talk.send(stream(created, item, end=False))
            talk.client_disconnected()
        else:
            talk.send(stored)

    with upstream(script) as server:
        model = gateway.add(server, timeout_secs=20)
        body = json.dumps({"model": model, "input": "", "stream": True, "background": True}).encode()
        with gateway.connect() as connection:
            connection.sendall(gateway.head("POST /v1/responses", f"Content-Length: {len(body)}") + body)
            received = b""
            while b"msg_streamed" not in received:
                received += connection.recv(1 << 16)
            assert gateway.get("/v1/responses/resp_streamed").status == 200
            assert gateway.get("/v1/responses/resp_streamed", **by(OTHER)).status == 404
            request = {"model": model, "input": [{"id": "msg_streamed"}]}
            assert gateway.post("/v1/responses", request, **by(OTHER)).status == 404
            assert gateway.post("/v1/responses", request).status == 200


def test_owners_survive_a_kill(make_gateway, sim):
    gateway = make_gateway().start()
    gateway.add_key(OTHER)
    model = gateway.add(sim.add())
    made = [create(gateway, model)["id"] for _ in range(3)]
    gateway.signal(signal.SIGKILL)  # the last request may not have ended yet
    gateway.wait()
    gateway.start()
    for response_id in made:
        assert gateway.get(f"/v1/responses/{response_id}").status == 200
        assert gateway.get(f"/v1/responses/{response_id}", **by(OTHER)).status == 404


def test_another_worker_finds_the_owner_of_a_response(tmp_path, sim):
    one, other = GatewayProcess(tmp_path, ROUTERDASH_WORKERS="2"), GatewayProcess(tmp_path, ROUTERDASH_WORKERS="2")
    other.worker = 1
    try:
        one.add_key(OTHER)
        model = one.add(sim.add())
        one.start(published=False)
        other.start(published=False)
        made = create(one, model)["id"]
        assert other.get(f"/v1/responses/{made}").status == 200
        assert other.get(f"/v1/responses/{made}", **by(OTHER)).status == 404
        request = {"model": model, "input": "", "previous_response_id": made}
        assert other.post("/v1/responses", request, **by(OTHER)).status == 404
        assert other.post("/v1/responses", request).status == 200
    finally:
        one.kill()
        other.kill()


def test_a_setting_opens_unknown_responses_but_none_of_another_key(make_gateway):
    def script(talk: Talk) -> None:
        """Return a response that key B would see if ids chosen by clients changed owners."""
        while talk.request():
            talk.send(http_response(b'{"id":"resp_known","object":"response","output":[]}'))

    gateway = make_gateway(ROUTERDASH_OPEN_RESPONSES="true")
    gateway.add_key(OTHER)
    gateway.start()
    with upstream(script) as server:
        model = gateway.add(server)
        create(gateway, model)
        assert gateway.get("/v1/responses/resp_elsewhere", **by(OTHER)).status == 200
        assert gateway.get("/v1/responses/resp_known", **by(OTHER)).status == 404
        fields = {"model": model, "input": "", "conversation": "conv_1", "previous_response_id": "resp_elsewhere"}
        assert gateway.post("/v1/responses", fields, **by(OTHER)).status == 200
        fields["previous_response_id"] = "resp_known"
        assert gateway.post("/v1/responses", fields, **by(OTHER)).status == 404


def test_a_client_cannot_choose_the_id_of_a_response(gateway, sim):
    simulated = sim.add()
    model = gateway.add(simulated)
    given = gateway.post("/v1/responses", {"model": model, "input": "", "request_id": "resp_of_another"})
    assert (given.status, given.json()["error"]["param"]) == (400, "request_id")
    assert simulated.seen.started == 0


def test_without_required_keys_all_clients_share_responses(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_REQUIRE_API_KEY="false")
    gateway.add_key(OTHER)
    gateway.start()
    model = gateway.add(sim.add())
    theirs, own = create(gateway, model, key=None)["id"], create(gateway, model, **by(OTHER))["id"]
    assert gateway.get(f"/v1/responses/{theirs}", key=None).status == 200
    assert gateway.get(f"/v1/responses/{own}", key=None).status == 404
    assert gateway.get(f"/v1/responses/{own}", **by(OTHER)).status == 200


def test_an_endpoint_cannot_hand_out_the_response_of_another(make_gateway):
    """It returns to key B an id that key A has at another endpoint: B reads its own response, not that of A."""
    gateway = make_gateway()
    gateway.add_key(OTHER)
    gateway.start()

    def responses_with(word: str):
        def script(talk: Talk) -> None:
            while talk.request():
                talk.send(http_response(json.dumps({"id": "resp_same", "output": [], "word": word}).encode()))

        return script

    with upstream(responses_with("secret")) as honest, upstream(responses_with("mine")) as hostile:
        create(gateway, gateway.add(honest))
        create(gateway, gateway.add(hostile), **by(OTHER))
        assert gateway.get("/v1/responses/resp_same").json()["word"] == "secret"
        assert gateway.get("/v1/responses/resp_same", **by(OTHER)).json()["word"] == "mine"


def test_an_unwritable_file_fails_no_request_and_is_logged_once(make_gateway, sim):
    gateway = make_gateway()
    gateway.config.responses_dir.write_bytes(b"")
    gateway.start()
    model = gateway.add(sim.add())
    for _ in range(3):
        made = create(gateway, model)["id"]
        assert gateway.get(f"/v1/responses/{made}").status == 200
    assert gateway.log().count("cannot be written") == 1


def test_chats_do_not_open_the_file_of_response_owners(make_gateway, sim):
    gateway = make_gateway().start()
    assert gateway.chat(gateway.add(sim.add())).status == 200
    assert not gateway.config.responses_dir.exists()


# Errors in mid-stream


def fail_in_stream(gateway, *pieces, **facts):
    with upstream(each_time(stream(*pieces, end=False))) as server:
        given = gateway.post("/v1/responses", {"model": gateway.add(server, **facts), "input": "", "stream": True})
    return event_data(given)


CREATED = b'data: {"type":"response.created","response":{"id":"resp_7","model":"m"},"sequence_number":0}\n\n'
DELTA = b'data: {"type":"response.output_text.delta","delta":"Hi","sequence_number":1}\n\n'
ERROR = b'data: {"type":"error","code":"server_error","message":"out of memory","sequence_number":2}\n\n'


def test_a_stream_that_breaks_off_ends_with_response_failed(gateway):
    last = fail_in_stream(gateway, CREATED, DELTA)[-1]
    assert (last["type"], last["sequence_number"], last["response"]["id"]) == ("response.failed", 2, "resp_7")
    assert last["response"]["error"]["code"] == "upstream_error"


def test_an_event_error_is_followed_by_response_failed(gateway):
    """Codex ignores an event `error`."""
    *_, error, failed = fail_in_stream(gateway, CREATED, DELTA, ERROR)
    assert (error["type"], failed["type"], failed["sequence_number"]) == ("error", "response.failed", 3)
    assert failed["response"]["id"] == "resp_7"
    assert failed["response"]["error"] == {"code": "server_error", "message": "out of memory"}
    assert gateway.record().outcome == "failed"


def test_an_endpoints_own_response_failed_after_an_error_is_not_repeated(gateway):
    own = b'data: {"type":"response.failed","response":{"id":"resp_7","error":{"code":"x","message":"y"}}}\n\n'
    types = [event["type"] for event in fail_in_stream(gateway, CREATED, DELTA, ERROR, own)]
    assert types.count("response.failed") == 1
