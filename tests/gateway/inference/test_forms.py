"""Forms with files through a real gateway: streamed to an endpoint, and sent to another one on failover."""

import json
import socket
import threading

import pytest

from gateway.dialects.openai_responses import BIG_BYTES
from gateway.registry.schema import ModelName, Step, Target
from gateway.registry.writer import Changes
from tests.gateway.inference.helpers import error_of, outcomes, refuses
from tests.gateway.process import read_to_end
from tests.gateway.scripted import Talk, always, http_response, opening, stream, upstream
from tests.router import until

KINDS = {
    "/v1/audio/transcriptions": "audio_transcriptions",
    "/v1/audio/translations": "audio_translations",
    "/v1/images/edits": "image_edits",
    "/v1/images/variations": "image_variations",
}
TEXT = b'{"text":"Hello.","usage":{"type":"tokens","input_tokens":9,"output_tokens":2}}'


def form(model, *, size=1000, before=True, stream=False):
    """A form with a file of `size` bytes, and the model before or after it."""
    fields = [b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n' % model.encode()]
    if stream:
        fields.append(b'--B\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n')
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    file = head + b"\x00\xff" * (size // 2) + b"\r\n"
    parts = [*fields, file] if before else [file, *fields]
    return b"".join(parts) + b"--B--\r\n"


def send(gateway, body, path="/v1/audio/transcriptions"):
    return gateway.request("POST", path, body, headers={"Content-Type": "multipart/form-data; boundary=B"})


def body_of(request):
    return request.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("before", [True, False])
def test_a_form_is_sent_unchanged(gateway, path, before):
    with upstream(always(http_response(TEXT))) as server:
        model = gateway.add(server)
        sent = form(model, before=before)
        assert send(gateway, sent, path).body == TEXT
    assert body_of(server.requests[0]) == sent
    record = gateway.record()
    assert (record.kind, record.outcome, record.model) == (KINDS[path], "ok", model)
    assert (record.input_tokens, record.output_tokens) == (9, 2)


def test_a_model_is_requested_by_the_endpoints_own_name(gateway):
    with upstream(always(http_response(TEXT))) as server:
        model = gateway.add(server, known_as="whisper")
        send(gateway, form(model))
    assert body_of(server.requests[0]) == form("whisper")


def test_a_small_form_is_tried_on_another_endpoint(gateway):
    with upstream(refuses(500)) as bad, upstream(always(http_response(TEXT))) as good:
        assert send(gateway, form(gateway.add(bad, good))).status == 200
    assert body_of(good.requests[0]) == body_of(bad.requests[0])
    assert outcomes(gateway.record()) == [("failed", 500), ("ok", 200)]


def test_a_form_that_is_not_stored_any_longer_is_not_sent_again(gateway, sim):
    good = sim.add()
    with upstream(refuses(500)) as bad:
        given = send(gateway, form(gateway.add(bad, good), size=4 << 20))
    assert error_of(given) == (502, "upstream_error")
    assert (good.seen.started, len(gateway.record().attempts)) == (0, 1)


def test_a_form_is_passed_on_as_it_is_received(gateway):
    with upstream(always(http_response(TEXT))) as server, gateway.connect() as connection:
        whole = form(gateway.add(server), size=200_000)
        kind = "Content-Type: multipart/form-data; boundary=B"
        head = gateway.head("POST /v1/audio/transcriptions", f"Content-Length: {len(whole)}", "Connection: close")
        connection.sendall(head.replace(b"Content-Type: application/json", kind.encode()) + whole[:100_000])
        until(lambda: server.connections == 1)
        connection.sendall(whole[100_000:])
        assert TEXT in read_to_end(connection)
    assert body_of(server.requests[0]) == whole


def test_a_response_before_the_end_of_the_form_is_passed_on(gateway):
    def script(talk: Talk) -> None:
        talk.socket.recv(100)
        talk.send(http_response(b'{"error":{"message":"too long"}}', 413))
        talk.socket.shutdown(socket.SHUT_WR)
        while talk.socket.recv(1 << 16):
            pass

    with upstream(script) as server:
        given = send(gateway, form(gateway.add(server), size=300_000))
    assert (given.status, given.json()["error"]["message"]) == (413, "too long")
    assert gateway.record().outcome == "refused"


def test_a_transcript_may_be_a_stream(gateway):
    events = [
        {"type": "transcript.text.delta", "delta": "Hel"},
        {"type": "transcript.text.done", "text": "Hello.", "usage": {"input_tokens": 9, "output_tokens": 2}},
    ]
    sent = [b"data: %b\n\n" % json.dumps(event).encode() for event in events]
    with upstream(always(stream(*sent))) as server:
        given = send(gateway, form(gateway.add(server), stream=True))
    assert given.body == b"".join(sent)
    record = gateway.record()
    assert (record.outcome, record.streamed, record.output_tokens) == ("ok", True, 2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (form("").replace(b'name="model"', b'name="other"'), "`model` is missing"),
        (b"--B\r\nnonsense", "before its last boundary"),
        (form("unheard of"), "does not exist"),
    ],
)
def test_the_refusal_of_a_malformed_form_names_the_error(gateway, body, words):
    given = send(gateway, body)
    assert given.status in (400, 404)
    assert words in given.json()["error"]["message"]


def test_a_form_that_breaks_when_half_is_sent_is_refused_and_leaves_nothing(gateway):
    with upstream(opening()) as server:
        model = gateway.add(server)
        given = send(gateway, form(model, size=100_000)[:-10] + b"\r\n--B nonsense\r\n\r\n")
    assert given.status == 400
    assert gateway.in_flight(model) == 0


def test_a_client_disconnect_in_the_middle_of_a_form(gateway):
    with upstream(opening()) as server, gateway.connect() as connection:
        model = gateway.add(server)
        whole = form(model, size=100_000)
        head = gateway.head("POST /v1/audio/transcriptions", f"Content-Length: {len(whole)}")
        kind = b"Content-Type: multipart/form-data; boundary=B"
        connection.sendall(head.replace(b"Content-Type: application/json", kind) + whole[:50_000])
        until(lambda: gateway.in_flight(model) == 1)
        connection.close()
        assert gateway.record_soon().outcome == "cancelled"
    assert gateway.in_flight(model) == 0


# Audio and images


def test_audio_is_passed_on_as_it_is_received(gateway):
    first, rest = b"ID3" * 1000, b"\xff" * 5000
    head = b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"

    def script(talk: Talk) -> None:
        talk.request()
        talk.send(head, b"%x\r\n%b\r\n" % (len(first), first), b"%x\r\n%b\r\n" % (10, rest[:10]))
        go_on.wait(30)
        talk.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest) - 10, rest[10:]))

    go_on = threading.Event()
    with upstream(script) as server, gateway.connect() as connection:
        body = json.dumps({"model": gateway.add(server), "input": "Hello.", "voice": "v"}).encode()
        connection.sendall(
            gateway.head("POST /v1/audio/speech", f"Content-Length: {len(body)}", "Connection: close") + body
        )
        received = b""
        while rest[:10] not in received:
            received += connection.recv(1 << 16)
        go_on.set()
        received += read_to_end(connection)
    assert b"content-type: audio/mpeg" in received
    record = gateway.record()
    assert (record.kind, record.outcome, record.streamed) == ("audio_speech", "ok", False)


def test_audio_that_breaks_off_closes_the_connection(gateway):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"

    with upstream(opening(head + b"3\r\nID3\r\n" * 4)) as server, gateway.connect() as connection:
        body = json.dumps({"model": gateway.add(server, timeout_secs=1), "input": "Hello."}).encode()
        connection.sendall(
            gateway.head("POST /v1/audio/speech", f"Content-Length: {len(body)}", "Connection: close") + body
        )
        try:
            received = read_to_end(connection)
        except ConnectionResetError:
            received = b""
    assert not received.endswith(b"0\r\n\r\n")
    assert gateway.record_soon().outcome in ("truncated", "failed")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/images/generations", "image_generations"),
        ("/v1/rerank", "rerank"),
        ("/v1/moderations", "moderations"),
        ("/v1/tokenize", "tokenize"),
    ],
)
def test_a_json_response_to_a_request_for_audio_is_passed_on(gateway, path, kind):
    with upstream(always(http_response(b'{"ok":true}'))) as server:
        model = gateway.add(server)
        assert gateway.post(path, {"model": model, "prompt": "x"}).json() == {"ok": True}
    requested_path = server.requests[0].split(b" ")[1].decode()
    assert requested_path == ("/tokenize" if kind == "tokenize" else path)
    record = gateway.record()
    assert (record.kind, record.outcome) == (kind, "ok")


def test_a_model_name_changes_only_the_model_of_a_form(gateway):
    with upstream(refuses(500)) as failing, upstream(always(http_response(TEXT))) as server:
        first, second = gateway.add(failing), gateway.add(server)
        steps = (Step((Target(first),)), Step((Target(second),)))
        name = ModelName(id="form", name="form-name", steps=steps, dropped=("language",), echo_served=True)
        gateway.registry.writer.apply(Changes(model_names={"form": name}))
        given = send(gateway, form("form-name"))
        gateway.registry.writer.apply(Changes(model_names={"form": None}))
    assert (given.status, given.headers["x-routerdash-step"]) == (200, "2")
    assert body_of(server.requests[0]) == form(second)
    assert gateway.record().model == "form-name"


@pytest.mark.parametrize("size", [10, BIG_BYTES])
def test_images_of_a_response_are_recorded(gateway, size):
    body = json.dumps({"created": 1, "data": [{"b64_json": "A" * size}, {"url": "http://x/y"}]}).encode()
    with upstream(always(http_response(body))) as server:
        assert gateway.post("/v1/images/generations", {"model": gateway.add(server), "prompt": "x"}).body == body
    assert gateway.record().images == 2


def test_the_duration_of_transcribed_audio_is_recorded(gateway):
    with upstream(always(http_response(b'{"text":"Hello.","duration":1.25}'))) as server:
        assert send(gateway, form(gateway.add(server))).status == 200
    record = gateway.record()
    assert (record.audio_ms, record.images, record.input_tokens) == (1250, None, None)
