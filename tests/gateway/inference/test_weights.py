"""Targets of a model name by weight: 10,000 requests to a real gateway, whose responses name the served model."""

import re
import socket
from collections import Counter

from gateway.registry.schema import Step, Target
from tests.gateway.model_names.test_chains import Names
from tests.gateway.process import GatewayProcess
from tests.gateway.scripted import Talk, http_response, upstream

REQUESTS = 10_000
CHI_SQUARE = 13.816  # 99.9 % of draws from three targets are below it (two degrees of freedom)
ANSWER = http_response(b'{"choices":[]}')
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_SERVED = re.compile(rb"x-routerdash-model: ([^\r]+)", re.IGNORECASE)


def keeps_answering(talk: Talk) -> None:
    while talk.request():
        talk.send(ANSWER)


def served(connection: socket.socket, request: bytes) -> str:
    """Send a request on an open connection; return the model that served it."""
    connection.sendall(request)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length, model = _LENGTH.search(head), _SERVED.search(head)
    assert head.startswith(b"HTTP/1.1 200")
    assert length is not None
    assert model is not None
    while len(body) < int(length[1]):
        body += connection.recv(65536)
    return model[1].decode()


def chi_square(counts: Counter[str], weights: dict[str, int]) -> float:
    total = sum(weights.values())
    expected = {model: REQUESTS * weight / total for model, weight in weights.items()}
    return sum((counts[model] - number) ** 2 / number for model, number in expected.items())


def test_ten_thousand_requests_follow_the_weights(gateway: GatewayProcess) -> None:
    with upstream(keeps_answering) as server:
        weights = {gateway.add(server): weight for weight in (70, 20, 10)}
        name = Names(gateway).add(Step(tuple(Target(model, weight) for model, weight in weights.items())))
        request = gateway.chat_bytes(name)
        for _ in range(2):  # right weights fail once in a thousand times
            with gateway.connect() as connection:
                counts = Counter(served(connection, request) for _ in range(REQUESTS))
            assert counts.keys() <= weights.keys()
            if chi_square(counts, weights) < CHI_SQUARE:
                return
    raise AssertionError(f"{counts} does not follow {weights}")
