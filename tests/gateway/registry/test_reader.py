import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from gateway.registry import folders
from gateway.registry import reader as reader_module
from gateway.registry.reader import BoundedCache, StoreUnreadable
from gateway.registry.schema import (
    NOT_READ,
    ApiKey,
    EngineState,
    Model,
    ModelName,
    PublishedKey,
    Step,
    Target,
    model_name_key,
    ref,
)
from gateway.registry.writer import Changes, contents_of
from tests.gateway.registry.conftest import DATABASE, Known, digest, file_of, make_key
from tests.gateway.samples import make_endpoint


def test_before_the_first_publication_nothing_is_known(known):
    assert not known.reader.follow()
    assert known.reader.version == 0
    with pytest.raises(StoreUnreadable):
        known.reader.key(digest("a"))


def test_everything_is_read_once(writer, apply, known):
    apply(make_endpoint("a"), make_endpoint("b"))
    assert [known.reader.follow(), known.reader.follow()] == [True, False]
    assert known.names() == ["a", "b"]
    assert known.reader.database_id == DATABASE
    assert [update.complete for update in known.updates] == [True]


def test_only_what_changed_is_read_again(apply, known):
    apply(make_endpoint("a", slot=1), make_endpoint("b", slot=2))
    known.reader.follow()
    apply(make_endpoint("b", slot=2, status="offline"))
    known.reader.follow()
    update = known.updates[-1]
    assert [facts.status for facts in update.endpoints.values()] == ["offline"]
    assert (update.models, update.keys, update.complete) == (False, {}, False)


def test_a_deleted_endpoint_is_forgotten_with_its_models(apply, known):
    apply(make_endpoint("a", "m"), make_endpoint("b", "m"))
    known.reader.follow()
    apply(deleted=("a",))
    known.reader.follow()
    assert known.names() == ["b"]
    assert known.updates[-1].models
    assert [key for key, _ in known.reader.models_named("m")] == [ref("b")]


def test_changed_models_are_reported(apply, known):
    apply(make_endpoint("a", "m", slot=1))
    known.reader.follow()
    apply(make_endpoint("a", "m", "n", slot=1))
    known.reader.follow()
    assert (known.updates[-1].endpoints, known.updates[-1].models) == ({}, True)
    assert sorted(model.id for model in known.reader.models_of(ref("a"))) == ["m", "n"]


def test_a_lookup_reads_newer_changes_first(apply, known):
    apply(make_endpoint("a", slot=1))
    known.reader.follow()
    version = apply(make_key("k"), make_endpoint("a", slot=1, status="offline"))
    assert known.reader.key(digest("k")) is not None
    assert known.reader.version == version
    assert known.facts("a").status == "offline"


# Names


def test_exact_names_have_priority_over_folded_ones(apply, known):
    apply(make_endpoint("a", Model("x", None, ("Tiny",))), make_endpoint("b", Model("y", None, ("tiny",))))
    assert [(key, model.id) for key, model in known.reader.models_named("tiny")] == [(ref("b"), "y")]
    assert sorted(model.id for _, model in known.reader.models_named("TINY")) == ["x", "y"]
    assert known.reader.models_named("none") == []


def test_a_name_may_be_long(apply, known):
    name = "é" * 10_000
    apply(make_endpoint("a", name))
    assert [model.id for _, model in known.reader.models_named(name)] == [name]


# Keys


def test_a_key_is_found_by_its_digest(apply, known):
    apply(make_key("k", "openai.inference", expires_at=5.0))
    assert known.reader.key(digest("k")) == ApiKey("k", digest("k"), ("openai.inference",), 5.0, owner_id="owner")
    assert known.reader.key_facts(digest("k")).owner_id == "owner"
    assert known.reader.key(digest("other")) is None


def test_a_cached_key_is_read_again_after_its_change_alone(apply, known, monkeypatch):
    apply(make_key("k"), make_key("l"))
    first, other = known.reader.key(digest("k")), known.reader.key(digest("l"))
    apply(make_key("k", "openai.inference"))
    known.reader.follow()
    assert known.updates[-1].keys == {"k": ApiKey("k", digest("k"), ("openai.inference",), owner_id="owner")}
    assert known.reader.key(digest("k")) != first
    assert known.reader.key(digest("l")) is other


def test_a_revoked_key_is_unknown(apply, known):
    apply(make_key("k"))
    known.reader.key(digest("k"))
    apply(revoked=("k",))
    known.reader.follow()
    assert known.updates[-1].keys == {"k": None}
    assert known.reader.key(digest("k")) is None


def test_a_key_with_a_new_hash_is_no_revoked_one(apply, known):
    """The id stays: running requests of this key continue."""
    apply(make_key("k"))
    known.reader.follow()
    renewed = make_key("k")
    renewed = type(renewed)("k", digest("new").hex(), ())
    apply(renewed, revoked=("k",))
    known.reader.follow()
    assert known.updates[-1].keys["k"].digest == digest("new")
    assert known.reader.key(digest("k")) is None


def test_unknown_keys_are_not_cached(apply, known):
    known.reader.follow()
    for number in range(100):
        known.reader.key(digest(f"stranger {number}"))
    assert not len(known.reader._keys)


def test_one_key_alone(apply, known):
    assert not known.reader.has_one_key()
    apply(make_key("k"))
    assert known.reader.has_one_key()
    apply(make_key("l"))
    assert not known.reader.has_one_key()


def test_a_full_cache_drops_its_older_half():
    cache = BoundedCache[int, str](2)
    for number in range(5):
        cache.put(number, str(number))
    assert [cache.get(number) for number in range(5)] == [None, None, "2", "3", "4"]
    cache.drop(3)
    assert cache.get(3) is None
    cache.clear()
    assert cache.get(4) is None


# Far behind


def test_a_reader_that_is_too_far_behind_reads_everything(apply, known, monkeypatch):
    apply(make_endpoint("a", slot=1), make_key("k"))
    known.reader.key(digest("k"))
    monkeypatch.setattr(reader_module, "MAX_STEPS", 3)
    for number in range(4):
        apply(make_endpoint("a", slot=1, timeout_secs=10.0 + number))
    known.reader.follow()
    assert (known.updates[-1].complete, known.updates[-1].keys) == (True, None)
    assert known.facts("a").timeout_secs == 13.0


def test_a_log_that_does_not_reach_back_is_noticed(writer, apply, known, root):
    apply(make_endpoint("a", slot=1))
    known.reader.follow()
    version = apply(make_endpoint("b", slot=2))
    writer._store.delete_up_to(reader_module_changes(), version.to_bytes(8, "big"))
    apply(make_endpoint("c", slot=3))
    known.reader.follow()
    assert known.updates[-1].complete
    assert known.names() == ["a", "b", "c"]


def reader_module_changes():
    from gateway.registry.kinds import CHANGES

    return CHANGES


# Generations and damage


def test_a_new_generation_is_opened(writer, apply, known, root):
    apply(make_endpoint("a"))
    known.reader.follow()
    writer.rebuild("database-2", contents_of([make_endpoint("b", "m")], []))
    assert [model.id for _, model in known.reader.models_named("m")] == ["m"]
    assert (known.names(), known.reader.database_id) == (["b"], "database-2")
    assert folders.others(root, folders.current(root)) == []


def test_a_file_that_was_replaced_beneath_its_reader_is_noticed(writer, apply, known, root, tmp_path):
    """The reader would see the old file for ever, without an error."""
    apply(make_endpoint("a", slot=1))
    known.reader.follow()
    copy = sqlite3.connect(tmp_path / "copy")
    source = sqlite3.connect(file_of(root))
    source.backup(copy)
    source.close()
    copy.close()
    old = file_of(root)
    writer.close()
    for path in old.parent.iterdir():
        path.unlink()
    shutil.copy(tmp_path / "copy", old)
    writer._open_current()
    apply(make_endpoint("b", slot=2))
    assert known.reader.follow()
    assert known.names() == ["a", "b"]


@pytest.mark.parametrize("damage", [b"", b"nonsense" * 1000])
def test_damage_is_reported_and_memory_stays(writer, apply, known, root, page, damage):
    apply(make_endpoint("a"), make_key("k"))
    key = known.reader.key(digest("k"))
    with file_of(root).open("r+b") as file:
        file.truncate(len(damage))
        file.write(damage)
    page.version += 1
    assert not known.reader.follow()
    assert page.damaged_generation == page.registry_generation
    assert known.names() == ["a"]
    assert known.reader.key(digest("k")) is key
    with pytest.raises(StoreUnreadable):
        known.reader.key(digest("other"))


def test_a_process_that_starts_with_a_damaged_store_knows_nothing(writer, root, page):
    file_of(root).write_bytes(b"nonsense")
    started = Known(root, page)
    assert not started.reader.follow()
    assert (started.reader.version, page.damaged_generation) == (0, page.registry_generation)


def test_a_store_without_a_current_generation_is_damaged(writer, root, page):
    (root / folders.CURRENT).unlink()
    started = Known(root, page)
    started.reader.follow()
    assert page.damaged_generation == page.registry_generation


def test_an_older_generation_that_is_gone_is_no_damage_of_the_new_one(writer, root, page, monkeypatch):
    """A reader may look at `current` just before the writer replaces it."""
    monkeypatch.setattr(folders, "current", lambda root: 1)
    writer.rebuild(DATABASE, {})
    started = Known(root, page)
    assert not started.reader.follow()
    assert page.damaged_generation == 0


def test_a_warning_is_logged_once(writer, known, root, page, caplog, monkeypatch):
    monkeypatch.setattr(reader_module, "RETRY_SECONDS", 0.0)
    known.reader.follow()
    file_of(root).write_bytes(b"nonsense")
    page.version += 1
    for _ in range(3):
        known.reader.follow()
    assert len(caplog.records) == 1


def test_a_locked_store_is_no_damage(writer, apply, known, root, page):
    known.reader.follow()
    apply(make_endpoint("a"))
    lock = sqlite3.connect(file_of(root), isolation_level=None)
    lock.execute("PRAGMA locking_mode=EXCLUSIVE")
    known.reader.follow()
    lock.close()
    assert page.damaged_generation == 0


def test_all_files_belong_to_the_user_alone(writer, apply, root):
    apply(make_endpoint("a"))
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"current", "data.sqlite3", "data.sqlite3-wal", "data.sqlite3-shm"}
    assert {os.stat(path).st_mode & 0o077 for path in (root, *root.rglob("*"))} == {0}


# States of engines


def test_states_of_engines_are_read_again_when_they_change(writer, apply, known):
    apply(make_endpoint("a"), make_endpoint("b"))
    known.reader.follow()
    assert known.reader.engine(ref("a")) == NOT_READ
    for state in (EngineState(1.0, ("m",)), EngineState(2.0, ("m", "n"), ("x",), 2, 3), None):
        writer.apply(Changes(engines={"a": state}))
        known.reader.follow()
        assert known.updates[-1].learned
        assert known.reader.engine(ref("a")) == (state or NOT_READ)
    assert known.reader.engine(ref("b")) == NOT_READ


def test_a_deleted_endpoint_has_no_engine(writer, apply, known):
    apply(make_endpoint("a"))
    writer.apply(Changes(engines={"a": EngineState(1.0, ("m",))}))
    apply(deleted=("a",))
    writer.apply(Changes(endpoints={"a": None}, engines={"a": EngineState(1.0, ("m",))}))
    known.reader.follow()
    assert known.reader.engine(ref("a")) == NOT_READ


# Model names


def make_name(name_id: str, name: str, model: str = "m") -> ModelName:
    return ModelName(id=name_id, name=name, steps=(Step((Target(model),)),))


def test_model_names_are_read_when_they_change(writer, known):
    fast, pattern = make_name("1", "fast"), make_name("2", "claude-*")
    writer.apply(Changes(model_names={"1": fast, "2": pattern}))
    known.reader.follow()
    assert known.updates[-1].model_names == {model_name_key("fast"): fast, model_name_key("claude-*"): pattern}
    writer.apply(Changes(model_names={"1": None}))
    known.reader.follow()
    assert known.updates[-1].model_names == {model_name_key("fast"): None}
    assert not known.updates[-1].complete


def test_the_store_of_a_release_without_model_names_is_read(writer, apply, known, root):
    apply(make_endpoint("a"))
    with closing(sqlite3.connect(file_of(root))) as database:
        database.execute("DROP TABLE model_names")
    known.reader.follow()
    assert (known.names(), known.updates[-1].model_names) == (["a"], {})


def test_a_key_says_whether_it_may_use_external_endpoints(apply, known):
    apply(PublishedKey("a", digest("a").hex(), (), external=True), make_key("b"))
    keys = [known.reader.key(digest(name)) for name in "ab"]
    assert [key.external for key in keys] == [True, False]
