import sqlite3

import msgspec
import pytest

from gateway.registry import folders, schema
from gateway.registry import writer as writer_module
from gateway.registry.kinds import CHANGES, ENDPOINTS, META, MODEL_NAMES, MODELS, STATE
from gateway.registry.schema import Damaged, Model, ModelName, PublishedKey, Step, Target, model_name_key, ref
from gateway.registry.store import is_damage
from gateway.registry.writer import Changes, RegistryWriter, contents_of
from tests.gateway.registry.conftest import DATABASE, Known, digest, file_of, make_key
from tests.gateway.samples import make_endpoint


def test_an_equal_row_is_not_written(writer, apply, page):
    first = apply(make_endpoint("a", "m", slot=1), make_key("k"))
    assert apply(make_endpoint("a", "m", slot=1), make_key("k")) == first == page.version


def test_each_change_has_the_next_version(writer, apply, page):
    before = page.version
    assert [apply(make_endpoint("a", slot=slot)) for slot in (1, 2)] == [before + 1, before + 2]
    assert writer.state().version == page.version == before + 2


def test_only_models_that_differ_are_written(writer, apply, root):
    apply(make_endpoint("a", "m", "n", slot=1))
    total = count_changes(writer)
    apply(make_endpoint("a", "m", "o", slot=1))
    assert count_changes(writer) - total == 2 + 2 + 1 + 1  # n and o as models and as names; the log; the state
    assert sorted(model.id for model in writer.rows(MODELS, ref("a"))) == ["m", "o"]


def count_changes(writer):
    return writer._store._database.total_changes


def test_names_of_removed_models_are_removed(writer, apply, known):
    both = Model("a", aliases=("both",)), Model("b", aliases=("both",))
    apply(make_endpoint("e", *both, slot=1))
    assert [model.id for _, model in known.reader.models_named("BOTH")] == ["a"]
    apply(make_endpoint("e", both[1], slot=1))
    known.reader.follow()
    assert [model.id for _, model in known.reader.models_named("BOTH")] == ["b"]
    apply(make_endpoint("e", slot=1))
    assert known.reader.models_named("BOTH") == []


def test_models_of_a_deleted_endpoint_are_not_written(writer):
    changes = Changes(endpoints={"a": None}, models={"a": (Model("m"),)})
    writer.apply(changes)
    assert writer.rows(MODELS, ref("a")) == []


def test_a_malformed_hash_is_left_out(writer, apply, known):
    apply(PublishedKey("bad", "no hash", ()), PublishedKey("short", "00", ()), make_key("good"))
    assert known.reader.has_one_key()


def test_the_log_keeps_a_bounded_number_of_versions(writer, apply, monkeypatch):
    monkeypatch.setattr(writer_module, "KEPT_CHANGES", 3)
    for slot in range(6):
        apply(make_endpoint("a", slot=slot))
    assert len(writer._store.raw_rows(CHANGES)) == 3


def test_a_large_change_names_no_rows(writer, apply, known, monkeypatch):
    known.reader.follow()
    monkeypatch.setattr(writer_module, "MAX_NAMED", 2)
    apply(*(make_endpoint(name, slot=slot) for slot, name in enumerate("abc")))
    known.reader.follow()
    assert (known.updates[-1].complete, known.names()) == (True, ["a", "b", "c"])


# The database's change log


def test_a_token_alone_is_no_new_version(writer, page):
    before = page.version
    assert writer.apply(Changes(), source="one") == before
    writer.apply(Changes(), source="two")
    state = writer.state()
    assert (state.source, state.previous_source, state.version) == ("two", "one", before)


def test_the_token_comes_with_its_rows(writer, apply):
    writer.apply(Changes(), source="one")
    changes = Changes(endpoints={"a": make_endpoint("a").facts()})
    writer.apply(changes, source="two")
    apply(make_endpoint("b"))
    assert (writer.state().source, writer.state().previous_source) == ("two", "one")


# Failures


def test_without_a_store_nothing_can_be_applied(root, page):
    made = RegistryWriter(root, page)
    assert (made.is_usable, made.state(), made.rows(ENDPOINTS), made.rows(MODELS)) == (False, None, [], [])
    with pytest.raises(Damaged):
        made.apply(Changes(endpoints={"a": None}))


def test_a_failed_change_leaves_everything_as_it_was(writer, apply, page, monkeypatch):
    version = apply(make_endpoint("a", slot=1))

    def fail(store, changes):
        store.delete(ENDPOINTS, ref("a"))
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(writer_module, "_written", fail)
    with pytest.raises(sqlite3.OperationalError):
        apply(make_endpoint("b"))
    monkeypatch.undo()
    assert [facts.id for facts in writer.rows(ENDPOINTS)] == ["a"]
    assert writer.state().version == page.version == version


def test_a_failed_rebuild_keeps_the_old_generation(writer, apply, root, page):
    apply(make_endpoint("a"))

    def keys():
        yield make_key("k")
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(sqlite3.OperationalError):
        writer.rebuild(DATABASE, contents_of((), keys()))
    assert folders.others(root, folders.current(root)) == []
    apply(make_endpoint("b"))
    assert sorted(facts.id for facts in writer.rows(ENDPOINTS)) == ["a", "b"]


def test_versions_never_go_back(writer, apply, root, page, known):
    apply(make_endpoint("a"))
    row = page.claim_row()
    row.set_applied(page.version + 5)  # it followed a commit whose writer was killed before it published the version
    writer.rebuild(DATABASE, {})
    assert page.version == writer.state().version > row_version(page) - 5
    assert not page.behind(page.newest_applied())
    row.release()


def row_version(page):
    return page.newest_applied()


def test_a_version_that_was_never_published_is_published_at_the_next_start(writer, apply, root, page):
    version = apply(make_endpoint("a"))
    writer.close()
    page.version = version - 1  # killed after the commit
    started = RegistryWriter(root, page)
    started.publish()
    assert page.version == version
    started.close()


def test_a_new_live_page_gets_generation_and_version(writer, apply, root, tmp_path):
    version = apply(make_endpoint("a"))
    writer.close()
    page = type(writer._page)(tmp_path / "another-page")
    started = RegistryWriter(root, page)
    started.publish()
    assert (page.version, page.registry_generation) == (version, folders.current(root))
    started.close()


def test_a_damaged_generation_is_not_used(writer, root, page):
    page.damaged_generation = page.registry_generation
    assert not writer.is_usable
    writer.close()
    started = RegistryWriter(root, page)
    assert not started.is_usable
    started.rebuild(DATABASE, contents_of([make_endpoint("a")], []))
    assert started.is_usable
    started.close()


@pytest.mark.parametrize("content", [b"", b"nonsense" * 1000])
def test_a_damaged_file_is_not_used(writer, root, page, content, caplog):
    writer.close()
    file_of(root).write_bytes(content)
    started = RegistryWriter(root, page)
    assert not started.is_usable
    assert "built anew" in caplog.text


def test_another_format_is_not_used(writer, root, page):
    state = msgspec.structs.replace(writer.state(), format=schema.FORMAT + 1)
    writer._store.put(META, STATE, META.pack(state))
    writer.close()
    assert not RegistryWriter(root, page).is_usable


def test_a_half_built_generation_of_a_killed_process_is_removed(writer, apply, root, page):
    folders.folder(root, 99).mkdir()
    writer.publish()
    assert folders.others(root, folders.current(root)) == []


def test_a_store_is_rebuilt_with_everything(writer, root, page):
    endpoints = [make_endpoint("a", "m", slot=1), make_endpoint("b", slot=2)]
    keys = [make_key("k"), PublishedKey("bad", "no hash", ())]
    writer.rebuild("database-2", contents_of(endpoints, keys), source="one")
    known = Known(root, page)
    key = known.reader.key(digest("k"))
    assert key is not None
    assert key.id == "k"
    assert known.names() == ["a", "b"]
    assert [model.id for _, model in known.reader.models_named("M")] == []
    state = writer.state()
    assert (state.database_id, state.source, state.previous_source) == ("database-2", "one", None)


@pytest.mark.parametrize(
    ("error", "damage"),
    [
        (sqlite3.OperationalError("made up"), False),
        (sqlite3.OperationalError("Could not decode to UTF-8 column"), True),
        (sqlite3.DatabaseError("file is not a database"), True),
        (Damaged("a row"), True),
        (FileNotFoundError(), True),
        (PermissionError(), False),
        (ValueError(), False),
    ],
)
def test_what_damage_is(error, damage):
    assert is_damage(error) is damage


def make_name(name_id: str, name: str, model: str = "m") -> ModelName:
    return ModelName(id=name_id, name=name, steps=(Step((Target(model),)),))


def changed_names(writer: RegistryWriter, *names: ModelName, deleted: tuple[str, ...] = ()) -> list[bytes]:
    """Apply model names, and return the changes that readers see."""
    before = writer.state().version  # type: ignore[union-attr]
    changes = Changes(model_names={name.id: name for name in names} | dict.fromkeys(deleted))
    after = writer.apply(changes)
    steps = writer._store.changes(before, after)  # type: ignore[union-attr]
    return sorted(change for step in steps or [] for change in step)


def test_a_model_name_is_written_if_it_differs(writer):
    assert changed_names(writer, make_name("1", "fast")) == [MODEL_NAMES.letter + model_name_key("fast")]
    assert changed_names(writer, make_name("1", "fast")) == []
    assert changed_names(writer, make_name("1", "fast", "other")) == [MODEL_NAMES.letter + model_name_key("fast")]
    assert changed_names(writer, deleted=("1",)) == [MODEL_NAMES.letter + model_name_key("fast")]
    assert writer.rows(MODEL_NAMES) == []


def test_a_renamed_model_name_leaves_no_row(writer):
    changed_names(writer, make_name("1", "fast"), make_name("2", "slow"))
    changed = changed_names(writer, make_name("1", "slow"), make_name("2", "fast*"))
    assert changed == sorted(MODEL_NAMES.letter + model_name_key(name) for name in ("fast", "slow", "fast*"))
    assert {name.id: name.name for name in writer.rows(MODEL_NAMES)} == {"1": "slow", "2": "fast*"}


def test_parameters_of_a_model_name_are_kept(writer):
    name = msgspec.structs.replace(
        make_name("1", "fast"), defaults={"stop": msgspec.Raw(msgspec.msgpack.encode(["a"]))}
    )
    changed_names(writer, name)
    (stored,) = writer.rows(MODEL_NAMES)
    assert msgspec.msgpack.decode(stored.defaults["stop"]) == ["a"]


def test_a_rebuilt_store_has_the_model_names(writer):
    writer.rebuild(DATABASE, {"model_names": [("1", make_name("1", "fast")), ("2", make_name("2", "a*"))]})
    assert {name.name for name in writer.rows(MODEL_NAMES)} == {"fast", "a*"}


# Keys that were replaced


def rotated(writer, name, replaced, until=2e9, **fields):
    """Publish a key that replaced another one."""
    key = PublishedKey("k1", digest(name).hex(), ("read",), replaced=digest(replaced).hex(), replaced_until=until)
    writer.apply(Changes(keys={digest(replaced).hex(): None, key.hash: msgspec.structs.replace(key, **fields)}))


def test_a_replaced_key_is_the_same_key_until_it_expires(writer, known):
    rotated(writer, "new", "old", until=5.0, expires_at=9.0, external=True)
    old, new = (known.reader.key(digest(name)) for name in ("old", "new"))
    assert (old.id, old.permissions, old.external) == (new.id, new.permissions, True)
    assert (old.expires_at, new.expires_at) == (5.0, 9.0)


def test_a_replaced_key_expires_no_later_than_its_successor(writer, known):
    rotated(writer, "new", "old", until=9.0, expires_at=5.0)
    assert known.reader.key(digest("old")).expires_at == 5.0


def test_a_change_of_a_key_reaches_the_one_that_it_replaced(writer, known):
    rotated(writer, "new", "old")
    assert known.reader.key(digest("old")).enabled
    key = PublishedKey("k1", digest("new").hex(), (), enabled=False, replaced=digest("old").hex(), replaced_until=2e9)
    writer.apply(Changes(keys={key.hash: key}))
    known.reader.follow()
    assert not known.reader.key(digest("old")).enabled


def test_a_deleted_key_takes_the_one_that_it_replaced_with_it(writer, known):
    rotated(writer, "new", "old")
    writer.apply(Changes(keys={digest("new").hex(): None}))
    known.reader.follow()
    assert [known.reader.key(digest(name)) for name in ("old", "new")] == [None, None]


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_second_rotation_ends_the_first_value(writer, known, is_reversed):
    rotated(writer, "new", "old")
    key = PublishedKey("k1", digest("newest").hex(), (), replaced=digest("new").hex(), replaced_until=2e9)
    keys = {digest("new").hex(): None, key.hash: key}
    writer.apply(Changes(keys=dict(reversed(keys.items())) if is_reversed else keys))
    known.reader.follow()
    accepted = [known.reader.key(digest(name)) is not None for name in ("old", "new", "newest")]
    assert accepted == [False, True, True]


def test_a_late_deletion_of_a_replaced_key_changes_nothing(writer, known):
    rotated(writer, "new", "old")
    writer.apply(Changes(keys={digest("old").hex(): None}))
    known.reader.follow()
    assert known.reader.key(digest("old")) is not None


def test_a_build_has_the_replaced_keys(writer, known):
    key = PublishedKey("k1", digest("new").hex(), (), replaced=digest("old").hex(), replaced_until=2e9)
    writer.rebuild(DATABASE, contents_of((), (key,)))
    known.reader.follow()
    assert known.reader.key(digest("old")).id == "k1"
    assert writer.keys_between(b"", b"\xff" * 40) == [digest("new")]
