"""Cases at the edges: hostile heads, pipelining, upgrades, answers that break off in odd places."""

import asyncio
import base64
import gzip
import hashlib
import json
import os
import resource
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from gateway import files
from gateway import upstream as upstreams
from gateway.config import ConfigError, load
from gateway.forward import Forwarder
from gateway.handler import Gateway
from gateway.kinds import CHAT
from gateway.main import every
from gateway.openai import dialect, parse_request, read_answer
from gateway.record import Unrecorded
from gateway.redact import redact
from gateway.relay import StreamRelay
from gateway.sealing import Sealer, Unsealable
from gateway.snapshot import ApiKey
from gateway.upstream import BROKEN, TIMEOUT, UpstreamError
from tests.gateway.client import ask, fetch, in_loop, serving, soon
from tests.gateway.process import read_to_end, read_until
from tests.gateway.samples import KEY, make_endpoint
from tests.gateway.scripted import DONE, LAST, Talk, always, answer, chunk, each_time, opening, stream, upstream
from tests.router import until

# relay


@pytest.mark.parametrize("end", [DONE.rstrip(), DONE[:-1]])
def test_a_last_event_without_its_empty_line_is_not_lost(end):
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    assert relay.feed(LAST + end) == LAST
    relay.end()
    assert relay.held == end


def test_an_answer_of_two_choices_is_not_whole_before_both_have_finished():
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    relay.feed(chunk("a") + chunk("b").replace(b'"index":0', b'"index":1') + LAST)
    relay.end()
    assert not relay.whole


# openai


def test_text_that_was_cut_inside_an_emoji_is_passed_on():
    body = b'{"model":"m","messages":[{"role":"user","content":"cut \\ud83d"}]}'
    assert parse_request(body).model == "m"


def test_an_answer_bears_the_name_asked_for_whatever_its_usage_looks_like():
    assert read_answer(b'{"model":"old","usage":{"prompt_tokens":5.0}}', "new")[0].startswith(b'{"model":"new"')


# redact


def test_media_is_redacted_if_its_slashes_are_escaped():
    media = base64.b64encode(b"\xff" * 300).decode().replace("/", "\\/")
    assert media not in redact(f'{{"url":"data:image\\/png;base64,{media}"}}'.encode())


# config, sealing, files


def test_a_bad_database_url_does_not_show_its_password():
    told = ""
    try:
        load({"DATABASE_URL": "postgres://me:hunter2：@db/main"})
    except ConfigError as error:
        told = str(error)
    assert "hunter2" not in told


def test_the_home_of_nobody_is_a_configuration_error():
    with pytest.raises(ConfigError, match="ROUTERDASH_DATA_DIR"):
        load({"ROUTERDASH_DATA_DIR": "~nobody-of-this-name/data"})


def test_a_token_that_is_no_ascii_cannot_be_opened():
    with pytest.raises(Unsealable):
        Sealer([KEY]).open("schlüssel")


def test_a_failed_replacement_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):  # noqa: PT011
        files.replace(tmp_path / "taken", b"content")
    assert os.listdir(tmp_path) == ["taken"]


# roster, handler


def test_one_unusable_address_does_not_keep_the_others_from_being_routed(roster, control):
    control.publish(make_endpoint("bad", "m", base_url="http://[bad"), make_endpoint("good", "m"))
    roster.refresh()
    assert "good" in [route.endpoint.id for route in roster.routes("m")]


def test_one_unusable_hash_does_not_keep_the_other_keys_from_being_known(roster, control):
    good = ApiKey("good", hashlib.sha256(b"sk_good").hexdigest(), ())
    control.publish(api_keys=(ApiKey("bad", "no hash", ()), good))
    roster.refresh()
    assert roster.key(b"sk_good") == good


def test_the_journal_follows_the_database_after_a_look_for_an_unknown_model(config, roster, control, sweeper):
    gateway = Gateway(config, roster, Forwarder(config.control_socket, sweeper, lambda: True))
    control.publish(database_id="database-1")
    gateway.refresh()
    control.publish(database_id="database-2")
    roster.routes("unknown")
    gateway.refresh()
    assert gateway.journal is not None
    assert gateway.journal.database_id == "database-2"


# upstream


@in_loop
async def test_a_body_without_length_that_times_out_is_not_whole(monkeypatch):
    monkeypatch.setattr(upstreams, "SWEEP_SECONDS", 0.01)
    async with serving(opening(b"HTTP/1.1 200 OK\r\n\r\nbegun")) as (pool, _):
        with pytest.raises(UpstreamError) as caught:
            await fetch(pool, timeout=0.2)
        assert caught.value.kind == TIMEOUT


@in_loop
async def test_a_body_without_length_that_is_too_long_is_not_whole(monkeypatch):
    monkeypatch.setattr(upstreams, "MAX_BODY_BYTES", 1 << 20)
    async with serving(opening(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (2 << 20))) as (pool, _):
        with pytest.raises(UpstreamError) as caught:
            await fetch(pool)
        assert caught.value.kind == BROKEN


@in_loop
async def test_a_second_answer_that_nobody_asked_for_does_not_mix_with_the_first():
    async with serving(opening(answer(b"one") + answer(b"two", 500))) as (pool, _):
        connection = await ask(pool)
        assert (connection.status, await connection.read_all(), list(pool.idle)) == (200, b"one", [])


# inference


def test_a_stream_that_ends_inside_its_first_event_is_tried_on_another_endpoint(gateway, sim):
    with upstream(always(stream(chunk("x")[:20]))) as server:
        model = gateway.add(server, sim.add())
        received = gateway.say(gateway.chat_bytes(model, "Connection: close", stream=True))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert [attempt.outcome for attempt in gateway.record().attempts] == ["failed", "ok"]


def test_an_endpoint_that_is_deleted_during_a_request_is_not_asked(make_gateway, sim):
    process, deleted = make_gateway().start(), sim.add()
    answers = threading.Event()

    def script(talk: Talk) -> None:
        talk.request()
        answers.wait(30)
        talk.send(answer(b"", 500))

    with upstream(script) as server, process.connect() as connection:
        model = process.add(server, deleted)
        connection.sendall(process.chat_bytes(model, "Connection: close"))
        until(lambda: server.requests)
        del process.endpoints[process.endpoints_of(model)[1].id]
        process.publish()
        until(lambda: len(process.get(f"/v1/models/{model}").json()["endpoint_ids"]) == 1)
        answers.set()
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 502 ")
    assert process.record().status == 502
    assert deleted.seen.started == 0


def test_a_whole_answer_after_a_broken_stream_has_its_own_tokens(gateway, sim):
    with upstream(each_time(stream(end=False))) as server:
        gateway.chat(gateway.add(server, sim.add()), stream=False)
    record = gateway.record()
    assert (record.streamed, record.output_tokens) == (False, 8)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_an_error_that_a_stream_tells_before_it_breaks_off_is_kept(gateway, path):
    error = b'event: error\ndata: {"type":"error","error":{"message":"out of memory"}}\n\n'
    with upstream(each_time(stream(chunk("a"), error, end=False))) as server:
        given = gateway.post(path, {"model": gateway.add(server), "stream": True})
    record = gateway.record()
    assert b"out of memory" in given.body
    assert record.outcome == "failed"
    assert "an error in its answer" in record.error


def test_a_refusal_in_the_form_of_a_stream_is_a_refusal(gateway):
    event = b'data: {"error":{"message":"too long"}}\n\n'
    with upstream(always(answer(event, 404, "text/event-stream"))) as server:
        given = gateway.chat(gateway.add(server), stream=True)
    record = gateway.record()
    assert (given.status, given.headers["content-type"]) == (404, "application/json")
    assert given.json()["error"]["message"] == "too long"
    assert (record.outcome, record.status, [attempt.outcome for attempt in record.attempts]) == (
        "refused",
        404,
        ["refused"],
    )


def test_a_client_that_leaves_while_a_refusal_is_read_stops_the_endpoint(gateway):
    left = threading.Event()

    def script(talk: Talk) -> None:
        opening(answer(b"x" * 100, 400)[:-50])(talk)
        left.set()

    with upstream(script) as server:
        model = gateway.add(server)
        with gateway.connect() as connection:
            connection.sendall(gateway.chat_bytes(model, stream=True))
            until(lambda: server.requests)
            until(lambda: gateway.page.last_byte(gateway.endpoints_of(model)[0].slot))
        assert gateway.record_soon().outcome == "cancelled"
        assert left.wait(2)


# protocol


@pytest.mark.parametrize("framing", ["Content-Length", "Transfer-Encoding"])
def test_a_body_behind_an_offer_to_upgrade_is_read(gateway, sim, framing):
    body = json.dumps({"model": gateway.add(sim.add()), "messages": []}).encode()
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    if framing == "Content-Length":
        data = gateway.head("POST /v1/chat/completions", *upgrade, f"Content-Length: {len(body)}") + body
    else:
        head = gateway.head("POST /v1/chat/completions", *upgrade, "Transfer-Encoding: chunked")
        data = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with gateway.connect() as connection:
        connection.sendall(data)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_a_client_that_leaves_is_noticed_while_a_pipelined_request_waits(make_gateway, sim):
    process, simulated = make_gateway().start(), sim.add(fault="hang")
    with process.connect() as connection:
        connection.sendall(process.chat_bytes(process.add(simulated)) * 2)
        until(lambda: simulated.seen.running == 1)
    until(lambda: simulated.seen.cancelled == 1, 2)


def test_too_many_pipelined_requests_are_not_told_of_their_heads(gateway):
    received = gateway.say(gateway.head("GET /v1/models") * 20 + gateway.head("GET /v1/models", "Connection: close"))
    assert b"head has more than" not in received


def test_a_header_without_end_is_not_read_for_ever(make_gateway):
    process = make_gateway().start()
    with process.connect() as connection:
        connection.settimeout(2)
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nX-Filler: " + b"x" * (1 << 20))
            received = connection.recv(12)
        except ConnectionError:
            received = b""
    assert received in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")


def test_a_body_in_broken_chunks_is_answered(gateway):
    received = gateway.say(gateway.head("POST /v1/chat/completions", "Transfer-Encoding: chunked") + b"zz\r\n")
    assert received.startswith(b"HTTP/1.1 400 ")


# forward


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_of_control_without_a_body_gets_none(make_gateway, status):
    process = make_gateway().start()
    process.config.control_socket.parent.mkdir(exist_ok=True)
    bare = b"HTTP/1.1 %d Nothing\r\netag: x\r\n\r\n" % status
    with upstream(always(bare), process.config.control_socket), process.connect() as connection:
        connection.sendall(process.head("GET /static/app.js") + process.head("GET /v1/nothing", "Connection: close"))
        received = read_to_end(connection)
    head, rest = received.split(b"\r\n\r\n", 1)
    assert b"transfer-encoding" not in head
    assert rest.startswith(b"HTTP/1.1 404 ")


def test_the_limit_of_a_page_holds_for_chunked_bodies(gateway):
    part = b"%x\r\n%b\r\n" % (1 << 20, b"x" * (1 << 20))
    with gateway.connect() as connection:
        connection.sendall(gateway.head("POST /api/endpoints", "Transfer-Encoding: chunked"))
        connection.sendall(part * 9 + b"0\r\n\r\n")
        assert read_until(connection, b"}").startswith(b"HTTP/1.1 413 ")


# What a review found


def test_an_endpoint_that_repeats_a_bad_request_keeps_being_asked_for_usage(gateway, sim):
    def script(talk: Talk) -> None:
        while request := talk.request():
            talk.send(answer(b'{"error":"bad request: %b"}' % request.split(b"\r\n\r\n")[1].replace(b'"', b"'"), 400))

    with upstream(script) as server:
        model = gateway.add(server)
        assert [gateway.chat(model, stream=True).status for _ in range(2)] == [400, 400]
        assert [b"include_usage" in request for request in server.requests] == [True, False] * 2


def test_a_body_with_a_key_that_is_no_text_is_refused_and_counted(gateway, sim):
    model = gateway.add(sim.add(), known_as="tiny")
    body = b'{"model":"%b","x\xff":1}' % model.encode()
    received = gateway.say(
        gateway.head("POST /v1/chat/completions", "Connection: close", f"Content-Length: {len(body)}") + body
    )
    assert received.startswith(b"HTTP/1.1 400 ")
    assert (gateway.record().status, gateway.in_flight(model)) == (400, 0)


def test_a_host_that_is_no_name_fails_over(gateway, sim):
    model = gateway.add(SimpleNamespace(url="http://a..b"), sim.add())
    assert gateway.chat(model).status == 200
    assert [attempt.outcome for attempt in gateway.record().attempts] == ["failed", "ok"]


def test_comments_alone_are_no_answer(gateway, sim):
    with upstream(always(stream(b": one\n\n", b": two\n\n"))) as server:
        given = gateway.chat(gateway.add(server, sim.add()), stream=True)
    assert given.body.endswith(DONE)
    assert [attempt.outcome for attempt in gateway.record().attempts] == ["failed", "ok"]


def test_comments_do_not_extend_the_time_for_an_answer(gateway, sim):
    def script(talk: Talk) -> None:
        talk.request()
        talk.send(stream(end=False))
        while True:
            talk.send(b"6\r\n: no\n\n\r\n")
            time.sleep(0.05)

    with upstream(script) as server:
        given = gateway.chat(gateway.add(server, sim.add(), timeout_secs=1), stream=True)
    assert given.body.endswith(DONE)
    assert [attempt.outcome for attempt in gateway.record().attempts] == ["failed", "ok"]


def test_a_whole_answer_does_not_wait_for_the_end_of_its_body(gateway):
    with upstream(opening(stream(chunk("x"), LAST, DONE, end=False))) as server:
        given = gateway.chat(gateway.add(server, timeout_secs=600), stream=True)
    assert given.body.endswith(DONE)
    assert gateway.record().outcome == "ok"


def test_an_answer_that_is_compressed_all_the_same_is_labelled(gateway):
    body = gzip.compress(b'{"model":"tiny"}')
    with upstream(always(answer(body, 200, "application/json", "Content-Encoding: gzip"))) as server:
        given = gateway.chat(gateway.add(server))
    assert (given.body, given.headers["content-encoding"]) == (body, "gzip")


def test_a_stop_does_not_wait_for_half_a_request(make_gateway, sim):
    process = make_gateway(ROUTERDASH_DRAIN_SECS="600").start()
    with process.connect() as connection:
        connection.sendall(process.chat_bytes(process.add(sim.add()))[:-5])
        process.get("/v1/models")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def test_more_streams_than_the_usual_limit_of_descriptors(make_gateway, sim):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    process = make_gateway()
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        process.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    model = process.add(sim.add(ttft=0.5))
    with ThreadPoolExecutor(100) as clients:
        given = list(clients.map(lambda _: process.chat(model, stream=True).status, range(100)))
    assert (given, len(process.records())) == ([200] * 100, 100)


def test_what_is_not_recorded_is_told_while_it_lasts_and_counted_afterwards(make_gateway, sim):
    process = make_gateway()
    process.config.journal_dir.write_text("in the way")
    process.start()
    assert process.chat(process.add(sim.add())).status == 200
    until(lambda: process.page.unrecorded == 1)
    process.config.journal_dir.unlink()
    until(lambda: process.page.unrecorded == 0)
    assert process.entries(Unrecorded) == [Unrecorded(1)]


def test_a_journal_that_is_removed_is_begun_anew(make_gateway, sim):
    process = make_gateway().start()
    model = process.add(sim.add())
    process.chat(model)
    shutil.rmtree(process.config.journal_dir)
    until(lambda: "was removed" in process.log())
    process.chat(model)
    assert len(process.records()) == 1


@in_loop
async def test_what_is_repeated_outlives_its_errors():
    calls = []

    def work() -> None:
        calls.append(1)
        raise OSError("no descriptor left")

    task = asyncio.create_task(every(0.001, work))
    await soon(lambda: len(calls) > 2)
    task.cancel()


def test_a_request_that_comes_back_is_refused_once(gateway, sim):
    simulated = sim.add()
    model = gateway.add(simulated)
    gateway.chat(model)
    (via,) = [value for name, value in simulated.seen.headers[0].items() if name.lower() == "via"]
    gateway.records()
    given = gateway.chat_with(model, {"Via": f"1.1 somebody, {via}"})
    assert (given.status, given.json()["error"]["code"]) == (508, "loop_detected")
    assert (gateway.record().outcome, simulated.seen.started) == ("rejected", 1)


def test_routers_behind_each_other_are_told_on(gateway, sim):
    simulated = sim.add()
    gateway.chat_with(gateway.add(simulated), {"Via": "1.1 squid, 1.1 routerdash-other"})
    (via,) = [value for name, value in simulated.seen.headers[0].items() if name.lower() == "via"]
    first, second = via.split(", ")
    assert (first, second.startswith("1.1 routerdash-"), second == first) == ("1.1 routerdash-other", True, False)


def test_an_endpoint_that_is_the_router_itself_fails_over(gateway, sim):
    facts = {"sealed_key": Sealer([gateway.config.key_file.read_bytes()]).seal(gateway.key)}
    itself = SimpleNamespace(url=f"http://127.0.0.1:{gateway.port}")
    model = gateway.add(itself, sim.add(), **facts)
    assert gateway.chat(model).status == 200
    records = gateway.records()
    assert sorted(record.outcome for record in records) == ["ok", "rejected"]
