import errno
import fcntl
import os
import subprocess
import sys

import pytest

from gateway.ipc import live_page
from gateway.ipc.live_page import (
    IN_FLIGHT,
    MAX_ENDPOINTS,
    MAX_ROWS,
    MOMENT,
    PENDING,
    READ,
    SHARED,
    WORD,
    EndpointWork,
    LivePage,
    NoRow,
    QueuedRequests,
    wanted_bit,
)
from tests.router import ROOT

LAST = MAX_ENDPOINTS - 1


@pytest.fixture
def page(tmp_path):
    return LivePage(tmp_path / "live")


@pytest.fixture
def same(page, tmp_path):
    """The same page, as another process opens it."""
    return LivePage(tmp_path / "live")


@pytest.fixture
def rows(page):
    """Rows of three processes."""
    claimed = [page.claim_row() for _ in range(3)]
    yield claimed
    for row in claimed:
        row.release()


def test_a_new_page_is_all_zero(page):
    assert (page.version, page.in_flight(0), page.last_byte(LAST), page.rows) == (0, 0, 0, 0)


def test_only_the_owner_may_read_the_files(page, rows, tmp_path):
    assert (tmp_path / "live").stat().st_mode & 0o077 == 0
    assert (tmp_path / "live-rows").stat().st_mode & 0o077 == 0


def test_the_page_needs_no_more_room_later(page, tmp_path):
    """A store into a page without room on the disk would kill the process."""
    status = (tmp_path / "live").stat()
    assert status.st_blocks * 512 >= status.st_size


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="No space left"):
        LivePage(tmp_path / "live")
    monkeypatch.undo()
    assert LivePage(tmp_path / "live").in_flight(LAST) == 0


def test_every_process_reads_the_version(page, same):
    page.version = 2**40
    assert same.version == 2**40


def test_in_flight_is_the_sum_over_processes(rows, same):
    rows[0].cells(5)[0] = 3
    rows[2].cells(5)[0] = 4
    assert [same.in_flight(slot) for slot in (4, 5, 6)] == [0, 7, 0]


def test_the_last_byte_is_the_latest_of_any_process(rows, same):
    rows[0].set_last_byte(LAST, 1_800_000_000)
    rows[1].set_last_byte(LAST, 1_700_000_000)
    assert (same.last_byte(LAST), same.in_flight(LAST)) == (1_800_000_000, 0)


def test_an_old_page_stays_when_it_is_opened(page, rows, tmp_path):
    rows[0].cells(1)[0] = 1
    assert LivePage(tmp_path / "live").in_flight(1) == 1


def test_a_file_of_another_size_is_replaced(tmp_path):
    (tmp_path / "live").write_bytes(b"\5")
    page = LivePage(tmp_path / "live")
    assert (page.version, page.in_flight(LAST)) == (0, 0)


def test_unrecorded_and_waiting_requests_are_sums(rows, page, same):
    for row, count in zip(rows, (2, 0, 2**40), strict=True):
        row.set_unrecorded(count)
        row.set_waiting(count + 1)
    assert (same.unrecorded, same.waiting) == (2**40 + 2, 2**40 + 5)
    rows[2].release()
    assert (page.unrecorded, page.waiting) == (2, 4)


def test_the_latest_trial_of_any_process_counts(rows, same):
    rows[0].set_trial_due(5, 1_800_000_000)
    rows[1].set_trial_due(5, 1_800_000_009)
    rows[1].set_closed_at(5, 1_700_000_000)
    cells = same.breakers
    assert (cells.trial_due(5), cells.closed_at(5), cells.trial_due(4), same.last_byte(5)) == (
        1_800_000_009,
        1_700_000_000,
        0,
        0,
    )


def test_a_reset_clears_one_breaker_in_all_rows(rows, page, same):
    for row in rows:
        for slot in (4, 5):
            row.set_trial_due(slot, 1_800_000_000)
    same.breakers.reset(5)
    assert (page.breakers.trial_due(4), page.breakers.trial_due(5)) == (1_800_000_000, 0)
    assert (page.version, page.cancels, page.in_flight(5)) == (0, 0, 0)


def test_resets_are_numbered(page, same):
    for slot in (5, LAST, 5):
        page.breakers.reset(slot)
    assert same.breakers.resets == 3
    assert [same.breakers.last_reset(slot) for slot in (4, 5, LAST)] == [0, 3, 2]


def test_changes_of_breakers_are_counted(rows, same):
    counts = [same.breakers.changes]
    for change in (lambda: rows[1].set_trial_due(5, 1), lambda: rows[2].set_closed_at(LAST, 1), rows[1].release):
        change()
        counts.append(same.breakers.changes)
    assert sorted(set(counts)) == counts


# Rows


def test_each_process_has_a_row_of_its_own(rows, page):
    assert [row.number for row in rows] == [0, 1, 2]
    assert page.rows == 3


def test_a_released_row_is_cleared_and_claimed_again(rows, page, same):
    for slot in (0, LAST):
        rows[1].cells(slot)[0] = 7
        rows[1].set_last_byte(slot, 7)
    page.version = 9
    rows[1].release()
    assert (page.in_flight(0), page.last_byte(LAST), page.version) == (0, 0, 9)
    again = same.claim_row()
    assert again.number == 1
    again.release()


def test_rows_of_running_processes_are_not_cleared(rows, same):
    rows[1].cells(5)[0] = 7
    same.clear_dead_rows()
    assert same.in_flight(5) == 7


def test_unused_rows_at_the_end_are_not_read_any_more(rows, page, same):
    rows[2].release()
    same.clear_dead_rows()
    assert page.rows == 2


def test_no_more_processes_than_rows(page):
    claimed = [page.claim_row() for _ in range(MAX_ROWS)]
    with pytest.raises(NoRow, match=f"^{MAX_ROWS} gateways run already$"):
        page.claim_row()
    for row in claimed:
        row.release()


# Processes

CLAIM = """
import sys
from pathlib import Path
from gateway.ipc.live_page import LivePage
page = LivePage(Path(sys.argv[1]))
row = page.claim_row()
row.cells(7)[0] = 5
row.set_waiting(2)
print(row.number, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def claim(tmp_path):
    """Starts a process that claims a row, has five requests in flight, and waits; returns it with the row's number."""
    started = []

    def start():
        command = [sys.executable, "-c", CLAIM, str(tmp_path / "live")]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_processes_row_is_cleared(page, claim):
    process, number = claim()
    page.clear_dead_rows()
    assert (page.in_flight(7), page.waiting, number) == (5, 2, 0)
    process.kill()
    process.wait()
    assert page.in_flight(7) == 5
    page.clear_dead_rows()
    assert (page.in_flight(7), page.waiting, page.rows) == (0, 0, 0)


def test_new_and_draining_processes_never_share_a_row(page, claim):
    """The supervisor was killed; the gateways of its successor start while the old ones drain."""
    old = [claim() for _ in range(2)]
    new = [claim() for _ in range(2)]
    assert sorted(number for _, number in old + new) == [0, 1, 2, 3]
    assert page.in_flight(7) == 20
    for process, _ in old:
        process.kill()
        process.wait()
    page.clear_dead_rows()
    assert page.in_flight(7) == 10
    assert claim()[1] == min(number for _, number in old)


TAKE = """
import sys, time
from pathlib import Path
from gateway.ipc.live_page import LivePage, memory_barrier
page = LivePage(Path(sys.argv[1]))
row = page.claim_row()
cell = row.cells(3)
print(flush=True)
sys.stdin.readline()
admitted = most = 0
until = time.monotonic() + 1.0
while time.monotonic() < until:
    for _ in range(1000):
        cell[0] = 1
        memory_barrier()
        seen = page.in_flight(3)
        if seen <= 1:
            admitted += 1
            holders = row.cells(4)
            holders[0] = 1
            memory_barrier()
            most = max(most, page.in_flight(4))
            holders[0] = 0
        cell[0] = 0
print(admitted, most)
"""


def test_one_process_at_a_time_creates_the_page(tmp_path, monkeypatch):
    """Else another one maps a file that is still empty, or has it truncated under it."""
    create, created = live_page._open_map, []

    def create_locked(path):
        with (path.with_name("live-rows") / "claims").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        created.append(path)
        return create(path)

    monkeypatch.setattr(live_page, "_open_map", create_locked)
    LivePage(tmp_path / "live")
    assert created == [tmp_path / "live"]


def test_two_processes_never_hold_a_slot_of_one(tmp_path):
    """Each takes the slot first and checks then. While one holds it, it never sees another holder."""
    command = [sys.executable, "-c", TAKE, str(tmp_path / "live")]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    results = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        results.append([int(word) for word in process.communicate(timeout=60)[0].split()])
    assert all(most == 1 for _, most in results), results
    assert sum(admitted for admitted, _ in results) > 1000


# Versions that processes have applied


def test_a_process_is_behind_until_it_has_applied_the_version(page, same):
    row = page.claim_row()
    assert same.behind(1) == [os.getpid()]  # it has read nothing yet
    row.set_applied(1)
    assert (same.behind(1), same.behind(2)) == ([], [os.getpid()])
    row.release()
    assert same.behind(2) == []


def test_a_killed_process_is_not_waited_for_once_its_row_is_cleared(page, claim):
    process, _ = claim()
    assert page.behind(1) == [process.pid]
    process.kill()
    process.wait()
    page.clear_dead_rows()
    assert page.behind(1) == []


# Work of endpoints


def test_pending_and_read_tokens_are_sums_over_processes(page):
    work, rows = EndpointWork(page), [page.claim_row() for _ in range(2)]
    for row, tokens in zip(rows, (300, 50), strict=True):
        row.cells(4)[PENDING] = row.cells(4)[READ] = tokens
    rows[0].cells(4)[READ] = WORD  # it counts modulo 2**32
    assert [work.pending(slot) for slot in (3, 4, 5)] == [0, 350, 0]
    assert work.read_tokens(4) == 49


def test_tokens_read_are_a_clock_that_no_end_of_a_process_turns_back(page, same, claim):
    work, row = EndpointWork(page), page.claim_row()
    row.cells(4)[READ] = 300
    row.release()
    assert work.read_tokens(4) == 300
    row = page.claim_row()  # the same row again
    row.cells(4)[READ] = 50
    assert (work.read_tokens(4), work.read_tokens(5)) == (350, 0)
    assert EndpointWork(same).read_tokens(4) == 350
    row.release()
    process, _ = claim()
    process.kill()
    process.wait()
    page.clear_dead_rows()
    assert work.read_tokens(4) == 350


def test_requests_in_flight_are_integrated_over_time(page):
    work, rows = EndpointWork(page), [page.claim_row() for _ in range(2)]
    rows[0].cells(4)[SHARED], rows[0].cells(4)[MOMENT], rows[0].cells(4)[IN_FLIGHT] = 100, WORD - 9, 2
    rows[1].cells(4)[SHARED] = 7  # nothing in flight
    assert work.totals(4, 10)[3] == 100 + 2 * 20 + 7
    assert work.totals(5, 10)[3] == 0


# Classes of the queue


def test_requests_in_the_queue_are_counted_by_class_over_all_processes(page):
    one, other = page.claim_row(), page.claim_row()
    queued = QueuedRequests(page)
    one.set_waiting(5, bulk=3, wanted=wanted_bit(0) | wanted_bit(7))
    other.set_waiting(2, bulk=0, wanted=wanted_bit(64 + 9))
    assert (page.waiting, queued.interactive) == (7, 4)
    assert queued.wanted == wanted_bit(0) | wanted_bit(7) | wanted_bit(9)  # slots 9 and 73 share a bit
    other.release()
    assert (page.waiting, queued.interactive, queued.wanted) == (5, 2, wanted_bit(0) | wanted_bit(7))
    one.release()
