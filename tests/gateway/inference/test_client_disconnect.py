"""Client disconnects: the endpoint stops, and the request is recorded as cancelled."""

import pytest

from tests.gateway.inference.helpers import outcomes, refuses
from tests.gateway.process import read_until
from tests.gateway.scripted import DONE, LAST, always, chunk, stream, upstream
from tests.router import until


@pytest.mark.parametrize(
    ("behaviour", "fields", "status"),
    [
        ({"tokens": 1000, "tokens_per_second": 50}, {"stream": True}, 200),
        ({"fault": "hang"}, {"stream": True}, 0),
        ({"ttft": 60}, {"stream": False}, 0),
    ],
    ids=["streaming", "waiting for the head", "not streaming"],
)
def test_a_client_disconnect_stops_the_endpoint(gateway, sim, behaviour, fields, status):
    simulated = sim.add(**behaviour)
    model = gateway.add(simulated)
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, **fields))
        if status:
            read_until(connection, b"\n\n\r\n")
        until(lambda: simulated.seen.running == 1)
        assert gateway.in_flight(model) == 1
    record = gateway.record_soon()
    assert (record.outcome, record.status, record.error) == ("cancelled", status, "the client left")
    assert outcomes(record) == [("cancelled", 0)]
    until(lambda: simulated.seen.cancelled == 1)
    assert (gateway.in_flight(model), simulated.seen.running) == (0, 0)


def test_the_tokens_of_a_stream_count_after_a_client_disconnect(gateway, sim):
    model = gateway.add(sim.add(tokens=1000, tokens_per_second=200))
    with gateway.connect() as connection:
        connection.sendall(gateway.chat_bytes(model, stream=True))
        received = b""
        while received.count(b"data: {") < 6:  # the first one has only the role
            received += connection.recv(1 << 16)
    record = gateway.record_soon()
    assert (record.streamed, record.estimated) == (True, True)
    assert 5 <= record.output_tokens < 1000


def test_a_client_disconnect_between_two_attempts(gateway, sim):
    simulated = sim.add(fault="hang")
    with upstream(refuses(500)) as server:
        model = gateway.add(server, simulated)
        with gateway.connect() as connection:
            connection.sendall(gateway.chat_bytes(model))
            until(lambda: simulated.seen.running == 1)
    record = gateway.record_soon()
    assert (record.outcome, outcomes(record)) == ("cancelled", [("failed", 500), ("cancelled", 0)])


def test_a_disconnect_of_a_slow_client(gateway):
    with upstream(always(stream(*[chunk("x" * 100_000)] * 300, LAST, DONE))) as server:
        model = gateway.add(server)
        with gateway.connect() as connection:
            connection.sendall(gateway.chat_bytes(model, stream=True))
            read_until(connection, b"x" * 1000)
        assert gateway.record_soon().outcome == "cancelled"
        assert gateway.in_flight(model) == 0
