"""Copies of sums: they are brought up to date by what changed, and equal copies of everything."""

import random

import msgspec.structs
import pytest

from metrics.counting.fold import Fold
from metrics.memory.figures import Figures
from metrics.memory.trackers import Trackers
from tests.metrics.records import AT, A, load, request
from tests.metrics.world import UTC_ZONE


def copied_afresh(trackers: Trackers, now: float) -> Figures:
    trackers._copies = None
    return trackers.figures(now)


@pytest.mark.parametrize("seed", range(4))
def test_copies_equal_those_of_everything(seed: int) -> None:
    """At any time: also on the next day, and with records of a clock that runs ahead or is set back."""
    rng = random.Random(seed)
    trackers, now = Trackers(UTC_ZONE), AT
    for _ in range(40):
        ahead = round(rng.choice((0, 0, 0, 90, -3600)) * 1e6)
        records = [
            msgspec.structs.replace(entry, completed_us=entry.completed_us + ahead)
            for entry in load(rng.randrange(1000), 5)
        ]
        trackers.add(Fold(UTC_ZONE).add_all(records))
        now += rng.choice((0, 0.25, 30, -200, 20_000))
        figures = trackers.figures(now)
        assert figures == copied_afresh(trackers, now)


def test_a_copy_stays_as_it_is() -> None:
    trackers = Trackers(UTC_ZONE)
    trackers.add(Fold(UTC_ZONE).add_all([request(output_tokens=100)]))
    before = trackers.figures(AT)
    kept = (before.endpoints[A].total, before.today[A, "tiny", "chat_completions"].total, before.endpoint_speeds[A])
    trackers.add(Fold(UTC_ZONE).add_all([request(output_tokens=50)]))
    assert trackers.figures(AT).endpoints[A].total == 2
    assert kept == (
        before.endpoints[A].total, before.today[A, "tiny", "chat_completions"].total, before.endpoint_speeds[A]
    )  # fmt: skip


def test_only_what_was_added_to_is_copied_again() -> None:
    trackers = Trackers(UTC_ZONE)
    trackers.add(Fold(UTC_ZONE).add_all([request(endpoint=name) for name in ("one", "other")]))
    before = trackers.figures(AT)
    trackers.add(Fold(UTC_ZONE).add_all([request(endpoint="one")]))
    after = trackers.figures(AT)
    assert after.endpoints["one"].total == 2
    assert after.endpoints["other"] is before.endpoints["other"]
