"""The one record of a request, before the last bytes of its response."""

import hashlib
import threading

import pytest

from gateway.base.config import load
from gateway.base.errors import MODEL_NOT_ALLOWED, Refusal
from gateway.inference import inference, recording
from gateway.inference.services import Services
from gateway.ipc import journal
from gateway.ipc.counters.other_waits import OtherWaits
from gateway.ipc.journal import Writer
from gateway.ipc.record import RequestRecord
from gateway.registry import schema
from gateway.registry.limits import KEY_LEVEL, LimitFacts
from gateway.registry.writer import Changes
from tests.gateway.conftest import Control
from tests.gateway.inside import Inside
from tests.gateway.process import ALL, KEY, read_until
from tests.gateway.samples import make_endpoint
from tests.gateway.scripted import DONE
from tests.router import until


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


# Faults of RouterDash at the end of a request


class Faulty:
    """A gateway in this process, one of whose functions raises."""

    def __init__(self, made, monkeypatch, simulated):
        self.inside = made
        self.simulated = simulated
        self.journal = made.config.journal_dir
        self._monkeypatch = monkeypatch

    def fail(self, module, name):
        def fault(*args, **fields):
            raise RuntimeError("a fault of the test")

        self._monkeypatch.setattr(module, name, fault)

    def chat(self, **fields):
        return self.inside.post("/v1/chat/completions", {"model": "m", "messages": [], **fields})

    def records(self):
        (writer,) = journal.writers(self.journal)
        entries = journal.read(self.journal / writer, journal.START, 100).entries
        return [entry for entry in entries if isinstance(entry, RequestRecord)]

    def without_record(self):
        """The requests that ended without a record, as they are counted once all have ended."""
        services = self.inside.gateway.services
        until(lambda: not services.running)
        self.inside.in_loop(services.publish_ended)
        return services.roster.page.requests.without_record()


@pytest.fixture
def faulty(tmp_path, sim, monkeypatch):
    config = load({"ROUTERDASH_DATA_DIR": str(tmp_path)})
    key = schema.PublishedKey(KEY[3:11], hashlib.sha256(KEY.encode()).hexdigest(), ALL, None)
    control = Control(config)
    simulated = sim.add()
    control.publish(make_endpoint("", "m", base_url=simulated.url), api_keys=(key,))
    control.registry.writer.apply(Changes(limits={(KEY_LEVEL, key.id): LimitFacts(requests=100)}))
    made = Inside(config, nobody)
    yield Faulty(made, monkeypatch, simulated)
    made.close()
    control.registry.close()


async def nobody(exchange):
    exchange.reply(204, (), b"")


@pytest.mark.parametrize("name", ["settle", "_usage_of_stream", "record_attempt", "_record_of"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_at_the_end_loses_no_record(faulty, name, stream):
    assert faulty.chat(stream=stream).status == 200
    faulty.fail(recording, name)
    assert faulty.chat(stream=stream).status == 200
    before, record = faulty.records()
    assert (before.outcome, record.outcome, record.status, len(record.attempts)) == ("ok", "ok", 200, 1)
    assert (record.attempts[0].outcome, record.attempts[0].endpoint_id) == ("ok", before.attempts[0].endpoint_id)
    assert faulty.without_record() == 0


def test_others_are_woken_after_the_record(faulty, monkeypatch):
    seen = []

    def pass_on(*args):
        faulty.inside.gateway.services.writes.flush()  # what waits for the end of the time slice
        seen.append(len(faulty.records()))

    monkeypatch.setattr(recording, "pass_on", pass_on)
    faulty.chat()
    assert seen == [1]


def test_a_fault_while_others_are_woken_ends_no_request(faulty):
    limits = faulty.inside.gateway.services.limits
    faulty.chat()
    compiled = limits._compiled.get(KEY[3:11])
    compiled.plan.elsewhere = [(0, None)]  # of an empty word
    limits.waits[0] = 1
    faulty.fail(OtherWaits, "pass_on")
    assert faulty.chat().status == 200
    assert len(faulty.records()) == 2
    assert faulty.without_record() == 0


def test_a_fault_of_an_attempt_loses_no_record(faulty):
    faulty.fail(inference, "fail_attempt")
    faulty.fail(inference, "respond")
    assert faulty.chat().status == 500
    (record,) = faulty.records()
    assert (record.outcome, record.status, [attempt.outcome for attempt in record.attempts]) == (
        "failed",
        500,
        ["failed"],
    )
    assert faulty.without_record() == 0


def test_a_refusal_after_an_attempt_counts_as_failed(faulty, monkeypatch):
    """The endpoint has worked for it, so that it must not be missing in its figures."""

    def refuse(*args):
        raise Refusal(403, MODEL_NOT_ALLOWED, "No more.")

    monkeypatch.setattr(inference, "_may_fail_over", refuse)
    faulty.simulated.set(fault="500")
    given = faulty.chat()
    assert (given.status, given.json()["error"]["code"]) == (403, MODEL_NOT_ALLOWED)
    (record,) = faulty.records()
    assert (record.outcome, record.status, [attempt.outcome for attempt in record.attempts]) == (
        "failed",
        403,
        ["failed"],
    )
    assert faulty.without_record() == 0


def test_a_record_that_cannot_be_encoded_is_counted_as_unrecorded(faulty):
    faulty.fail(journal, "encode")
    assert faulty.chat().status == 200
    assert faulty.inside.gateway.services.journal.unrecorded == 1
    assert (faulty.records(), faulty.without_record()) == ([], 0)


@pytest.mark.parametrize(("owner", "name"), [(Services, "record"), (Writer, "_ready")])
def test_a_served_request_without_a_record_is_noticed(faulty, owner, name):
    """Whatever loses it: the count is made elsewhere."""
    faulty.chat()
    faulty.fail(owner, name)
    faulty.chat()
    assert len(faulty.records()) == 1
    assert faulty.without_record() == 1
