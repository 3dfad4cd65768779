"""Edge cases: hostile header blocks, pipelining, upgrades, responses that break off at unusual places."""

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

from gateway.application import Gateway
from gateway.base import files
from gateway.base.config import ConfigError, load
from gateway.base.request_kinds import CHAT
from gateway.base.sealing import Sealer, Unsealable
from gateway.dialects.openai_events import dialect
from gateway.dialects.openai_requests import parse_request
from gateway.dialects.openai_responses import read_response
from gateway.dialects.redact import redact
from gateway.dialects.sse_relay import StreamRelay
from gateway.http.control_proxy import ControlProxy
from gateway.ipc.record import Unrecorded
from gateway.main import every
from gateway.registry.schema import PublishedKey
from gateway.upstream import pool as pools
from gateway.upstream import response_head
from gateway.upstream.errors import BROKEN, TIMEOUT, UpstreamError
from tests.gateway.client import fetch, in_loop, send_request, serving, wait_until
from tests.gateway.process import ALL, read_to_end, read_until
from tests.gateway.samples import KEY, make_endpoint
from tests.gateway.scripted import DONE, LAST, Talk, always, chunk, each_time, http_response, opening, stream, upstream
from tests.router import until

# relay


@pytest.mark.parametrize("end", [DONE.rstrip(), DONE[:-1]])
def test_a_last_event_without_its_empty_line_is_not_lost(end):
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    assert relay.feed(LAST + end) == LAST
    relay.end()
    assert relay.held == end


def test_a_response_with_two_choices_is_incomplete_until_both_have_finished():
    relay = StreamRelay(dialect(CHAT), "tiny", hide_usage=False)
    relay.feed(chunk("a") + chunk("b").replace(b'"index":0', b'"index":1') + LAST)
    relay.end()
    assert not relay.whole


# openai


def test_text_that_was_cut_inside_an_emoji_is_passed_on():
    body = b'{"model":"m","messages":[{"role":"user","content":"cut \\ud83d"}]}'
    assert parse_request(body).model == "m"


def test_a_response_has_the_requested_name_with_any_usage():
    assert read_response(b'{"model":"old","usage":{"prompt_tokens":5.0}}', "new")[0].startswith(b'{"model":"new"')


# redact


def test_media_is_redacted_if_its_slashes_are_escaped():
    media = base64.b64encode(b"\xff" * 300).decode().replace("/", "\\/")
    assert media not in redact(f'{{"url":"data:image\\/png;base64,{media}"}}'.encode())


# config, sealing, files


def test_a_bad_database_url_does_not_show_its_password():
    message = ""
    try:
        load({"DATABASE_URL": "postgres://me:hunter2：@db/main"})
    except ConfigError as error:
        message = str(error)
    assert "hunter2" not in message


def test_an_unknown_home_directory_is_a_configuration_error():
    with pytest.raises(ConfigError, match="ROUTERDASH_DATA_DIR"):
        load({"ROUTERDASH_DATA_DIR": "~nobody-of-this-name/data"})


def test_a_token_that_is_not_ascii_cannot_be_opened():
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
    good = PublishedKey("good", hashlib.sha256(b"sk_good").hexdigest(), ())
    control.publish(api_keys=(PublishedKey("bad", "no hash", ()), good))
    assert roster.key(b"sk_good").id == "good"


def test_the_journal_follows_the_database_after_a_search_for_an_unknown_model(config, roster, control, sweeper):
    gateway = Gateway(config, roster, ControlProxy(config.control_socket, sweeper, lambda: True))
    control.publish(database_id="database-1")
    gateway.services.refresh()
    control.publish(database_id="database-2")
    roster.routes("unknown")
    gateway.services.refresh()
    assert gateway.services.journal is not None
    assert gateway.services.journal.database_id == "database-2"


# upstream


@in_loop
async def test_a_body_without_length_that_times_out_is_incomplete(monkeypatch):
    monkeypatch.setattr(pools, "SWEEP_SECONDS", 0.01)
    async with serving(opening(b"HTTP/1.1 200 OK\r\n\r\nbegun")) as (pool, _):
        with pytest.raises(UpstreamError) as caught:
            await fetch(pool, timeout=0.2)
        assert caught.value.kind == TIMEOUT


@in_loop
async def test_a_body_without_length_that_is_too_long_is_incomplete(monkeypatch):
    monkeypatch.setattr(response_head, "MAX_BODY_BYTES", 1 << 20)
    async with serving(opening(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (2 << 20))) as (pool, _):
        with pytest.raises(UpstreamError) as caught:
            await fetch(pool)
        assert caught.value.kind == BROKEN


@in_loop
async def test_an_unrequested_second_response_does_not_mix_with_the_first():
    async with serving(opening(http_response(b"one") + http_response(b"two", 500))) as (pool, _):
        connection = await send_request(pool)
        assert (connection.status, await connection.read_all(), list(pool.idle)) == (200, b"one", [])


# inference


def test_a_stream_that_ends_inside_its_first_event_is_tried_on_another_endpoint(gateway, sim):
    with upstream(always(stream(chunk("x")[:20]))) as server:
        model = gateway.add(server, sim.add())
        received = gateway.send(gateway.chat_bytes(model, "Connection: close", stream=True))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert [attempt.outcome for attempt in gateway.record().attempts] == ["failed", "ok"]


def test_an_endpoint_that_is_deleted_during_a_request_gets_no_retry(make_gateway, sim):
    process, deleted = make_gateway().start(), sim.add()
    released = threading.Event()

    def script(talk: Talk) -> None:
        talk.request()
        released.wait(30)
        talk.send(http_response(b"", 500))

    with upstream(script) as server, process.connect() as connection:
        model = process.add(server, deleted)
        connection.sendall(process.chat_bytes(model, "Connection: close"))
        until(lambda: server.requests)
        del process.endpoints[process.endpoints_of(model)[1].id]
        reader = process.add_key("sk_reads-endpoints", (*ALL, "endpoints.read"))
        process.publish()
        until(lambda: len(process.get(f"/v1/models/{model}", key=reader).json().get("endpoint_ids", ())) == 1)
        released.set()
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 502 ")
    assert process.record().status == 502
    assert deleted.seen.started == 0


def test_a_complete_response_after_a_broken_stream_has_its_own_tokens(gateway, sim):
    with upstream(each_time(stream(end=False))) as server:
        gateway.chat(gateway.add(server, sim.add()), stream=False)
    record = gateway.record()
    assert (record.streamed, record.output_tokens) == (False, 8)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_an_error_in_a_stream_before_it_breaks_off_is_kept(gateway, path):
    error = b'event: error\ndata: {"type":"error","error":{"message":"out of memory"}}\n\n'
    with upstream(each_time(stream(chunk("a"), error, end=False))) as server:
        given = gateway.post(path, {"model": gateway.add(server), "stream": True})
    record = gateway.record()
    assert b"out of memory" in given.body
    assert record.outcome == "failed"
    assert "an error in its response" in record.error


def test_a_refusal_in_the_form_of_a_stream_is_a_refusal(gateway):
    event = b'data: {"error":{"message":"too long"}}\n\n'
    with upstream(always(http_response(event, 404, "text/event-stream"))) as server:
        given = gateway.chat(gateway.add(server), stream=True)
    record = gateway.record()
    assert (given.status, given.headers["content-type"]) == (404, "application/json")
    assert given.json()["error"]["message"] == "too long"
    assert (record.outcome, record.status, [attempt.outcome for attempt in record.attempts]) == (
        "refused",
        404,
        ["refused"],
    )


def test_a_client_disconnect_while_a_refusal_is_read_stops_the_endpoint(gateway):
    left = threading.Event()

    def script(talk: Talk) -> None:
        opening(http_response(b"x" * 100, 400)[:-50])(talk)
        left.set()

    with upstream(script) as server:
        model = gateway.add(server)
        with gateway.connect() as connection:
            connection.sendall(gateway.chat_bytes(model, stream=True))
            until(lambda: server.requests)
            until(lambda: gateway.page.last_byte(gateway.endpoints_of(model)[0].slot))
        assert gateway.record_soon().outcome == "cancelled"
        assert left.wait(10)


# protocol


@pytest.mark.parametrize("framing", ["Content-Length", "Transfer-Encoding"])
def test_a_body_after_an_upgrade_header_is_read(gateway, sim, framing):
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


def test_a_client_disconnect_is_noticed_while_a_pipelined_request_waits(make_gateway, sim):
    process, simulated = make_gateway().start(), sim.add(fault="hang")
    with process.connect() as connection:
        connection.sendall(process.chat_bytes(process.add(simulated)) * 2)
        until(lambda: simulated.seen.running == 1)
    until(lambda: simulated.seen.cancelled == 1)


def test_too_many_pipelined_requests_get_no_header_size_error(gateway):
    received = gateway.send(gateway.head("GET /v1/models") * 20 + gateway.head("GET /v1/models", "Connection: close"))
    assert b"header block has more than" not in received


def test_an_endless_header_is_not_read_forever(make_gateway):
    process = make_gateway().start()
    with process.connect() as connection:
        connection.settimeout(30)  # the process may still be starting
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nX-Filler: " + b"x" * (1 << 20))
            received = connection.recv(12)
        except ConnectionError:
            received = b""
    assert received in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")


def test_a_body_in_broken_chunks_gets_a_response(gateway):
    received = gateway.send(gateway.head("POST /v1/chat/completions", "Transfer-Encoding: chunked") + b"zz\r\n")
    assert received.startswith(b"HTTP/1.1 400 ")


# forward


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_of_control_without_a_body_gets_none(make_gateway, status):
    process = make_gateway().start()
    process.config.control_socket.parent.mkdir(exist_ok=True)
    bare = b"HTTP/1.1 %d Nothing\r\netag: x\r\n\r\n" % status
    with upstream(always(bare), process.config.control_socket), process.connect() as connection:
        connection.sendall(process.head("GET /static/app.js") + process.head("GET /v1/nothing", "Connection: close"))
        received = read_to_end(connection)
    head, rest = received.split(b"\r\n\r\n", 1)
    assert b"transfer-encoding" not in head
    assert rest.startswith(b"HTTP/1.1 404 ")


def test_the_body_limit_of_pages_applies_to_chunked_bodies(gateway):
    part = b"%x\r\n%b\r\n" % (1 << 20, b"x" * (1 << 20))
    with gateway.connect() as connection:
        connection.sendall(gateway.head("POST /api/endpoints", "Transfer-Encoding: chunked"))
        connection.sendall(part * 9 + b"0\r\n\r\n")
        assert read_until(connection, b"}").startswith(b"HTTP/1.1 413 ")


# Found in a review


def test_an_endpoint_that_quotes_a_bad_request_still_gets_stream_options(gateway, sim):
    def script(talk: Talk) -> None:
        while request := talk.request():
            talk.send(
                http_response(b'{"error":"bad request: %b"}' % request.split(b"\r\n\r\n")[1].replace(b'"', b"'"), 400)
            )

    with upstream(script) as server:
        model = gateway.add(server)
        assert [gateway.chat(model, stream=True).status for _ in range(2)] == [400, 400]
        assert [b"include_usage" in request for request in server.requests] == [True, False] * 2


def test_a_body_with_invalid_utf8_is_refused_and_counted(gateway, sim):
    model = gateway.add(sim.add(), known_as="tiny")
    body = b'{"model":"%b","x\xff":1}' % model.encode()
    received = gateway.send(
        gateway.head("POST /v1/chat/completions", "Connection: close", f"Content-Length: {len(body)}") + body
    )
    assert received.startswith(b"HTTP/1.1 400 ")
    assert (gateway.record().status, gateway.in_flight(model)) == (400, 0)


def test_an_invalid_host_name_fails_over(gateway, sim):
    model = gateway.add(SimpleNamespace(url="http://a..b"), sim.add())
    assert gateway.chat(model).status == 200
    assert [attempt.outcome for attempt in gateway.record().attempts] == ["failed", "ok"]


def test_comments_alone_are_no_response(gateway, sim):
    with upstream(always(stream(b": one\n\n", b": two\n\n"))) as server:
        given = gateway.chat(gateway.add(server, sim.add()), stream=True)
    assert given.body.endswith(DONE)
    assert [attempt.outcome for attempt in gateway.record().attempts] == ["failed", "ok"]


def test_comments_do_not_extend_the_timeout(gateway, sim):
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


def test_a_complete_response_does_not_wait_for_the_end_of_its_body(gateway):
    with upstream(opening(stream(chunk("x"), LAST, DONE, end=False))) as server:
        given = gateway.chat(gateway.add(server, timeout_secs=600), stream=True)
    assert given.body.endswith(DONE)
    assert gateway.record().outcome == "ok"


def test_an_unrequested_compressed_response_has_its_content_encoding(gateway):
    body = gzip.compress(b'{"model":"tiny"}')
    with upstream(always(http_response(body, 200, "application/json", "Content-Encoding: gzip"))) as server:
        given = gateway.chat(gateway.add(server))
    assert (given.body, given.headers["content-encoding"]) == (body, "gzip")


def test_a_stop_does_not_wait_for_an_incomplete_request(make_gateway, sim):
    process = make_gateway(ROUTERDASH_DRAIN_SECS="600").start()
    with process.connect() as connection:
        connection.sendall(process.chat_bytes(process.add(sim.add()))[:-5])
        process.get("/v1/models")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def test_more_streams_than_the_default_limit_of_descriptors(make_gateway, sim):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    process = make_gateway()
    # The process inherits the limit of the tests, which may have many open files after other tests.
    count = max(80, *(int(name) for name in os.listdir("/proc/self/fd"))) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, limits[1]))
    try:
        process.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    model = process.add(sim.add(ttft=0.5))
    with ThreadPoolExecutor(count) as clients:
        given = list(clients.map(lambda _: process.chat(model, stream=True).status, range(count)))
    assert (given, len(process.records())) == ([200] * count, count)


def test_unrecorded_requests_are_reported_at_once_and_counted_afterwards(make_gateway, sim):
    process = make_gateway()
    process.config.journal_dir.write_text("in the way")
    process.start()
    assert process.chat(process.add(sim.add())).status == 200
    until(lambda: process.page.unrecorded == 1)
    process.config.journal_dir.unlink()
    until(lambda: process.page.unrecorded == 0)
    assert process.entries(Unrecorded) == [Unrecorded(1)]


def test_a_removed_journal_is_created_again(make_gateway, sim):
    process = make_gateway().start()
    model = process.add(sim.add())
    process.chat(model)
    shutil.rmtree(process.config.journal_dir)
    until(lambda: "was removed" in process.log())
    process.chat(model)
    assert len(process.records()) == 1


@in_loop
async def test_periodic_work_survives_its_errors():
    calls = []

    def work() -> None:
        calls.append(1)
        raise OSError("no descriptor left")

    task = asyncio.create_task(every(0.001, work))
    await wait_until(lambda: len(calls) > 2)
    assert not task.done()
    task.cancel()


def test_a_request_loop_is_refused_once(gateway, sim):
    simulated = sim.add()
    model = gateway.add(simulated)
    gateway.chat(model)
    (via,) = [value for name, value in simulated.seen.headers[0].items() if name.lower() == "via"]
    gateway.records()
    given = gateway.chat_with(model, {"Via": f"1.1 somebody, {via}"})
    assert (given.status, given.json()["error"]["code"]) == (508, "loop_detected")
    assert (gateway.record().outcome, simulated.seen.started) == ("rejected", 1)


def test_routers_in_a_chain_are_listed_in_the_via_header(gateway, sim):
    simulated = sim.add()
    gateway.chat_with(gateway.add(simulated), {"Via": "1.1 squid, 1.1 routerdash-other"})
    (via,) = [value for name, value in simulated.seen.headers[0].items() if name.lower() == "via"]
    first, second = via.split(", ")
    assert (first, second.startswith("1.1 routerdash-"), second == first) == ("1.1 routerdash-other", True, False)


def test_an_endpoint_that_is_routerdash_itself_fails_over(gateway, sim):
    facts = {"sealed_key": Sealer([gateway.config.key_file.read_bytes()]).seal(gateway.key)}
    itself = SimpleNamespace(url=f"http://127.0.0.1:{gateway.port}")
    model = gateway.add(itself, sim.add(), **facts)
    assert gateway.chat(model).status == 200
    records = gateway.records()
    assert sorted(record.outcome for record in records) == ["ok", "rejected"]
