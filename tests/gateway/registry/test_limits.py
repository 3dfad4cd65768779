"""Limits and budgets in the registry store."""

import sqlite3
from contextlib import closing

import pytest

from gateway.registry import reader as reader_module
from gateway.registry.kinds import ENDPOINTS, LIMITS
from gateway.registry.limits import EVERYONE_LEVEL, KEY_LEVEL, USER_LEVEL, Budget, LimitFacts
from gateway.registry.reader import BoundedCache
from gateway.registry.schema import limit_key, limited_subject
from gateway.registry.store import RegistryStore
from gateway.registry.writer import Changes, RegistryWriter
from tests.gateway.registry.conftest import DATABASE, file_of
from tests.gateway.samples import make_endpoint

KEY, USER, EVERYONE = (KEY_LEVEL, "1"), (USER_LEVEL, "1"), (EVERYONE_LEVEL, "")
BUDGET = Budget("b-1", "money", "month", 5_000_000_000, hard=True, refuses_unpriced=True, instead="small")
FACTS = LimitFacts(concurrency=4, tokens=1000, waiting=("concurrency", "tokens"), budgets=(BUDGET,))


def test_limits_are_found_by_level_and_subject(writer, known):
    writer.apply(Changes(limits={KEY: FACTS, EVERYONE: LimitFacts(requests=60)}))
    known.reader.follow()
    assert known.reader.limits_of(*KEY) == FACTS
    assert known.reader.limits_of(*USER) is None  # the id alone is not the subject
    assert known.reader.limits_of(*EVERYONE) == LimitFacts(requests=60)


def test_by_default_a_request_waits_for_concurrency_alone():
    assert LimitFacts().waiting == ("concurrency",)


def test_a_change_reaches_the_cache_and_is_named(writer, known):
    writer.apply(Changes(limits={KEY: FACTS, USER: FACTS}))
    known.reader.follow()
    kept = [known.reader.limits_of(*subject) for subject in (KEY, USER)]
    writer.apply(Changes(limits={KEY: LimitFacts(requests=1)}))
    known.reader.follow()
    assert known.updates[-1].changed == {LIMITS: [limit_key(*KEY)]}
    assert known.reader.limits_of(*KEY) == LimitFacts(requests=1)
    assert known.reader.limits_of(*USER) is kept[1]


def test_equal_limits_are_no_change(writer):
    version = writer.apply(Changes(limits={KEY: FACTS}))
    assert writer.apply(Changes(limits={KEY: FACTS})) == version


def test_deleted_limits_are_gone(writer, known):
    writer.apply(Changes(limits={KEY: FACTS}))
    known.reader.follow()
    known.reader.limits_of(*KEY)
    writer.apply(Changes(limits={KEY: None}))
    known.reader.follow()
    assert known.reader.limits_of(*KEY) is None


@pytest.fixture
def lookups(known, monkeypatch):
    """Count what is read of the store."""
    counted = []
    look_up = known.reader._look_up

    def count(read):
        counted.append(read)
        return look_up(read)

    monkeypatch.setattr(known.reader, "_look_up", count)
    return counted


def test_that_nobody_has_limits_is_known_without_a_lookup(writer, known, lookups):
    known.reader.follow()
    assert not known.reader.limits_version
    writer.apply(Changes(limits={KEY: FACTS, USER: FACTS}))
    known.reader.follow()
    assert known.reader.limits_version
    for subject, left in ((KEY, True), (USER, False)):
        writer.apply(Changes(limits={subject: None}))
        known.reader.follow()
        assert bool(known.reader.limits_version) is left
    assert known.reader.limits_of(*KEY) is None
    assert not lookups


def test_a_subject_without_limits_is_looked_up_once(writer, known, lookups):
    writer.apply(Changes(limits={KEY: FACTS}))
    known.reader.follow()
    assert [known.reader.limits_of(*USER) for _ in range(3)] == [None, None, None]
    assert len(lookups) == 1


def test_the_cache_is_bounded(writer, known):
    known.reader._caches[LIMITS] = BoundedCache(3)
    subjects = [(KEY_LEVEL, str(number)) for number in range(20)]
    writer.apply(Changes(limits={subject: LimitFacts(requests=1 + int(subject[1])) for subject in subjects}))
    known.reader.follow()
    assert [known.reader.limits_of(*subject).requests for subject in subjects] == [*range(1, 21)]
    assert len(known.reader._caches[LIMITS]) <= 6


def test_a_reader_that_reads_everything_reads_limits_again(writer, apply, known, monkeypatch):
    writer.apply(Changes(limits={KEY: FACTS}))
    known.reader.follow()
    known.reader.limits_of(*KEY)
    monkeypatch.setattr(reader_module, "MAX_STEPS", 1)
    writer.apply(Changes(limits={KEY: None, USER: FACTS}))
    apply(make_endpoint("a"))
    known.reader.follow()
    assert known.updates[-1].complete
    assert [known.reader.limits_of(*subject) for subject in (KEY, USER)] == [None, FACTS]


def test_a_build_has_the_limits(writer, known):
    writer.rebuild(DATABASE, {"limits": [(KEY, FACTS), (EVERYONE, FACTS)]})
    known.reader.follow()
    assert [known.reader.limits_of(*subject) for subject in (KEY, USER, EVERYONE)] == [FACTS, None, FACTS]
    assert writer.row(LIMITS, limit_key(*KEY)) == FACTS
    assert writer.row(LIMITS, limit_key(*USER)) is None
    keys = writer.row_keys(LIMITS, b"", 10)
    assert writer.has_any(LIMITS)
    assert [limited_subject(key) for key in keys] == [EVERYONE, KEY]
    assert [writer.row_keys(LIMITS, b"", 1), writer.row_keys(LIMITS, keys[0], 10)] == [keys[:1], keys[1:]]
    writer.rebuild(DATABASE, {})
    known.reader.follow()
    assert not known.reader.limits_version


def test_without_a_store_there_are_no_limits(root, page):
    made = RegistryWriter(root, page)
    assert (made.row(LIMITS, b"k1"), made.row_keys(LIMITS, b"", 10), made.has_any(LIMITS)) == (None, [], False)


def test_the_store_of_a_release_without_limits_is_read(writer, apply, known, root):
    apply(make_endpoint("a"))
    with closing(sqlite3.connect(file_of(root))) as database:
        database.execute("DROP TABLE limits")
    known.reader.follow()
    assert known.names() == ["a"]
    assert known.reader.limits_of(*KEY) is None


def test_the_store_of_a_release_without_limits_gets_the_table(writer, apply, page, root):
    apply(make_endpoint("a"))
    writer.close()
    with closing(sqlite3.connect(file_of(root))) as database:
        database.execute("DROP TABLE limits")
    store = RegistryStore(file_of(root).parent, writable=True)
    assert store.is_empty(LIMITS)
    assert not store.is_empty(ENDPOINTS)
    store.close()


def test_rows_of_limits_survive_a_round_trip():
    assert LIMITS.unpack(LIMITS.pack(FACTS)) == FACTS


def test_limits_that_could_not_be_written_are_merged():
    waiting = Changes(limits={KEY: FACTS, USER: FACTS})
    waiting.merge(Changes(limits={KEY: None}))
    assert waiting.of(LIMITS) == {KEY: None, USER: FACTS}
    assert waiting


@pytest.mark.parametrize("subject", [KEY, USER, EVERYONE, (KEY_LEVEL, "é" * 1000), (KEY_LEVEL, "\ud800")])
def test_a_key_of_limits_names_its_subject(subject):
    assert limited_subject(limit_key(*subject)) == subject
