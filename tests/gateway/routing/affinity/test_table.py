import errno
import multiprocessing
import os
import stat
from hashlib import blake2b

import pytest

from gateway.base.config import ConfigError
from gateway.routing.affinity import table as tables
from gateway.routing.affinity.keys import load_secret
from gateway.routing.affinity.table import NO_PRINT, SLOTS, MarkTable, open_table

PRINTS = [1000 + slot if slot < 8 else NO_PRINT for slot in range(SLOTS)]
fork = multiprocessing.get_context("fork")


def hashes(count, seed=0):
    return [int.from_bytes(blake2b(b"%d.%d" % (seed, n), digest_size=8).digest(), "big") for n in range(count)]


def store(table, hashed, slot=3, clock=5):
    table.store(hashed, slot, PRINTS[slot], clock, lambda slot, clock: clock)


def slots(table, hashed):
    return [entry.slot for entry in table.find(hashed, PRINTS)]


def test_a_mark_is_found_with_its_clock(table):
    (hashed,) = hashes(1)
    assert table.find(hashed, PRINTS) == []
    store(table, hashed, slot=3, clock=5)
    (entry,) = table.find(hashed, PRINTS)
    assert (entry.slot, entry.clock) == (3, 5)


def test_greatest_values_fit(table):
    hashed = (1 << 64) - 1
    table.store(hashed, 9_999, (1 << 28) - 1, (1 << 22) - 1, lambda slot, clock: 0)
    (entry,) = table.find(hashed, [NO_PRINT] * 9_999 + [(1 << 28) - 1])
    assert (entry.slot, entry.clock) == (9_999, (1 << 22) - 1)


def test_a_mark_is_stored_once_for_each_endpoint(table):
    (hashed,) = hashes(1)
    for _ in range(3):
        store(table, hashed, 3)
        store(table, hashed, 4)
    assert slots(table, hashed) == [3, 4]


def test_the_clock_of_a_mark_is_refreshed_unless_it_was_replaced(table):
    (hashed,) = hashes(1)
    store(table, hashed, 3, clock=5)
    (entry,) = table.find(hashed, PRINTS)
    table.refresh(entry, 6)
    assert table.find(hashed, PRINTS)[0].clock == 6
    table.refresh(entry, 7)  # by an old finding
    assert table.find(hashed, PRINTS)[0].clock == 6


def test_of_many_marks_nearly_all_are_found(table):
    many = hashes(100_000)
    for hashed in many:
        store(table, hashed)
    assert sum(slots(table, hashed) == [3] for hashed in many[-1000:]) > 980


def test_marks_that_were_never_stored_are_not_found(table):
    for hashed in hashes(100_000):
        store(table, hashed)
    assert not any(slots(table, hashed) for hashed in hashes(20_000, seed=1))


# The file


def test_the_file_is_of_the_owner_alone_and_has_its_room(paths, table):
    status = paths[0].stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_blocks * 512 >= status.st_size


def test_a_restart_keeps_the_marks(paths, table):
    (hashed,) = hashes(1)
    store(table, hashed)
    assert slots(open_table(*paths), hashed) == [3]


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(tables._BYTES), b"x" * tables._BYTES])
def test_a_file_of_another_layout_is_replaced(paths, content):
    paths[0].write_bytes(content)
    (hashed,) = hashes(1)
    table = open_table(*paths)
    store(table, hashed)
    assert slots(open_table(*paths), hashed) == [3]


def test_a_process_that_has_the_replaced_file_goes_on(paths, table):
    (hashed,) = hashes(1)
    paths[0].with_name("new").write_bytes(b"x")
    paths[0].with_name("new").rename(paths[0])
    open_table(*paths)
    store(table, hashed)
    assert slots(table, hashed) == [3]


def test_a_full_disk_is_an_error_and_the_process_goes_on_alone(paths, monkeypatch, caplog):
    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    table = open_table(*paths)
    assert "No space left" in caplog.text
    assert list(paths[0].parent.iterdir()) == [paths[1]]
    (hashed,) = hashes(1)
    store(table, hashed)
    assert slots(table, hashed) == [3]


def _store_many(paths, slot, start, seeds):
    table = open_table(*paths)
    start.wait()
    for hashed in hashes(2_000, seeds):
        store(table, hashed, slot)


def test_several_processes_open_and_fill_one_file(paths):
    start = fork.Barrier(4)
    workers = [fork.Process(target=_store_many, args=(paths, slot, start, slot)) for slot in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    table = open_table(*paths)
    for slot in range(4):
        assert sum(slots(table, hashed) == [slot] for hashed in hashes(2_000, slot)) > 1_950


def _store_forever(paths, ready):
    table: MarkTable = open_table(*paths)
    for number in range(1 << 60):
        store(table, hashes(1, number)[0], slot=number % 8, clock=number & 0xFFFF)
        if number == 5_000:
            ready.set()


def test_a_killed_process_leaves_a_usable_file(paths):
    ready = fork.Event()
    worker = fork.Process(target=_store_forever, args=(paths, ready))
    worker.start()
    assert ready.wait(60)
    worker.kill()
    worker.join(60)
    table = open_table(*paths)
    assert slots(table, *hashes(1, 4_999)) == [4_999 % 8]
    store(table, *hashes(1, -1))
    assert slots(table, *hashes(1, -1)) == [3]


# The secret


def test_the_secret_is_created_once_for_the_owner_alone(tmp_path):
    path = tmp_path / "affinity-key"
    secret = load_secret(path)
    assert len(secret) == 32
    assert load_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_damaged_secret_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "affinity-key"
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="delete it"):
        load_secret(path)
