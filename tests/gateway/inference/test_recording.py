"""The one record of a request, before the last bytes of its response."""

import threading

import pytest

from tests.gateway.process import read_until
from tests.gateway.scripted import DONE


def test_the_record_is_written_before_the_last_byte(gateway, sim):
    model = gateway.add(sim.add())
    for number in range(150):
        given = gateway.chat(model, stream=number % 2 == 0)
        record = gateway.record()
        assert (record.outcome, given.status) == ("ok", 200)
        assert gateway.in_flight(model) == 0


def test_the_record_is_written_before_done(gateway, sim):
    model = gateway.add(sim.add())
    with gateway.connect() as connection:
        for _ in range(50):
            connection.sendall(gateway.chat_bytes(model, stream=True))
            read_until(connection, DONE + b"\r\n0\r\n\r\n")
            assert gateway.record().outcome == "ok"


@pytest.mark.parametrize("fault", ["400", "500", "429", "refuse", "cut", "die", "error_event"])
@pytest.mark.parametrize("stream", [True, False])
def test_there_is_one_record_for_each_kind_of_end(gateway, sim, fault, stream):
    simulated = sim.add()
    model = gateway.add(simulated)
    simulated.set(fault=fault)
    for _ in range(3):
        gateway.chat(model, stream=stream)
        assert gateway.record().model == model
    assert gateway.in_flight(model) == 0


def test_records_have_the_ids_that_clients_received(gateway, sim):
    model = gateway.add(sim.add())
    given = [gateway.chat(model).headers["x-request-id"] for _ in range(3)]
    assert given == [record.id for record in gateway.records()]
    milliseconds = [identifier[:13] for identifier in given]
    assert milliseconds == sorted(milliseconds)


def test_many_clients_at_once_are_all_counted(gateway, sim):
    model = gateway.add(sim.add(ttft=0.01), sim.add(ttft=0.01))

    def send_requests() -> None:
        for number in range(20):
            gateway.chat(model, stream=number % 2 == 0)

    threads = [threading.Thread(target=send_requests) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = gateway.records()
    assert len({record.id for record in records}) == len(records) == 160
    assert {record.outcome for record in records} == {"ok"}
    assert gateway.in_flight(model) == 0


def test_an_attempt_records_how_long_its_connection_took(gateway, sim):
    simulated = sim.add()
    model = gateway.add(simulated)
    taken = []
    for _ in range(2):
        gateway.chat(model)
        (attempt,) = gateway.record().attempts
        assert 0 <= attempt.connect_us <= attempt.duration_us
        taken.append(attempt.connect_us)
    assert taken[0] > 0
    assert taken[1] == 0  # the connection was still open


def test_an_attempt_without_a_connection_records_how_long_it_tried(gateway, sim):
    simulated = sim.add()
    model = gateway.add(simulated)
    simulated.set(fault="refuse")
    gateway.chat(model)
    attempt = gateway.record().attempts[-1]
    assert (attempt.outcome, 0 < attempt.connect_us <= attempt.duration_us) == ("failed", True)
