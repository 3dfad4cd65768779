"""Refusals of strangers: all are counted, and a flood of them makes few records."""

import time
from collections import Counter

import pytest

from gateway.base.errors import INVALID_API_KEY, METHOD_NOT_ALLOWED, NOT_FOUND
from gateway.ipc.record import REJECTED, RequestRecord, uuid7
from gateway.ipc.strangers import RECORDED_ONE_BY_ONE, Strangers
from tests.gateway.process import read_until
from tests.router import until

FLOOD = 300


@pytest.fixture
def gateway(make_gateway):
    return make_gateway().start()


def flood(gateway, *paths):
    """Send requests without an API key, FLOOD for each path, and return once all are refused."""
    with gateway.connect() as connection:
        for path in paths:
            head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
            for _ in range(FLOOD):
                connection.sendall(head)
                read_until(connection, b"}")


def refusals(records):
    """Return the number of refusals by code."""
    counts = Counter[str]()
    for record in records:
        assert (record.outcome, record.api_key_id) == (REJECTED, None)
        counts[record.error] += record.count
    return counts


def all_refusals(gateway, number):
    """Return all records of refusals, as soon as they stand for this number."""
    records: list[RequestRecord] = []

    def are_complete():
        records.extend(gateway.records())
        return sum(record.count for record in records) >= number

    until(are_complete)
    return records


def test_a_flood_is_counted_in_few_records(gateway):
    began = time.time()
    flood(gateway, "/v1/models", "/v1/nothing")
    records = all_refusals(gateway, 2 * FLOOD)
    seconds = int(time.time()) - int(began) + 1
    assert refusals(records) == {INVALID_API_KEY: FLOOD, NOT_FOUND: FLOOD}
    assert len(records) <= seconds * (RECORDED_ONE_BY_ONE + 2)
    assert {record.status for record in records} == {401, 404}
    assert not gateway.page.requests.row(0).refused


def test_few_refusals_have_their_own_records_at_once(gateway):
    assert gateway.request("GET", "/v1/models", key=None).status == 401
    record = gateway.record()
    assert (record.count, record.error, record.client_ip) == (1, INVALID_API_KEY, "127.0.0.1")


def test_those_of_a_client_with_a_key_have_their_own_records(gateway):
    for _ in range(3 * RECORDED_ONE_BY_ONE):
        assert gateway.request("GET", "/v1/chat/completions").status == 405
    records = gateway.records()
    assert len(records) == 3 * RECORDED_ONE_BY_ONE
    assert {(record.error, record.count) for record in records} == {(METHOD_NOT_ALLOWED, 1)}


def test_a_kill_loses_none(gateway):
    flood(gateway, "/v1/models")
    gateway.kill()
    before = gateway.records()
    gateway.start()
    assert refusals(before + all_refusals(gateway, FLOOD - sum(refusals(before).values()))) == {INVALID_API_KEY: FLOOD}


def test_a_clean_end_leaves_none(gateway):
    flood(gateway, "/v1/models")
    gateway.process.terminate()
    gateway.wait()
    assert refusals(gateway.records()) == {INVALID_API_KEY: FLOOD}


# The writing, with a journal that may be full


class Journal:
    """In place of the journal and the other services of a process."""

    def __init__(self, page):
        self.counts = page.requests.row(0)
        self.journal = self.writes = self
        self.unrecorded = 0
        self.is_full = False
        self.records = []

    def record(self, made):
        self.records.append(made)

    def flush(self):
        pass

    def append(self, made):
        if self.is_full:
            self.unrecorded += 1
        else:
            self.records.append(made)
        return not self.is_full


@pytest.fixture
def full(page):
    made = Journal(page)
    made.is_full = True
    return made


def refused(second, code=INVALID_API_KEY):
    return RequestRecord(uuid7(), second * 1_000_000, "", "", REJECTED, 401, 0, error=code)


def test_what_a_full_journal_does_not_accept_stays_counted(full):
    strangers = Strangers(full, full.counts)
    for second in (100, 100, 101):
        for _ in range(RECORDED_ONE_BY_ONE):
            strangers.refused(refused(second))
    assert (strangers.waiting, full.unrecorded, len(full.records)) == (True, 0, 2 * RECORDED_ONE_BY_ONE)
    full.is_full = False
    full.unrecorded = 1  # of others, whose number is written first
    strangers.write()
    assert strangers.waiting
    full.unrecorded = 0
    strangers.write()
    last = full.records[-1]
    assert (last.count, last.status, last.completed_us) == (RECORDED_ONE_BY_ONE, 401, 101_000_000)
    assert not strangers.waiting
    strangers.write()
    assert full.records[-1] is last


def test_the_refusals_of_a_second_are_recorded_when_it_is_over(full):
    full.is_full = False
    strangers = Strangers(full, full.counts)
    now = int(time.time())
    for second in (now + 100, now - 100):
        for _ in range(RECORDED_ONE_BY_ONE + 3):
            strangers.refused(refused(second))
        count = len(full.records)
    strangers.write_if_due()
    assert (len(full.records), full.records[-1].count) == (count + 1, 3)
    assert full.records[-1].completed_us == (now - 100) * 1_000_000


def test_a_code_without_a_word_has_its_own_records(full):
    strangers = Strangers(full, full.counts)
    for _ in range(2 * RECORDED_ONE_BY_ONE):
        strangers.refused(refused(100, "of_a_later_release"))
    assert (len(full.records), strangers.waiting) == (2 * RECORDED_ONE_BY_ONE, False)


@pytest.fixture
def page(control):
    return control.page
