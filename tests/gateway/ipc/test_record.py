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


@given(st.builds(RequestRecord))
def test_any_record_survives_its_encoding(record):
    assert decode(encode(record)) == record


def test_an_older_record_with_fewer_fields_stays_readable():
    fields = msgspec.json.decode(encode(make_record(id="old", duration_us=9)))
    old = decode(msgspec.json.encode(fields[:8]))
    assert isinstance(old, RequestRecord)
    assert (old.id, old.duration_us, old.attempts, old.estimated) == ("old", 9, (), False)


def test_a_newer_record_with_more_fields_is_readable():
    fields = msgspec.json.decode(encode(make_record(id="new", budgets=1)))
    new = decode(msgspec.json.encode([*fields, "a field of tomorrow"]))
    assert isinstance(new, RequestRecord)
    assert (new.id, new.budgets) == ("new", 1)


def test_fields_at_the_end_are_left_out_if_a_record_lacks_all_of_them():
    names = RequestRecord.__struct_fields__
    rare = names[names.index("long_write_tokens") :]
    assert RequestRecord.__struct_defaults__[-len(rare) :] == (None,) * len(rare)  # so that nothing changes
    whole = 1 + len(names)  # with the tag
    assert len(msgspec.json.decode(encode(FULL))) == whole - len(rare)
    for name in rare:
        record = msgspec.structs.replace(FULL, **{name: 7 if name not in ("service_tier", "limit", "user_id") else "a"})
        assert len(msgspec.json.decode(encode(record))) == whole
        assert decode(encode(record)) == record


@pytest.mark.parametrize("payload", [b'["x",1]', b"[]", b"{}", b'["u"]', b"not json"])
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
