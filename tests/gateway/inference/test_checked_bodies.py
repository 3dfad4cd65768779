"""What RouterDash checks is what servers get: a body that two of them may read differently passes no restriction."""

import json
from collections.abc import Iterator
from itertools import product

import msgspec
import pytest

from gateway.registry.key_rules import KeyRules
from gateway.registry.limits import DAY, EVERYONE_LEVEL, KEY_LEVEL, TOKENS, Budget
from gateway.registry.schema import ModelName, Step, Target
from gateway.registry.writer import Changes
from tests.gateway.inference.helpers import CHAT, error_of
from tests.gateway.process import KEY, GatewayProcess
from tests.gateway.scripted import always, http_response, upstream
from tests.http import Response

RULED, LIMITED, OTHER = ("sk_" + name * 3 for name in ("RuledKey000", "LimitedKey0", "OtherKey000"))
RESPONSES = "/v1/responses"
JSON = {"Content-Type": "application/json"}
# Each takes another way through the gateway.
PADDINGS = {
    "small": "",
    "big": "x" * 300_000,
    "big of short strings": '"' * 150_000,
    "huge": "x" * 3_000_000,
    "huge of short strings": '"' * 1_200_000,
}
WHOLE = http_response(
    b'{"model":"m","choices":[],"content":[],"embeddings":[[1]],"data":[],"done":true,"message":{"content":"a"},'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2}}'
)
sized = pytest.mark.parametrize("padding", PADDINGS.values(), ids=PADDINGS)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    made = GatewayProcess(tmp_path_factory.mktemp("checked"))
    for secret in (RULED, LIMITED, OTHER):
        made.add_key(secret)
    ruled = made.keys[RULED[3:11]]
    made.keys[ruled.id] = msgspec.structs.replace(ruled, rules=KeyRules(models=("model-*", "resp*")))
    made.start()
    made.limit(subject_id=LIMITED[3:11], requests=100_000)
    yield made
    log = made.log()
    made.end()
    assert "Traceback" not in log


@pytest.fixture
def gateway(process: GatewayProcess) -> GatewayProcess:
    process.records()
    return process


def post(gateway: GatewayProcess, path: str, body: str | bytes, key: str = RULED) -> Response:
    return gateway.post(path, body.encode() if isinstance(body, str) else body, key=key, headers=JSON)


def written(model: str, members: str, padding: str = "") -> str:
    """Return a body for every dialect, with these members at its end."""
    turn = {"role": "user", "content": f"Hi {padding}"}
    usual = {"model": model, "messages": [turn], "max_tokens": 10, "stream": False}
    return f"{json.dumps(usual)[:-1]}, {members}}}"


PATHS = [CHAT, "/v1/completions", "/v1/embeddings", RESPONSES, "/v1/messages", "/ollama/api/chat"]
UNCLEAR = {
    "model": ['"model": "big"', '"MODEL": "big"', '"mod\\u0065L": "big"', '"\\u006dodel": "big"'],
    "max_tokens": ['"max_tokens": 9', '"Max_Tokens": 9', '"max_to\u212aens": 9', '"max_to\\u212aens": 9'],
    "max_completion_tokens": ['"max_completion_tokens": "9"', '"max_completion_tokens": 9.0'],
    "n": ['"n": "100"', '"n": 100.0', '"n": 1e2', '"N": 100', '"n": 1, "n": 100'],
    "best_of": ['"best_of": "100"', '"be\u017ft_of": 100'],
    "keep_alive": ['"Keep_Alive": 0', '"keep_alive": 0, "keep_alive": 1'],
    "options": ['"Options": {"num_predict": 9}', '"options": {}, "OPTIONS": {"num_predict": 9}'],
    "options.num_predict": ['"options": {"num_predict": "9"}', '"options": {"num_predict": 9, "num_predict": 10}'],
    "service_tier": ['"service_tier": "flex", "Service_Tier": "priority"'],
    "stream": ['"stream": false', '"STREAM": true'],
}


def message_of(given: Response, path: str) -> str:
    error = given.json()["error"]
    if path.startswith("/ollama"):
        return str(error)
    if path == "/v1/messages":
        assert error["type"] == "invalid_request_error"
    else:
        assert error["code"] == "ambiguous_request"
    return str(error["message"])


@pytest.mark.parametrize("path", PATHS)
def test_a_restricted_key_sends_nothing_that_servers_may_read_in_two_ways(gateway, path):
    with upstream(always(WHOLE)) as server:
        model = gateway.add(server, kind="ollama")
        for field, members in [(field, members) for field, unclear in UNCLEAR.items() for members in unclear]:
            for key in (RULED, LIMITED):
                given = post(gateway, path, written(model, members), key)
                assert given.status == 400, members
                assert message_of(given, path).startswith(f"`{field}` "), members
    assert server.requests == []


@pytest.mark.parametrize(
    "restriction",
    [
        {"level": EVERYONE_LEVEL, "subject_id": "", "tokens": 10**9},
        {"level": EVERYONE_LEVEL, "subject_id": "", "budgets": (Budget("b", TOKENS, DAY, 10**9, hard=True),)},
        {"subject_id": OTHER[3:11], "budgets": (Budget("b", TOKENS, DAY, 10**9),)},
        {"subject_id": OTHER[3:11], "concurrency": 100},
    ],
    ids=["a limit of everyone", "a hard budget of everyone", "a budget", "a limit"],
)
def test_each_limit_and_budget_restricts(gateway, restriction):
    with upstream(always(WHOLE)) as server:
        model = gateway.add(server)
        body = written(model, '"n": "100"')
        before = post(gateway, CHAT, body, OTHER).status
        gateway.limit(**restriction)
        during = post(gateway, CHAT, body, OTHER).status
        gateway.limit(restriction.get("level", KEY_LEVEL), restriction["subject_id"])
        after = post(gateway, CHAT, body, OTHER).status
    assert (before, during, after) == (200, 400, 200)


@sized
@pytest.mark.parametrize("path", [CHAT, RESPONSES, "/v1/messages", "/ollama/api/chat"])
def test_bodies_of_all_sizes_are_checked(gateway, path, padding):
    with upstream(always(WHOLE)) as server:
        model = gateway.add(server, kind="ollama")
        for members in ('"MODEL": "big"', '"n": 1, "n": 100', '"n": 100.0', '"options": {"NUM_PREDICT": 9}'):
            assert post(gateway, path, written(model, members, padding)).status == 400
        assert server.requests == []
        assert post(gateway, path, written(model, '"n": 1, "other": 1, "Other": 2', padding)).status == 200


@sized
def test_a_key_without_restrictions_sends_what_it_likes(gateway, padding):
    with upstream(always(WHOLE)) as server:
        model = gateway.add(server)
        body = written(model, '"MODEL": "big", "n": "100", "n": 1.0, "Options": 1, "conversation": 1', padding)
        assert post(gateway, CHAT, body, KEY).status == 200
        again = written(model, '"input": "a", "input": ["b"], "INPUT": [{"role": "user", "content": "c"}]', padding)
        assert post(gateway, RESPONSES, again, KEY).status == 200
    assert server.requests[0].partition(b"\r\n\r\n")[2] == body.encode()


# Stored responses


@pytest.fixture
def stored(gateway, sim):
    """A response of one key, an item of it, their model and server."""
    simulated = sim.add()
    model = gateway.add(simulated)
    made = gateway.post(RESPONSES, {"model": model, "input": "a secret"}).json()
    return made["id"], made["output"][0]["id"], model, simulated


REFERENCE = '{"type": "item_reference", "id": "ITEM"}'
# Bodies that a server reads as a reference to the response of another key if it takes the first of two names or the
# last one, with or without case; or if it reads the items of a list that RouterDash could not.
FORGED = [
    *(
        f'"{first}": {one}, "{second}": {two}'
        for first, second in (
            ("previous_response_id", "PREVIOUS_RESPONSE_ID"),
            ("previous_response_id", "previous_response_id"),
            ("Previous_Response_Id", "previous_response_id"),
            ("previous_response_id", "previous\\u005fresponse_id"),
            ("previou\u017f_response_id", "previous_response_id"),
        )
        for one, two in (('"RESPONSE"', "null"), ("null", '"RESPONSE"'), ('"RESPONSE"', '""'))
    ),
    '"conversation": "conv_1", "CONVERSATION": null',
    '"conversation": null, "conversation": {"id": "conv_1"}',
    '"request_id": "RESPONSE", "Request_ID": null',
    '"request_id": "RESPONSE", "request_id": ""',
    f'"input": [{REFERENCE}], "INPUT": "b"',
    f'"input": "b", "Input": [{REFERENCE}]',
    f'"input": [{REFERENCE}], "input": "b"',
    f'"input": ["x", {REFERENCE}]',
    f'"input": [{REFERENCE}, null]',
    f'"input": [[{REFERENCE}]]',
    f'"input": {REFERENCE}',
    '"input": [{"type": "message", "role": "user", "content": "b", "type": "item_reference", "id": "ITEM", "id": "x"}]',
    '"input": [{"type": "item_reference", "id": "ITEM", "type": "message", "role": "user", "content": "b"}]',
    '"input": [{"type": "item_reference", "id": "ITEM", "TYPE": "message", "role": "user", "content": "b"}]',
    '"input": [{"type":"item_reference","id":"ITEM","ID":"x"}]',
    '"input": [{"\\u0069D": "ITEM"}]',
    '"input": [{"ID": "ITEM", "type": "item_reference"}]',
    '"previous_response_id": "RESPONSE", "\xff": 1',
]


@sized
def test_no_spelling_reaches_a_stored_response_of_another_key(gateway, stored, padding):
    response, item, model, simulated = stored
    before = simulated.seen.started
    start = json.dumps({"model": model, "metadata": {"padding": padding}})[:-1]
    for forged in FORGED:
        members = forged.replace('RESPONSE"', f'{response}"').replace("ITEM", item)
        body = f"{start}, {members}}}".encode("latin-1" if "\xff" in members else "utf-8")
        given = post(gateway, RESPONSES, body, OTHER)
        assert given.status in (400, 404), forged
        assert simulated.seen.started == before, forged


@sized
def test_a_key_refers_to_its_own_objects_in_any_list_that_is_read_alike(gateway, stored, padding):
    response, item, model, _ = stored
    items = [
        {"type": "item_reference", "id": item},
        {
            "type": "message",
            "id": "msg_elsewhere",
            "role": "user",
            "content": [{"type": "input_text", "text": padding}],
        },
        {"type": "reasoning", "id": "rs_1", "summary": []},
    ]
    for separators in ((",", ":"), (", ", ": ")):
        body = json.dumps({"model": model, "input": items, "previous_response_id": response}, separators=separators)
        assert post(gateway, RESPONSES, body, KEY).status == 200
        assert post(gateway, RESPONSES, body, OTHER).status == 404


# Ollama's API


@sized
@pytest.mark.parametrize("prompt", ["Hi", ""])
def test_no_spelling_unloads_a_model(gateway, prompt, padding):
    with upstream(always(WHOLE)) as server:
        model = gateway.add(server, kind="ollama")
        for name in ("Keep_Alive", "KEEP_ALIVE", "\\u004beep_alive", "\u212aeep_alive"):
            members = f'"prompt": "{prompt}", "{name}": 0, "system": {json.dumps(padding)}'
            body = f'{{"model": "{model}", "stream": false, {members}}}'
            given = post(gateway, "/ollama/api/generate", body, KEY)
            assert given.status == 400, name
            assert given.json()["error"].startswith("`keep_alive` is spelled ")
    assert server.requests == []


def forbid(gateway, *patterns: str, **rules):
    key = gateway.keys[OTHER[3:11]]
    gateway.keys[key.id] = msgspec.structs.replace(key, rules=KeyRules(forbidden_models=patterns, **rules))
    gateway.publish()
    gateway.wait_until_followed()


@pytest.fixture
def restricted(gateway) -> Iterator[GatewayProcess]:
    yield gateway
    key = gateway.keys[OTHER[3:11]]
    gateway.keys[key.id] = msgspec.structs.replace(key, rules=None)
    gateway.publish()
    gateway.wait_until_followed()


@pytest.mark.parametrize(("id_end", "asked_end", "rule_end"), list(product(("", ":latest"), repeat=3)))
def test_a_forbidden_model_is_not_served_by_its_other_name(restricted, id_end, asked_end, rule_end):
    gateway = restricted
    with upstream(always(WHOLE)) as server:
        name = gateway.add(server, kind="ollama")
        (made,) = gateway.endpoints_of(name)
        model = msgspec.structs.replace(made.models[0], id=name + id_end)
        gateway.endpoints[made.id] = msgspec.structs.replace(made, models=(model,))
        forbid(gateway, f"{name}{rule_end}".upper())
        turn = {"model": name + asked_end, "messages": [{"role": "user", "content": "Hi"}], "stream": False}
        for path in ("/ollama/api/chat", *([CHAT] if id_end == asked_end else [])):
            assert gateway.post(path, turn, key=OTHER).status == 403
            assert gateway.post(path, turn).status == 200
        listed = gateway.get("/ollama/api/tags", key=OTHER).body + gateway.get("/v1/models", key=OTHER).body
        shown = gateway.post("/ollama/api/show", {"model": name + asked_end}, key=OTHER)
        del gateway.endpoints[made.id]
    assert len(server.requests) == (2 if id_end == asked_end else 1)
    assert name.encode() not in listed
    assert shown.status == 404


@pytest.mark.parametrize("path", ["generate", "chat", "embeddings"])
@pytest.mark.parametrize("fields", [{}, {"keep_alive": 0}], ids=["load", "unload"])
def test_a_request_without_a_prompt_does_not_show_that_a_forbidden_model_exists(restricted, path, fields):
    gateway = restricted
    with upstream(always(WHOLE)) as server:
        model = gateway.add(server, kind="ollama")
        forbid(gateway, "model-*")
        there, missing = (
            gateway.post(f"/ollama/api/{path}", {"model": name, **fields}, key=OTHER) for name in (model, "model-none")
        )
        with_prompt = {"model": model, "prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}]}
        usual = gateway.post(f"/ollama/api/{path}", with_prompt, key=OTHER)
        forbid(gateway, "other", kinds=("chat_completions",))
        of_kind = gateway.post(f"/ollama/api/{path}", {"model": model, **fields}, key=OTHER)
    assert (there.status, there.body) == (usual.status, usual.body)
    assert (there.status, there.body) == (missing.status, missing.body.replace(b"model-none", model.encode()))
    assert (of_kind.status, "may not send requests" in of_kind.json()["error"]) == (403, True)
    assert [record.outcome for record in gateway.records()] == ["rejected"] * 4
    assert server.requests == []


def test_a_load_through_a_model_name_obeys_the_rules_of_its_target(restricted):
    gateway = restricted
    with upstream(always(WHOLE)) as server:
        model = gateway.add(server, kind="ollama")
        named = ModelName(id="loads", name="load-it", steps=(Step((Target(model),)),))
        gateway.apply(Changes(model_names={named.id: named}))
        forbid(gateway, model)
        statuses = [gateway.post("/ollama/api/generate", {"model": "load-it"}, key=key).status for key in (OTHER, KEY)]
        gateway.apply(Changes(model_names={named.id: None}))
    assert statuses == [403, 200]


def test_a_request_without_a_prompt_has_a_record(gateway):
    with upstream(always(WHOLE)) as server:
        model = gateway.add(server, kind="ollama")
        assert gateway.post("/ollama/api/generate", {"model": model}).status == 200
        made = gateway.record()
        assert gateway.post("/ollama/api/generate", {"model": model, "keep_alive": 0}).status == 403
        refused = gateway.record()
    assert (made.outcome, made.status, made.model, made.kind) == ("ok", 200, model, "ollama_generate")
    assert (made.attempts, made.input_tokens, made.output_tokens) == ((), None, None)
    assert (refused.outcome, refused.error) == ("rejected", "permission_denied")
    assert server.requests == []


# Forms


def form_of(*fields: tuple[str, str]) -> bytes:
    parts = [
        f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields
    ]
    file = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\0\xff\r\n'
    return b"".join(parts) + file + b"--B--\r\n"


@pytest.mark.parametrize(
    ("more", "field", "free"),
    [
        (("model", "big"), "model", False),
        (("Model", "big"), "model", True),
        (("n", "1"), "n", True),
        (("N", "1"), "n", True),
    ],
)
def test_a_form_names_each_field_once(gateway, more, field, free):
    with upstream(always(http_response(b'{"text":"Hello."}'))) as server:
        model = gateway.add(server)
        body = form_of(("model", model), ("n", "1"), more)
        headers = {"Content-Type": "multipart/form-data; boundary=B"}
        given = gateway.request("POST", "/v1/images/edits", body, headers=headers, key=RULED)
        unrestricted = gateway.request("POST", "/v1/images/edits", body, headers=headers)
    assert error_of(given) == (400, "ambiguous_request")
    assert given.json()["error"]["param"] == field
    assert unrestricted.status == (200 if free else 400)
    assert len(server.requests) == (1 if free else 0)
