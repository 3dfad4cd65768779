"""Faults of files and processes around the registry store."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.ipc.live_page import LivePage
from gateway.registry import folders
from gateway.registry.kinds import KEYS
from gateway.registry.reader import RegistryReader
from gateway.registry.store import is_damage
from gateway.registry.writer import Changes, RegistryWriter, contents_of
from tests.gateway.registry import child
from tests.gateway.registry.conftest import DATABASE, digest, file_of, make_key


def run_child(role: str, folder: Path, argument: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", child.__name__, role, str(folder), argument]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


# Locks


@pytest.fixture
def deceived(writer, apply, known, root, tmp_path):
    """A reader whose locks were lost, so that two writers, one after the other, have replaced the WAL beneath it."""
    apply(make_key("a"))
    writer.close()
    known.reader.follow()
    run_child("write", tmp_path, "b")
    known.reader.follow()
    file_of(root).open("rb").close()  # the kernel drops all locks of this process
    assert run_child("write", tmp_path, "c").returncode == 0  # it believes that nobody else has the file open
    known.reader.follow()
    assert run_child("write", tmp_path, "d").returncode == 0
    return known.reader


def test_a_reader_without_its_locks_reads_an_old_state(deceived, page):
    """This is what the next two tests are about."""
    assert deceived._store.state().version < page.version


def test_a_reader_without_its_locks_opens_the_file_again(deceived, page):
    assert deceived.follow()
    assert deceived.key(digest("d")) is not None
    assert (deceived.version, page.damaged_generation) == (page.version, 0)


def test_a_lookup_without_locks_opens_the_file_again(deceived, page):
    assert deceived.key(digest("d")) is not None
    assert (deceived.version, page.damaged_generation) == (page.version, 0)


# Killed writers


@pytest.mark.parametrize("removed", [(), ("-shm",)])
def test_the_wal_of_a_killed_writer_is_read(writer, known, root, page, tmp_path, removed):
    writer.close()
    assert run_child("write-and-die", tmp_path, "a").returncode == -signal.SIGKILL
    published = page.version
    for suffix in removed:
        Path(f"{file_of(root)}{suffix}").unlink()
    assert Path(f"{file_of(root)}-wal").stat().st_size
    assert known.reader.key(digest("a")) is not None
    assert known.reader.key(digest("unpublished")) is not None
    assert known.reader.version == published + 1
    with_next = RegistryWriter(root, page)
    with_next.publish()
    assert with_next.apply(Changes(keys={digest("b").hex(): make_key("b")})) == published + 2
    with_next.close()
    assert known.reader.key(digest("b")) is not None


# Damage while the file is open


@pytest.mark.parametrize("damage", child.DAMAGES)
def test_damage_of_an_open_file_is_no_signal(root, page, tmp_path, damage):
    writer = RegistryWriter(root, page)
    keys = sorted((make_key(str(n)) for n in range(child.KEYS)), key=lambda key: key.hash)
    writer.rebuild(DATABASE, contents_of((), keys))
    writer.close()
    result = run_child("read-damaged", tmp_path, damage)
    assert result.returncode == 0, result.stderr
    right, unknown, refused = map(int, result.stdout.split())
    assert (unknown, right + refused) == (0, child.KEYS)
    assert refused > child.KEYS / 4
    assert page.damaged_generation == page.registry_generation


def test_an_emptied_file_does_not_keep_a_writer_waiting_for_its_readers(writer, known, root, page):
    writer.close()
    known.reader.follow()  # and holds a lock
    os.truncate(file_of(root), 0)
    started = RegistryWriter(root, page)
    assert not started.is_usable
    started.rebuild(DATABASE, contents_of((), [make_key("a")]))
    assert known.reader.key(digest("a")) is not None
    started.close()


# A full disk


def many(first: int, count: int) -> Changes:
    return Changes(keys={digest(str(n)).hex(): make_key(str(n)) for n in range(first, first + count)})


def test_a_full_disk_is_no_damage(writer, apply, known, page):
    version = apply(make_key("a"))
    execute = writer._store._execute
    (pages,) = execute("PRAGMA page_count").fetchone()
    execute(f"PRAGMA max_page_count={pages + 5}")
    with pytest.raises(sqlite3.OperationalError, match="full") as raised:
        writer.apply(many(0, 2000))
    assert not is_damage(raised.value)
    assert writer.is_usable
    assert writer.state().version == page.version == version
    assert (known.reader.key(digest("a")) is None, known.reader.key(digest("0"))) == (False, None)
    execute("PRAGMA max_page_count=1000000")
    assert writer.apply(many(0, 2000)) == version + 1
    assert known.reader.key(digest("0")) is not None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mounted)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this needs the right to mount a file system")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def test_a_store_on_a_full_disk(small_disk: Path, page: LivePage) -> None:
    """Changes and rebuilds fail cleanly, readers go on, and after room was made, both succeed."""
    root = small_disk / "registry"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 19))
    writer = RegistryWriter(root, page)
    writer.rebuild(DATABASE, {})
    with pytest.raises(sqlite3.OperationalError, match="full") as raised:
        fill_up(writer)
    assert not is_damage(raised.value)
    written = len(writer.keys_between(b"", b"\xff" * 32))
    version, generation = page.version, page.registry_generation
    reader = RegistryReader(root, page, lambda update: None)
    reader.follow()
    assert all(reader.key(digest(str(n))) for n in range(written))
    assert reader.key(digest(str(written))) is None
    with pytest.raises((sqlite3.OperationalError, OSError)):
        writer.rebuild(DATABASE, {"keys": many(0, 20_000).of(KEYS).items()})
    assert (page.version, page.registry_generation, folders.others(root, generation)) == (version, generation, [])
    ballast.unlink()
    assert writer.apply(many(written, 50)) == version + 1
    assert reader.key(digest(str(written))) is not None
    assert page.damaged_generation == 0
    reader.close()
    writer.close()


def fill_up(writer: RegistryWriter) -> None:
    for first in range(0, 100_000, 50):
        writer.apply(many(first, 50))
