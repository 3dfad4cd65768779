import time

import pytest

from gateway.base import bounds
from gateway.base.bounds import MAX_BOUNDS, Bound
from gateway.base.errors import Refusal
from gateway.ipc import bound_hits as bound_hits
from gateway.ipc.bound_hits import CONTROL, Hits
from gateway.ipc.live_page import MAX_ROWS, LivePage

SOME = Bound(1, "some", "Some", "2", "waits")
LAST = Bound(MAX_BOUNDS - 1, "last", "Last", "3", "is refused")


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(bound_hits, "BOUNDS", (SOME, LAST))
    return LivePage(tmp_path / "live")


@pytest.fixture
def clock(monkeypatch):
    now = [1_800_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_hits_are_summed_over_all_processes(page, tmp_path):
    for writer in (0, 0, MAX_ROWS - 1, CONTROL):
        Hits(page, writer).hit(SOME)
    Hits(page, CONTROL).hit(LAST)
    assert Hits(LivePage(tmp_path / "live")).totals() == {"some": 4, "last": 1}


def test_a_limit_without_hits_has_no_total(page):
    Hits(page, 0).hit(LAST)
    assert Hits(page).totals() == {"last": 1}


def test_a_restart_keeps_the_counts_of_a_worker(page):
    Hits(page, 0).hit(SOME)
    row = page.claim_row()
    row.release()
    assert Hits(page).totals() == {"some": 1}


def test_a_hit_is_recent_for_a_minute(page, clock):
    Hits(page, 0).hit(SOME)
    clock[0] += 59
    assert Hits(page).recent(clock[0]) == {"some": 1_800_000_000}
    clock[0] += 1
    assert Hits(page).recent(clock[0]) == {}


def test_hits_that_follow_each_other_are_one_series_since_the_first(page, clock):
    for _ in range(5):
        Hits(page, 0).hit(SOME)
        clock[0] += 50
    Hits(page, 1).hit(SOME)
    assert Hits(page).recent(clock[0]) == {"some": 1_800_000_000}


def test_hits_long_after_the_last_one_begin_a_new_series(page, clock):
    Hits(page, 0).hit(SOME)
    clock[0] += 61
    Hits(page, 0).hit(SOME)
    assert Hits(page).recent(clock[0]) == {"some": 1_800_000_061}


def test_without_a_live_page_nothing_is_counted():
    hits = Hits()
    hits.hit(SOME)
    assert (hits.totals(), hits.recent(0)) == ({}, {})


def test_a_refusal_may_name_the_exceeded_limit():
    assert Refusal(413, "request_too_large", "Too large.", bound=SOME).bound is SOME
    assert Refusal(400, "invalid_request", "Bad.").bound is None


def test_every_limit_has_a_unique_name_number_and_texts():
    assert all(bound.name and bound.title and bound.allowed and bound.consequence for bound in bounds.BOUNDS)
