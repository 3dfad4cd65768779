"""Notes about endpoints in the live page."""

import pytest

from gateway.ipc.endpoint_notes import VALUE_BITS, EndpointNotes, model_number
from gateway.ipc.live_page import MAX_ENDPOINTS, LivePage
from gateway.routing.set_aside import CAUSES, KINDS

LATE = (1 << 32) - 1  # the last second that fits


@pytest.fixture
def notes(tmp_path):
    return LivePage(tmp_path / "live").notes


def test_causes_and_kinds_fit():
    assert len(KINDS) <= VALUE_BITS
    assert len(CAUSES) <= 1 << VALUE_BITS


@pytest.mark.parametrize("slot", [0, MAX_ENDPOINTS - 1])
def test_notes_of_a_slot(notes, slot):
    most = (1 << VALUE_BITS) - 1
    notes.set_pause(slot, "a", LATE, 5)
    notes.set_lacking(slot, "a", 7, most)
    assert notes.pause(slot, "a") == (LATE, 5)
    assert notes.lacking(slot, "a") == (7, most)
    notes.clear_pause(slot)
    assert (notes.pause(slot, "a"), notes.lacking(slot, "a")) == ((0, 0), (7, most))


def test_another_endpoint_in_the_slot_inherits_nothing(notes):
    notes.set_pause(3, "a", 9, 1)
    assert notes.pause(3, "b") == (0, 0)


def test_each_change_is_counted_and_seen_by_other_processes(tmp_path, notes: EndpointNotes):
    other = LivePage(tmp_path / "live").notes
    before = other.changes
    notes.set_pause(0, "a", 9, 1)
    notes.clear_lacking(0)  # there is nothing
    assert other.changes == before + 1
    assert other.pause(0, "a") == (9, 1)


def test_notes_stay_when_a_process_ends(tmp_path):
    page = LivePage(tmp_path / "live")
    row = page.claim_row()
    page.notes.set_pause(0, "a", 9, 1)
    row.release()
    page.clear_dead_rows()
    assert page.notes.pause(0, "a") == (9, 1)


def test_an_administrators_reset_ends_a_pause(tmp_path):
    page = LivePage(tmp_path / "live")
    page.notes.set_pause(0, "a", 9, 1)
    page.breakers.reset(0)
    assert page.notes.pause(0, "a") == (0, 0)


def test_loads_have_a_count_of_their_own(notes):
    """A load is no reason to look at the pauses of all endpoints."""
    changes, loads = notes.changes, notes.loads
    notes.set_load(3, "a", 1000, "model")
    assert notes.load(3, "a") == (1000, model_number("model"))
    assert notes.load(3, "b") == notes.load(4, "a") == (0, 0)
    assert (notes.changes, notes.loads) == (changes, loads + 1)
