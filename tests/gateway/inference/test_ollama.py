"""Ollama's own API through a real gateway, with endpoints that are an Ollama and that are not."""

import json
import signal
from typing import Any

import msgspec
import pytest

from gateway.dialects.anthropic.messages_api import server_event
from gateway.inference.ollama.showing import ShownModels
from gateway.registry import schema
from gateway.registry.schema import Step, Target
from gateway.registry.writer import Changes
from tests.gateway.inference.helpers import outcomes
from tests.gateway.limits.helpers import LimitedKey
from tests.gateway.process import KEY, read_to_end, read_until
from tests.gateway.samples import make_endpoint
from tests.gateway.scripted import DONE, LAST, always, chunk, http_response, stream, upstream
from tests.router import until

CHAT = http_response(
    b'{"id":"c1","model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
)
USAGE = b'data: {"model":"tiny","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
PIECE = {"model": "tiny", "message": {"role": "assistant", "content": "Hel"}, "done": False}
END = {"model": "tiny", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
END |= {"prompt_eval_count": 7, "eval_count": 5, "total_duration": 9}


def lines(*values, kind="application/x-ndjson"):
    body = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    return http_response(body, 200, kind)


def ask(gateway, model, path="/ollama/api/chat", **fields):
    if path.endswith("chat"):
        fields.setdefault("messages", [{"role": "user", "content": "Hi"}])
    return gateway.post(path, {"model": model, **fields})


def read(given):
    return [json.loads(line) for line in given.body.splitlines()]


def sent(server):
    head, _, body = server.requests[-1].partition(b"\r\n\r\n")
    return head.split(b" ")[1].decode(), json.loads(body)


def test_an_ollama_receives_the_request_unchanged_and_its_lines_pass(gateway):
    with upstream(always(lines(PIECE, END))) as server:
        model = gateway.add(server, kind="ollama")
        given = ask(gateway, model, think="low", format="json", options={"top_k": 3, "num_ctx": 99})
    path, body = sent(server)
    assert path == "/api/chat"
    assert (body["think"], body["format"], body["options"]) == ("low", "json", {"top_k": 3, "num_ctx": 99})
    assert given.headers["content-type"] == "application/x-ndjson"
    piece, last = read(given)
    assert (piece["model"], last["eval_count"], last["total_duration"]) == (model, 5, 9)
    record = gateway.record()
    assert (record.kind, record.outcome, record.streamed) == ("ollama_chat", "ok", True)
    assert (record.model, record.input_tokens, record.output_tokens, record.estimated) == (model, 7, 5, False)
    assert record.finish_reason == "stop"


def test_a_stream_of_another_server_is_translated(gateway):
    whole = stream(chunk("Hel"), chunk("lo."), LAST, USAGE, DONE)
    with upstream(always(whole)) as server:
        model = gateway.add(server)
        given = ask(gateway, model, options={"num_predict": 4})
    path, body = sent(server)
    assert path == "/v1/chat/completions"
    assert (body["max_tokens"], body["stream_options"]) == (4, {"include_usage": True})
    assert given.headers["content-type"] == "application/x-ndjson"
    *pieces, last = read(given)
    assert "".join(piece["message"]["content"] for piece in pieces) == "Hello."
    record = gateway.record()
    assert (last["prompt_eval_count"], last["eval_count"]) == (record.input_tokens, record.output_tokens) == (3, 2)
    assert (record.kind, record.outcome, outcomes(record)) == ("ollama_chat", "ok", [("ok", 200)])


@pytest.mark.parametrize(("path", "kind"), [("chat", "ollama_chat"), ("generate", "ollama_generate")])
def test_a_whole_response_of_another_server_is_translated(gateway, path, kind):
    with upstream(always(CHAT)) as server:
        model = gateway.add(server)
        given = ask(gateway, model, f"/ollama/api/{path}", stream=False, prompt="Hi")
    body = given.json()
    assert (given.headers["content-type"], body["model"], body["done"]) == ("application/json", model, True)
    assert (body["message"]["content"] if path == "chat" else body["response"]) == "Hello."
    record = gateway.record()
    assert (record.kind, record.output_tokens, body["eval_count"]) == (kind, 2, 2)


def test_an_older_server_refuses_the_option_for_usage(gateway):
    refusal = http_response(b'{"error":{"message":"unknown field stream_options"}}', 400)

    def script(talk):
        while request := talk.request():
            talk.send(refusal if b"stream_options" in request else stream(chunk("a"), LAST, DONE))

    with upstream(script) as server:
        model = gateway.add(server)
        given = ask(gateway, model)
    assert (given.status, read(given)[-1]["eval_count"], gateway.record().estimated) == (200, 1, True)


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("embed", {"input": ["a", "b"]}, {"embeddings": [[0.25], [1]]}),
        ("embeddings", {"prompt": "a"}, {"embedding": [0.25]}),
    ],
)
def test_embeddings_are_translated(gateway, path, fields, expected):
    vectors = b'{"data":[{"embedding":[0.25]},{"embedding":[1]}],"usage":{"prompt_tokens":8}}'
    with upstream(always(http_response(vectors))) as server:
        model = gateway.add(server)
        given = ask(gateway, model, f"/ollama/api/{path}", **fields)
    assert sent(server)[0] == "/v1/embeddings"
    assert expected.items() <= given.json().items()
    record = gateway.record()
    assert (record.kind, record.input_tokens, record.outcome) == ("ollama_embed", 8, "ok")


def test_an_ollama_embeds_itself(gateway):
    response = b'{"model":"tiny","embeddings":[[0.5]],"prompt_eval_count":4}'
    with upstream(always(http_response(response))) as server:
        model = gateway.add(server, kind="ollama")
        given = ask(gateway, model, "/ollama/api/embed", input="a")
    assert (sent(server)[0], given.json()["model"], gateway.record().input_tokens) == ("/api/embed", model, 4)


@pytest.mark.parametrize(("known", "asked"), [("m-{}", "m-{}:latest"), ("m-{}:latest", "m-{}")])
def test_latest_is_the_same_as_no_tag(gateway, known, asked):
    with upstream(always(lines(PIECE, END))) as server:
        name = gateway.add(server, kind="ollama")
        model = known.format(name)
        gateway.endpoints["latest"] = make_endpoint("latest", schema.Model(model), base_url=server.url, kind="ollama")
        gateway.publish()
        given = ask(gateway, asked.format(name))
        del gateway.endpoints["latest"]
        gateway.publish()
    assert (sent(server)[1]["model"], read(given)[0]["model"]) == (model, asked.format(name))
    assert gateway.record().model == model


def test_a_clients_keep_alive_does_not_reach_the_server(gateway):
    with upstream(always(lines(PIECE, END))) as server:
        model = gateway.add(server, kind="ollama")
        ask(gateway, model, keep_alive="24h")
        assert "keep_alive" not in sent(server)[1]
        ask(gateway, model, keep_alive=0, images="x" * 200_000)
        assert "keep_alive" not in sent(server)[1]
        refused = ask(gateway, model, "/ollama/api/generate", keep_alive=0)
        loaded = ask(gateway, model, "/ollama/api/generate")
    assert (refused.status, "ROUTERDASH_OLLAMA_KEEP_ALIVE" in refused.json()["error"]) == (403, True)
    assert (loaded.status, loaded.json()["done_reason"], len(server.requests)) == (200, "load", 2)


def test_a_big_body_is_read_and_passed_on(gateway):
    image = "iVBOR" + "x" * 3_000_000
    with upstream(always(lines(PIECE, END))) as server:
        model = gateway.add(server, kind="ollama", known_as="own-name")
        turn = {"role": "user", "content": "What?", "images": [image]}
        given = ask(gateway, model, messages=[turn], keep_alive="1h")
    assert sent(server)[1] == {"model": "own-name", "messages": [turn]}
    assert (read(given)[-1]["done"], gateway.record().outcome) == (True, "ok")


def test_a_context_is_refused_where_several_servers_may_answer(gateway):
    end = END | {"context": [1, 2]}
    with upstream(always(lines(end))) as server, upstream(always(lines(end))) as other:
        alone, both = gateway.add(server, kind="ollama"), gateway.add(server, other, kind="ollama")
        given = ask(gateway, alone, "/ollama/api/generate", prompt="Hi", context=[3])
        refused = ask(gateway, both, "/ollama/api/generate", prompt="Hi", context=[3])
        hidden = ask(gateway, both, "/ollama/api/generate", prompt="Hi")
    assert (read(given)[-1]["context"], "context" in read(hidden)[-1]) == ([1, 2], False)
    assert (refused.status, "`context` is understood only" in refused.json()["error"]) == (400, True)


def test_an_error_of_the_server_has_ollamas_form(gateway):
    native = http_response(b'{"error":"model requires more system memory"}', 400)
    other = http_response(b'{"error":{"message":"too hot"}}', 422)
    for response, kind, message in (
        (native, "ollama", "model requires more system memory"),
        (other, "vllm", "too hot"),
    ):
        with upstream(always(response)) as server:
            given = ask(gateway, gateway.add(server, kind=kind))
        assert given.json() == {"error": message}


def test_a_stream_that_breaks_ends_with_an_error_line(gateway):
    for response, kind in ((lines(PIECE), "ollama"), (stream(chunk("Hel")), "vllm")):
        with upstream(always(response)) as server:
            given = ask(gateway, gateway.add(server, kind=kind))
        piece, last = read(given)
        assert (piece["message"]["content"], "closed the connection" in last["error"]) == ("Hel", True)
        assert gateway.record().outcome == "truncated"


def test_an_error_in_a_stream_is_its_last_line(gateway):
    with upstream(always(lines(PIECE, {"error": "it crashed"}))) as server:
        given = ask(gateway, gateway.add(server, kind="ollama"))
    assert read(given)[-1] == {"error": "it crashed"}
    assert gateway.record().outcome == "failed"


def test_an_unknown_model_is_a_404_in_ollamas_form(gateway):
    given = ask(gateway, "no-such-model")
    assert (given.status, "no-such-model" in given.json()["error"]) == (404, True)


# Paths, keys and lists


def test_models_are_listed_with_tags_and_shown_whole(gateway):
    model = gateway.add(type("Server", (), {"url": "http://127.0.0.1:1"}))
    facts = gateway.endpoints_of(model)[0]
    gateway.endpoints[facts.id] = facts.facts().with_models([schema.Model(model, None, (), ("chat",), 8192)])
    gateway.publish()

    def listed():
        return [
            tagged
            for tagged in gateway.get("/ollama/api/tags").json()["models"]
            if tagged["model"] == f"{model}:latest"
        ]

    (entry,) = until(listed)
    assert (entry["name"], entry["details"]["context_length"]) == (f"{model}:latest", 8192)
    assert len(entry["digest"]) == 64
    shown = gateway.post("/ollama/api/show", {"name": f"{model}:latest"}).json()
    architecture = shown["model_info"]["general.architecture"]
    assert (shown["model_info"][f"{architecture}.context_length"], shown["capabilities"]) == (
        8192,
        ["completion", "tools"],
    )
    loaded = next(
        running for running in gateway.get("/ollama/api/ps").json()["models"] if running["name"] == f"{model}:latest"
    )
    assert (loaded["context_length"], loaded["expires_at"][:4]) == (8192, "9999")
    assert gateway.post("/ollama/api/show", {"model": "none"}).status == 404
    for body, status in (
        (b"[]", 400),
        ({"model": ""}, 400),
        ({"model": "x" * 300}, 400),
        ({"model": "x" * 70_000}, 413),
    ):
        refused = gateway.post("/ollama/api/show", body)
        assert (refused.status, len(refused.body) < 300) == (status, True)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([{}], ["completion", "tools"]),  # nothing is known: the server decides
        ([{"features": ("vision", "thinking")}], ["completion", "tools", "vision", "thinking"]),
        ([{"lacks": ("tools",), "features": ("vision",)}], ["completion", "vision"]),
        ([{"lacks": ("tools",)}, {"features": ("tools",)}], ["completion", "tools"]),  # one server has them
        ([{"capabilities": ("chat", "embeddings"), "lacks": ("tools",)}], ["completion", "embedding"]),
        ([{"capabilities": ("embeddings",)}], ["embedding"]),
        ([{"capabilities": ("rerank",)}], []),
    ],
)
def test_capabilities_are_those_that_are_known(gateway, models, words):
    server = type("Server", (), {"url": "http://127.0.0.1:1"})
    model = gateway.add(*[server] * len(models))
    for facts, fields in zip(gateway.endpoints_of(model), models, strict=True):
        known = schema.Model(model, **{"capabilities": ("chat",), **fields})
        gateway.endpoints[facts.id] = facts.facts().with_models([known])
    gateway.publish()

    def stated():
        listed = [
            tagged
            for tagged in gateway.get("/ollama/api/tags").json()["models"]
            if tagged["model"] == f"{model}:latest"
        ]
        return listed[0]["capabilities"] if listed else None

    assert until(lambda: stated() == words)
    assert gateway.post("/ollama/api/show", {"name": model}).json()["capabilities"] == words


def test_an_ollama_shows_its_model_itself(gateway):
    own = {"capabilities": ["completion", "vision"], "modelfile": "FROM /home/ana/x", "template": "{{ .Prompt }}"}
    with upstream(always(http_response(json.dumps(own).encode()))) as server:
        model = gateway.add(server, kind="ollama", known_as="own-name")
        until(lambda: gateway.post("/ollama/api/show", {"model": model}).status == 200)
        assert sent(server) == ("/api/show", {"model": "own-name"})
        shown = gateway.post("/ollama/api/show", {"model": model}).json()
    assert (shown, len(server.requests)) == (own | {"modelfile": ""}, 1)  # it holds for a minute
    with upstream(always(http_response(b"{}", 500))) as server:
        model = gateway.add(server, kind="ollama")
        shown = until(lambda: gateway.post("/ollama/api/show", {"model": model}).json().get("model_info"))
    assert (shown["general.basename"], len(server.requests)) == (model, 1)
    assert gateway.in_flight(model) == 0


def test_each_show_counts_as_a_request(gateway):
    with upstream(always(http_response(b'{"template":"x"}'))) as server:
        model, key = gateway.add(server, kind="ollama"), LimitedKey(gateway, requests=2)
        given = [key.post("/ollama/api/show", {"model": model}) for _ in range(3)]
    assert [one.status for one in given] == [200, 200, 429]
    assert (given[2].json()["error"][:18], given[2].headers["x-routerdash-limit"]) == (
        "Rate limit reached",
        "key; requests",
    )
    assert len(server.requests) == 1
    first, second, refused = gateway.records()
    assert [(one.kind, one.model, one.outcome, one.api_key_id) for one in (first, second)] == [
        ("ollama_show", model, "ok", key.id)
    ] * 2
    assert [len(one.attempts) for one in (first, second)] == [1, 0]
    assert (refused.outcome, refused.limit) == ("rejected", "key:requests")


def test_a_model_is_shown_by_at_most_a_mebibyte(gateway):
    with upstream(always(http_response(b'{"template":"%b"}' % (b"x" * (1 << 20))))) as server:
        model = gateway.add(server, kind="ollama")
        shown = gateway.post("/ollama/api/show", {"model": model}).json()
    assert shown["model_info"]["general.basename"] == model


def test_a_description_holds_for_a_minute_and_has_a_limit():
    shown = ShownModels(max_bytes=10)
    shown.add("e1", "m", b"first", 100.0)
    assert [shown.find("e1", "m", moment) for moment in (159.0, 160.0)] == [b"first", None]
    assert shown.find("e2", "m", 100.0) is None
    shown.add("e1", "m", b"later", 200.0)
    shown.add("e2", "m", b"other", 201.0)
    assert [shown.find(endpoint, "m", 202.0) for endpoint in ("e1", "e2")] == [b"later", b"other"]
    shown.add("e3", "m", b"x", 202.0)
    assert [shown.find(endpoint, "m", 202.0) for endpoint in ("e1", "e2", "e3")] == [None, b"other", b"x"]


def test_the_root_and_the_version_need_no_key(gateway):
    for path in ("/ollama", "/ollama/"):
        assert gateway.get(path, key=None).body == b"Ollama is running"
    assert gateway.get("/ollama/api/version", key=None).json()["version"].count(".") == 2
    assert gateway.request("HEAD", "/ollama/", key=None).status == 200
    assert gateway.get("/ollama/api/tags", key=None).status == 401


@pytest.mark.parametrize("name", ["pull", "push", "create", "copy", "delete"])
def test_models_are_not_managed_here(gateway, name):
    method = "DELETE" if name == "delete" else "POST"
    given = gateway.request(method, f"/ollama/api/{name}", {"model": "x"})
    assert (given.status, "on the server itself" in given.json()["error"]) == (403, True)


def test_a_key_may_be_in_the_path_alone(gateway):
    assert gateway.get(f"/ollama/{KEY}/api/tags", key=None).status == 200
    assert gateway.get(f"/ollama/{KEY}//api/tags", key=None).status == 200
    assert gateway.get(f"/ollama/{KEY}/v1/models", key=None).status == 200
    assert gateway.get("/ollama/sk_wrong/api/tags", key=None).status == 401
    assert gateway.get("/ollama/sk_wrong/api/tags").status == 401  # that in the path counts
    for path in (f"/ollama/{KEY}/api/none", f"/ollama/x/{KEY}/api/tags"):
        missing = gateway.get(path)
        assert (missing.status, KEY in missing.json()["error"]) == (404, False)


def test_a_key_in_a_path_admits_no_other_request_of_its_connection(gateway):
    def request(path, end=b""):
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nReferer: http://x/{KEY}\r\n".encode() + end + b"\r\n"

    paths = [f"/ollama/{KEY}/api/tags", "/ollama/api/tags", f"/ollama/{KEY}/api/tags", "/ollama/sk_other/api/tags"]
    received = gateway.send(b"".join(map(request, paths)) + request("/ollama/", b"Connection: close\r\n"))
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"401", b"200", b"401", b"200"]


def test_bodies_may_have_any_content_type(gateway):
    with upstream(always(CHAT)) as server:
        model = gateway.add(server)
        body = json.dumps({"model": model, "stream": False, "prompt": "Hi"})
        headers = {"content-type": "application/x-www-form-urlencoded"}
        assert gateway.post("/ollama/api/generate", body, headers=headers).json()["response"] == "Hello."


def test_the_port_of_its_own_has_the_same_api_and_no_pages(make_gateway):
    gateway = make_gateway().start(ollama=True)
    with upstream(always(lines(PIECE, END))) as server:
        model = gateway.add(server, kind="ollama")
        gateway.port = gateway.ollama_port
        assert gateway.get("/", key=None).body == b"Ollama is running"
        assert read(ask(gateway, model, "/api/chat"))[-1]["eval_count"] == 5
        assert read(ask(gateway, model, f"/{KEY}/api/chat"))[-1]["done"] is True
    assert model in [listed["id"] for listed in gateway.get("/v1/models").json()["data"]]
    assert [listed["model"] for listed in gateway.get("/api/tags").json()["models"]] == [f"{model}:latest"]
    assert gateway.get("/api/overview").status == 404
    records = gateway.records()
    assert [(record.kind, record.outcome) for record in records] == [*[("ollama_chat", "ok")] * 2, ("", "rejected")]
    assert KEY not in gateway.log()


def test_a_stop_lets_a_stream_of_the_own_port_finish(make_gateway, sim):
    gateway = make_gateway().start(ollama=True)
    server = sim.add(kind="ollama", tokens=20, tokens_per_second=40)
    body = json.dumps({"model": gateway.add(server, kind="ollama"), "prompt": "Hi"})
    gateway.port = gateway.ollama_port
    with gateway.connect() as connection:
        connection.sendall(gateway.head("POST /api/generate", f"Content-Length: {len(body)}") + body.encode())
        beginning = read_until(connection, b"}\n\r\n")
        gateway.signal(signal.SIGTERM)
        received = beginning + read_to_end(connection)
    assert (received.count(b'"done": false'), received.count(b'"done_reason": "stop"')) == (20, 1)
    assert gateway.wait() == 0
    assert gateway.record().outcome == "ok"


def test_both_ports_share_the_limit_of_connections_of_a_client(make_gateway):
    gateway = make_gateway(ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT="1").start(ollama=True)
    with gateway.connect() as first:
        first.sendall(b"GET /ollama/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert first.recv(100).startswith(b"HTTP/1.1 200")
        gateway.port = gateway.ollama_port
        assert gateway.get("/", key=None).status == 503


def test_without_keys_pages_of_other_origins_are_refused(make_gateway):
    gateway = make_gateway(ROUTERDASH_REQUIRE_API_KEY="false").start()
    body = json.dumps({"model": "x", "prompt": "Hi"})
    form = {"content-type": "text/plain"}
    assert gateway.post("/ollama/api/generate", body, headers=form, key=None).status == 404  # the model
    origin = form | {"origin": "https://evil.example"}
    assert gateway.post("/ollama/api/generate", body, headers=origin, key=None).status == 403
    same = form | {"sec-fetch-site": "cross-site"}
    assert gateway.post("/ollama/api/generate", body, headers=same, key=None).status == 415


@pytest.mark.parametrize("streams", [True, False])
def test_a_server_with_messages_alone_is_reached_too(gateway, streams):
    missing = http_response(b'{"detail":"Not Found"}', 404)
    message: dict[str, Any] = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "stop_reason": "end_turn",
    }
    message |= {"content": [{"type": "text", "text": "Hello."}], "usage": {"input_tokens": 3, "output_tokens": 2}}
    events: tuple[dict[str, Any], ...] = (
        {"type": "message_start", "message": message},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hello."}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    )
    answer = (
        stream(*(server_event(event["type"], event) for event in events))
        if streams
        else http_response(json.dumps(message).encode())
    )

    def script(talk):
        while request := talk.request():
            talk.send(answer if request.startswith(b"POST /v1/messages ") else missing)

    with upstream(script) as server:
        model = gateway.add(server)
        given = ask(gateway, model, stream=streams)
    *pieces, last = read(given)
    assert [piece["message"]["content"] for piece in (pieces or [last])] == ["Hello."]
    assert (last["model"], last["prompt_eval_count"], last["eval_count"]) == (model, 3, 2)
    paths = [request.split(b" ")[1] for request in server.requests]
    assert paths == [b"/v1/chat/completions", b"/v1/messages"]
    record = gateway.record()
    assert (record.kind, record.input_tokens, record.output_tokens) == ("ollama_chat", 3, 2)


def test_an_ollama_without_its_own_paths_gets_a_translation(gateway):
    missing = http_response(b"404 page not found", 404, "text/plain")

    def script(talk):
        while request := talk.request():
            talk.send(CHAT if request.startswith(b"POST /v1/chat") else missing)

    with upstream(script) as server:
        model = gateway.add(server, kind="ollama")
        for _ in range(2):
            assert ask(gateway, model, stream=False).json()["message"]["content"] == "Hello."
    paths = [request.split(b" ")[1] for request in server.requests]
    assert paths == [b"/api/chat", *[b"/v1/chat/completions"] * 2]


def test_a_repeated_request_keeps_its_own_key(gateway):
    """The fast path for equal header blocks compares the request line with the key, too."""

    def request(key):
        return f"POST /ollama/{key}/api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{{}}".encode()

    with gateway.connect() as connection:
        statuses = []
        for key in (KEY, KEY, "sk_" + "x" * (len(KEY) - 3), KEY):
            connection.sendall(request(key))
            received = read_until(connection, b'"}')
            statuses.append(int(received.split(b" ")[1]))
    assert statuses == [400, 400, 401, 400]


def named(gateway, model, **fields):
    """Publish a model name for a model, with parameters."""
    values = {key: msgspec.Raw(msgspec.msgpack.encode(value)) for key, value in fields.items()}
    row = schema.ModelName(id=f"n-{model}", name=f"name-{model}", steps=(Step((Target(model),)),), overrides=values)
    gateway.apply(Changes(model_names={row.id: row}))
    return row.name


@pytest.mark.parametrize("kind", ["ollama", "vllm"])
def test_parameters_of_a_model_name_change_the_options(make_gateway, kind):
    gateway = make_gateway().start()
    with upstream(always(lines(PIECE, END) if kind == "ollama" else stream(chunk("a"), LAST, DONE))) as server:
        name = named(gateway, gateway.add(server, kind=kind), max_tokens=3)
        given = ask(gateway, f"{name}:latest", options={"num_predict": 90, "num_ctx": 7})
    body = sent(server)[1]
    assert body["options"] == {"num_predict": 3, "num_ctx": 7} if kind == "ollama" else body["max_tokens"] == 3
    assert read(given)[0]["model"] == f"{name}:latest"
    assert (gateway.record().model, given.headers["x-routerdash-step"]) == (name, "1")


def test_the_setting_lets_keep_alive_pass(make_gateway):
    gateway = make_gateway(ROUTERDASH_OLLAMA_KEEP_ALIVE="pass").start()
    unloaded = {"model": "tiny", "response": "", "done": True, "done_reason": "unload"}
    with upstream(always(http_response(json.dumps(unloaded).encode()))) as server, upstream(always(CHAT)) as other:
        model, elsewhere = gateway.add(server, kind="ollama"), gateway.add(other)
        given = ask(gateway, model, "/ollama/api/generate", keep_alive=0)
        refused = ask(gateway, elsewhere, "/ollama/api/generate", keep_alive=0)
    assert (sent(server)[1]["keep_alive"], given.json()["done_reason"]) == (0, "unload")
    assert (refused.status, other.requests) == (403, [])
