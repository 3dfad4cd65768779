import subprocess
import sys

import pytest

from gateway.livepage import MAX_ENDPOINTS, MAX_WORKERS, LivePage
from tests.router import ROOT


@pytest.fixture
def page(tmp_path):
    return LivePage(tmp_path / "live")


@pytest.fixture
def same(page, tmp_path):
    """The same page, as another process opens it."""
    return LivePage(tmp_path / "live")


def test_a_new_page_is_all_zero(page):
    assert (page.version, page.in_flight(0), page.last_byte(MAX_ENDPOINTS - 1)) == (0, 0, 0)


def test_the_file_is_for_its_owner_alone(page, tmp_path):
    assert (tmp_path / "live").stat().st_mode & 0o777 == 0o600


def test_a_version_is_seen_by_everybody(page, same):
    page.version = 2**40
    assert same.version == 2**40


def test_in_flight_is_the_sum_over_workers(page, same):
    page.row(0).in_flight(5)[0] = 3
    page.row(MAX_WORKERS - 1).in_flight(5)[0] = 4
    assert same.in_flight(5) == 7
    assert (same.in_flight(4), same.in_flight(6)) == (0, 0)


def test_in_flight_over_so_many_workers(page):
    page.row(0).in_flight(5)[0] = 3
    page.row(1).in_flight(5)[0] = 4
    assert [page.in_flight(5, workers) for workers in (0, 1, 2, MAX_WORKERS)] == [0, 3, 7, 7]


def test_the_last_byte_is_the_latest_of_any_worker(page, same):
    page.row(0).set_last_byte(5, 1_800_000_000)
    page.row(1).set_last_byte(5, 1_700_000_000)
    assert same.last_byte(5) == 1_800_000_000
    assert same.in_flight(5) == 0


def test_clearing_takes_one_workers_row_alone(page, same):
    for worker in (0, 1, 2):
        for slot in (0, MAX_ENDPOINTS - 1):
            page.row(worker).in_flight(slot)[0] = 1
            page.row(worker).set_last_byte(slot, 1)
    page.version = 9
    same.clear(1)
    assert [page.in_flight(0, workers) for workers in (1, 2, 3)] == [1, 1, 2]
    assert page.in_flight(MAX_ENDPOINTS - 1) == 2
    assert page.version == 9


def test_an_old_page_survives_being_opened(page, tmp_path):
    page.row(0).in_flight(1)[0] = 1
    del page
    assert LivePage(tmp_path / "live").in_flight(1) == 1


def test_a_file_of_another_size_begins_anew(tmp_path):
    (tmp_path / "live").write_bytes(b"\5")
    page = LivePage(tmp_path / "live")
    assert (page.version, page.in_flight(MAX_ENDPOINTS - 1)) == (0, 0)


PROGRAM = """
import sys
from pathlib import Path
from gateway.livepage import LivePage
page = LivePage(Path(sys.argv[1]))
page.row(3).in_flight(7)[0] = page.version
"""


def test_another_process_reads_and_writes_the_same_page(page, tmp_path):
    page.version = 42
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "live")], check=True, cwd=ROOT)
    assert page.in_flight(7) == 42


def test_unrecorded_requests_are_summed_over_workers(page, same):
    page.set_unrecorded(0, 2)
    page.set_unrecorded(MAX_WORKERS - 1, 2**40)
    assert same.unrecorded == 2**40 + 2
    same.clear(0)
    assert (page.unrecorded, page.version) == (2**40, 0)


def test_waiting_requests_are_summed_over_workers(page, same):
    page.set_waiting(0, 2)
    page.set_waiting(MAX_WORKERS - 1, 5)
    page.watched_until = 9
    assert (same.waiting, same.unrecorded) == (7, 0)
    same.clear(0)
    assert page.waiting == 5


def test_who_looks_is_seen_by_everybody(page, same):
    page.watched_until = 1_800_000_000
    assert same.watched_until == 1_800_000_000
    assert (same.version, same.waiting, same.in_flight(0)) == (0, 0, 0)
    same.clear(MAX_WORKERS - 1)
    assert page.watched_until == 1_800_000_000


def test_the_breaker_that_stays_open_longest_is_told(page, same):
    page.row(0).set_trial_due(5, 1_800_000_000)
    page.row(1).set_trial_due(5, 1_800_000_009)
    assert [same.trial_due(5, workers) for workers in (1, 2)] == [1_800_000_000, 1_800_000_009]
    assert (same.trial_due(4), same.last_byte(5)) == (0, 0)


def test_a_reset_takes_back_what_workers_told_of_one_breaker(page, same):
    for worker in (0, MAX_WORKERS - 1):
        for slot in (4, 5):
            page.row(worker).set_trial_due(slot, 1_800_000_000)
    same.reset_breaker(5)
    assert (page.trial_due(4), page.trial_due(5)) == (1_800_000_000, 0)
    assert (page.version, page.cancels, page.in_flight(5)) == (0, 0, 0)


def test_resets_are_numbered(page, same):
    for slot in (5, MAX_ENDPOINTS - 1, 5):
        page.reset_breaker(slot)
    assert same.resets == 3
    assert [same.last_reset(slot) for slot in (4, 5, MAX_ENDPOINTS - 1)] == [0, 3, 2]
