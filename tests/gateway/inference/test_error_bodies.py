"""Bodies of errors that are long, and come slowly: of each, the beginning is read, and the connection is closed."""

import contextlib
from collections.abc import Callable

import pytest

from gateway.inference.failures.error_bodies import MAX_ERROR_BYTES
from tests.gateway.process import GatewayProcess
from tests.gateway.scripted import Talk, upstream

ENDLESS = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = b"%x\r\n%b\r\n" % (64 << 10, b"stream_options ".ljust(64 << 10, b"x"))
MOST = 16 << 20  # that system buffers may take of a response nobody reads


class Endless:
    """An endpoint whose errors end when the gateway closes the connection."""

    def __init__(self, status: int) -> None:
        self._opening = ENDLESS % status
        self.sent: list[int] = []  # bytes of each error

    def __call__(self, talk: Talk) -> None:
        while talk.request():
            self.sent.append(0)
            with contextlib.suppress(OSError):
                talk.send(self._opening)
                while self.sent[-1] <= MOST:
                    talk.send(PIECE)
                    self.sent[-1] += len(PIECE)
            return


def chat(gateway: GatewayProcess, model: str) -> int:
    return gateway.chat(model).status


def streamed_chat(gateway: GatewayProcess, model: str) -> int:
    return gateway.chat(model, stream=True).status


def messages(gateway: GatewayProcess, model: str) -> int:
    fields = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    return gateway.post("/v1/messages", fields).status


def responses(gateway: GatewayProcess, model: str) -> int:
    return gateway.post("/v1/responses", {"model": model, "input": "Hi"}).status


def ollama(gateway: GatewayProcess, model: str) -> int:
    fields = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    return gateway.post("/ollama/api/chat", fields).status


@pytest.mark.parametrize("ask", [chat, streamed_chat, messages, responses, ollama])
@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_an_endless_error_ends_at_its_limit(
    gateway: GatewayProcess, ask: Callable[[GatewayProcess, str], int], status: int
) -> None:
    script = Endless(status)
    with upstream(script) as server:
        assert ask(gateway, gateway.add(server)) == (502 if status in (302, 500) else status)
    assert max(script.sent) < MOST


@pytest.mark.parametrize("status", [400, 404])
def test_a_long_error_of_a_stored_response_ends_at_its_limit(
    make_gateway: Callable[..., GatewayProcess], status: int
) -> None:
    gateway = make_gateway(ROUTERDASH_OPEN_RESPONSES="true").start()
    script = Endless(status)
    with upstream(script) as server:
        gateway.add(server)
        gateway.wait_until_followed()
        assert gateway.get("/v1/responses/resp_1").status == status
    assert max(script.sent) < MOST


def test_an_error_of_the_largest_size_is_passed_on_whole(gateway: GatewayProcess) -> None:
    body = b'{"error":{"message":"%b"}}'
    body %= b"x" * (MAX_ERROR_BYTES - len(body) + 2)

    def script(talk: Talk) -> None:
        while talk.request():
            talk.send(b"HTTP/1.1 400 X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
            talk.send(body)

    with upstream(script) as server:
        model = gateway.add(server)
        assert [gateway.chat(model).body for _ in range(2)] == [body, body]
