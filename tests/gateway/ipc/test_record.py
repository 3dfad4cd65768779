import os
import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ipc.record import AttemptRecord, RequestRecord, SegmentHead, Unrecorded, decode, encode, uuid7
from tests.gateway.samples import make_record

ATTEMPT = AttemptRecord("a", "failed", 500, 12, "it fell over")
FULL = make_record(
    attempts=(ATTEMPT, AttemptRecord("b", "ok", 200, 7)),
    first_token_us=5,
    input_tokens=1,
    output_tokens=2,
    estimated=True,
    streamed=True,
    api_key_id="key",
    client_ip="::1",
    error="ünïcode \n",
    request_body="{}",
    response_body="[]",
)


@pytest.mark.parametrize("entry", [make_record(), FULL, Unrecorded(3), SegmentHead("database")])
def test_an_entry_survives_its_encoding(entry):
    assert decode(encode(entry)) == entry


def test_a_record_of_an_earlier_release_stands_for_one_request():
    fields = msgspec.msgpack.decode(encode(FULL))
    without_count = fields[: 1 + RequestRecord.__struct_fields__.index("count")]  # the first one is the tag
    assert decode(msgspec.msgpack.encode(without_count)) == FULL
    assert FULL.count == 1


@given(st.builds(RequestRecord))
def test_any_record_survives_its_encoding(record):
    assert decode(encode(record)) == record


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_a_record_with_a_number_of_more_than_64_bits_survives(number):
    record = make_record(input_tokens=number)
    assert decode(encode(record)) == record


FORMS = {"MessagePack": msgspec.msgpack.encode, "JSON": msgspec.json.encode}
in_both_forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@in_both_forms
@pytest.mark.parametrize("entry", [make_record(), FULL, Unrecorded(3), SegmentHead("database")])
def test_an_entry_of_any_release_is_decoded(entry, form):
    assert decode(form(entry)) == entry


@in_both_forms
def test_an_older_record_with_fewer_fields_stays_readable(form):
    fields = msgspec.msgpack.decode(encode(make_record(id="old", duration_us=9)))
    old = decode(form(fields[:8]))
    assert isinstance(old, RequestRecord)
    assert (old.id, old.duration_us, old.attempts, old.estimated) == ("old", 9, (), False)


@in_both_forms
def test_a_newer_record_with_more_fields_is_readable(form):
    fields = msgspec.msgpack.decode(encode(make_record(id="new", budgets=1)))
    new = decode(form([*fields, "a field of tomorrow"]))
    assert isinstance(new, RequestRecord)
    assert (new.id, new.budgets) == ("new", 1)


@pytest.mark.parametrize("payload", [b'["x",1]', b"[]", b"{}", b'["u"]', b"not json", b"", b"\x90", b"\x91\xa1u"])
def test_an_invalid_entry_is_refused(payload):
    with pytest.raises(msgspec.DecodeError):
        decode(payload)


def test_the_last_attempt_made_the_response():
    assert FULL.endpoint_id == "b"
    assert make_record().endpoint_id is None


def test_a_record_cannot_be_changed():
    with pytest.raises(AttributeError):
        FULL.status = 500  # type: ignore[misc]


def test_uuid7_is_a_valid_uuid():
    text = uuid7()
    made = uuid.UUID(text)
    assert (made.version, made.variant, str(made)) == (7, uuid.RFC_4122, text)


@given(st.integers(0, 2**48 - 1))
def test_uuid7_begins_with_the_millisecond(millisecond):
    made = uuid7(millisecond * 1_000_000 + 999_999)
    assert uuid.UUID(made).int >> 80 == millisecond
    assert len(made) == 36


def test_later_ids_sort_after_earlier_ones():
    ids = [uuid7(millisecond * 1_000_000) for millisecond in (1, 2, 255, 256, 65536, 2**40)]
    assert ids == sorted(ids)


def test_ids_of_one_millisecond_differ():
    assert len({uuid7(0) for _ in range(10_000)}) == 10_000


def test_ids_of_one_millisecond_sort_in_their_order():
    uuid7(1_000_000)
    ids = [uuid7(0) for _ in range(4096)]
    assert ids == sorted(ids)


def test_ids_differ_after_the_clock_goes_back():
    assert len({uuid7(number % 2 * 1_000_000) for number in range(1000)}) == 1000


def test_a_forked_process_makes_other_ids():
    uuid7(0)
    reads, writes = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writes, uuid7(0).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    made = os.read(reads, 36).decode()
    os.close(reads)
    os.close(writes)
    assert len(made) == 36
    assert made[-12:] != uuid7(0)[-12:]
