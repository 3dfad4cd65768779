"""A short storm, and the code that judges its result."""

import pytest

from tests.storm.clients import BROKEN, LEFT, REFUSED, WHOLE, Seen
from tests.storm.run import KEYS, WINDOW_SECONDS, _compare, _starved, storm


@pytest.mark.timeout(180)
def test_a_short_storm_leaves_nothing_behind(tmp_path):
    assert storm(seconds=8, clients=60, directory=tmp_path) == []


@pytest.mark.parametrize(
    ("how", "outcomes"),
    [(WHOLE, ["ok"]), (REFUSED, ["queue"]), (BROKEN, ["truncated"]), (LEFT, []), (LEFT, ["ok"]), (LEFT, ["cancelled"])],
)
def test_rows_that_match_the_clients(how, outcomes):
    assert _compare({"a": outcomes}, {"a": how}) == []


@pytest.mark.parametrize(
    ("how", "outcomes"), [(WHOLE, []), (WHOLE, ["ok", "ok"]), (WHOLE, ["failed"]), (BROKEN, ["ok"]), (LEFT, ["ok"] * 2)]
)
def test_rows_that_do_not_match_the_clients(how, outcomes):
    assert len(_compare({"a": outcomes}, {"a": how})) == 1


def test_a_row_without_a_request():
    assert _compare({"a": ["ok"]}, {}) == ["1 rows without a request"]


def test_a_starving_key_is_found():
    often = [hundredths / 100 for hundredths in range(int(WINDOW_SECONDS * 200))]
    seen = Seen(served={**{f"key {number}": often for number in range(KEYS - 1)}, "last": [often[0]]})
    assert _starved(seen, 2 * WINDOW_SECONDS) == [
        f"key {KEYS - 1} was not served from second {WINDOW_SECONDS:.0f} to {2 * WINDOW_SECONDS:.0f}"
    ]
