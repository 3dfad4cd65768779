"""Each kind of published fact reaches every place that gateway.registry.kinds declares for it."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.ipc.live_page import LivePage
from gateway.registry import schema
from gateway.registry.kinds import CHANGES, EVERYTHING, KEYS, KIND_NAMED, KINDS, MODELS, TABLES, AnyKind, version_key
from gateway.registry.limits import KEY_LEVEL, LimitFacts
from gateway.registry.prices import PriceFacts
from gateway.registry.schema import EngineState, Lengths, Model, ModelName, Speeds, Step, Target, price_key, ref
from gateway.registry.store import RegistryStore
from gateway.registry.writer import Changes, RegistryWriter
from tests.gateway.registry.conftest import DATABASE, Known, digest, file_of, make_key
from tests.gateway.samples import make_endpoint

NAMED = ModelName(id="1", name="fast", steps=(Step((Target("m"),)),))
# Of each kind: the id of an object, two versions of it, and the key of its row.
OBJECTS: Mapping[str, tuple[Any, Any, Any, bytes]] = {
    "endpoints": ("a", make_endpoint("a").facts(), make_endpoint("a", status="offline").facts(), ref("a")),
    "models": ("a", (Model("m"),), (Model("m", "org/m"),), ref("a") + ref("m")),
    "keys": (digest("k").hex(), make_key("k"), make_key("k", "read"), digest("k")),
    "speeds": (("a", "m", "chat"), Speeds(1.0, 0, 0, 0), Speeds(2.0, 0, 0, 0), schema.speed_key("a", "m", "chat")),
    "lengths": (("m", None), Lengths(1.0), Lengths(2.0), ref("m")),
    "engines": ("a", EngineState(1.0), EngineState(2.0), ref("a")),
    "model_names": ("1", NAMED, ModelName(id="1", name="fast", steps=(), created=1.0), schema.model_name_key("fast")),
    "limits": ((KEY_LEVEL, "1"), LimitFacts(1), LimitFacts(2), schema.limit_key(KEY_LEVEL, "1")),
    "prices": (price_key("m"), PriceFacts(reporting="USD"), PriceFacts(reporting="EUR"), price_key("m")),
}
of_each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def expected(kind: AnyKind, fact: Any) -> Any:
    """Return the row of an object."""
    return fact[0] if kind is MODELS else fact.facts() if kind is KEYS else fact


def rows(root: Path, kind: AnyKind) -> dict[bytes, Any]:
    store = RegistryStore(file_of(root).parent)
    with closing(store), store.reading():
        return dict(store.rows(kind))


def test_every_kind_is_tried_here() -> None:
    assert OBJECTS.keys() == {kind.name for kind in KINDS} == KIND_NAMED.keys()


def test_names_and_letters_are_unique() -> None:
    assert len({table.name for table in TABLES}) == len(TABLES)
    letters = {kind.letter for kind in KINDS} | {EVERYTHING}
    assert len(letters) == len(KINDS) + 1
    assert {len(letter) for letter in letters} == {1}


def test_the_tables_and_letters_of_earlier_releases_are_as_they_were() -> None:
    assert {kind.name: kind.letter.decode() for kind in KINDS} == {
        **{"endpoints": "e", "models": "m", "keys": "k", "speeds": "s", "lengths": "l", "engines": "g"},
        **{"model_names": "n", "limits": "i", "prices": "p"},
    }
    assert {kind.name for kind in KINDS if kind.is_original} == {"endpoints", "models", "keys"}


@of_each_kind
def test_a_change_reaches_store_log_and_reader(writer: RegistryWriter, known: Known, root: Path, kind: AnyKind) -> None:
    object_id, first, second, key = OBJECTS[kind.name]
    known.reader.follow()
    for fact in (first, second):
        assert not kind.cached or kind is KEYS or known.reader.row(kind, key) in (kind.missing, first)
        version = writer.apply(Changes(**{kind.name: {object_id: fact}}))
        assert writer.apply(Changes(**{kind.name: {object_id: fact}})) == version  # an equal object is no change
        assert rows(root, kind) == {key: expected(kind, fact)}
        known.reader.follow()
        update = known.updates[-1]
        assert not update.complete
        if kind is KEYS:
            assert list(update.keys or ()) == ["k"]
        else:
            named = ref("a") if kind is MODELS else key
            assert update.changed == {kind: [named]}
            assert update.learned is kind.is_learned
        if kind.is_in_memory:
            assert update.rows[kind] == {key: fact}
        if kind.is_optional:
            assert known.reader.versions[kind] == version
        if kind.missing is not None:
            assert known.reader.row(kind, key) == fact


@of_each_kind
def test_a_deleted_object_is_gone(writer: RegistryWriter, known: Known, root: Path, kind: AnyKind) -> None:
    object_id, fact, _, key = OBJECTS[kind.name]
    writer.apply(Changes(**{kind.name: {object_id: fact}}))
    known.reader.follow()
    if kind.missing is not None:
        assert known.reader.row(kind, key) == fact
    gone: Mapping[Any, Any] = {} if kind.is_replaced_whole else {object_id: () if kind is MODELS else None}
    writer.apply(Changes(**{kind.name: gone}))
    known.reader.follow()
    assert rows(root, kind) == {}
    if kind.missing is not None:
        assert known.reader.row(kind, key) == kind.missing
    if kind.is_in_memory:
        assert known.updates[-1].rows[kind] == {key: None}
    if kind.is_optional:
        assert known.reader.versions[kind] == 0


@of_each_kind
def test_what_belongs_to_an_endpoint_goes_with_it(writer: RegistryWriter, root: Path, kind: AnyKind) -> None:
    object_id, fact, _, _ = OBJECTS[kind.name]
    writer.apply(Changes(**{"endpoints": {"a": OBJECTS["endpoints"][1]}} | {kind.name: {object_id: fact}}))
    writer.apply(Changes(endpoints={"a": None}))
    assert bool(rows(root, kind)) is (kind.endpoint_of is None and kind.name != "endpoints")
    if kind.endpoint_of is not None:
        writer.apply(Changes(**{"endpoints": {"a": None}, kind.name: {object_id: fact}}))
        assert rows(root, kind) == {}


@of_each_kind
def test_a_build_has_what_a_change_writes(writer: RegistryWriter, known: Known, root: Path, kind: AnyKind) -> None:
    object_id, fact, _, _ = OBJECTS[kind.name]
    writer.apply(Changes(**{kind.name: {object_id: fact}}))
    by_change = rows(root, kind)
    writer.rebuild(DATABASE, {kind.name: [(object_id, fact)]})
    assert rows(root, kind) == by_change != {}
    known.reader.follow()
    assert known.updates[-1].complete
    if kind.is_in_memory:
        assert known.updates[-1].rows[kind] == by_change
    if kind.is_optional:
        assert known.reader.versions[kind] == known.reader.version


@of_each_kind
def test_a_reader_that_reads_everything_forgets_its_cache(writer: RegistryWriter, known: Known, kind: AnyKind) -> None:
    object_id, first, second, key = OBJECTS[kind.name]
    writer.apply(Changes(**{kind.name: {object_id: first}}))
    known.reader.follow()
    if kind.missing is None:
        return
    assert known.reader.row(kind, key) == first
    writer.rebuild(DATABASE, {kind.name: [(object_id, second)]})
    known.reader.follow()
    assert known.reader.row(kind, key) == second


@of_each_kind
def test_the_store_of_a_release_without_the_kind(
    writer: RegistryWriter, root: Path, page: LivePage, known: Known, kind: AnyKind
) -> None:
    if kind.is_original:
        return
    writer.close()
    with closing(sqlite3.connect(file_of(root))) as database:
        database.execute(f"DROP TABLE {kind.name}")
    assert known.reader.follow()
    with closing(RegistryWriter(root, page)) as started:
        assert started.is_usable
        assert started.rows(kind) == []


def test_a_change_of_a_kind_that_this_release_does_not_know_is_skipped(writer: RegistryWriter, known: Known) -> None:
    known.reader.follow()
    before = writer.state()
    assert before is not None
    version = writer.apply(Changes(endpoints={"a": OBJECTS["endpoints"][1]}))
    store = writer._store
    assert store is not None
    steps = store.changes(before.version, version)
    assert steps is not None
    with store.writing():
        store.put(CHANGES, version_key(version), CHANGES.pack([*steps[0], b"~key of a later release"]))
    known.reader.follow()
    assert known.names() == ["a"]


@of_each_kind
def test_newer_changes_replace_those_that_wait(kind: AnyKind) -> None:
    object_id, first, second, _ = OBJECTS[kind.name]
    waiting = Changes(**{kind.name: {object_id: first}})
    assert waiting
    waiting.merge(Changes())
    assert waiting.of(kind) == {object_id: first}
    waiting.merge(Changes(**{kind.name: {object_id: second}}))
    assert waiting.of(kind) == {object_id: second}
    waiting.merge(Changes(**{kind.name: {}}))
    assert waiting.of(kind) == ({} if kind.is_replaced_whole else {object_id: second})


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(KeyError):
        Changes(greetings={})
