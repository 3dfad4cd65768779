"""The timeout of each test: that of its module for the short form, that of the command line at full size."""

import pytest

HOSTILE_SECONDS = 300

pytestmark = pytest.mark.timeout(HOSTILE_SECONDS)


def test_a_module_sets_no_shorter_timeout_for_the_full_size(request: pytest.FixtureRequest, full: bool) -> None:
    marker = request.node.get_closest_marker("timeout")
    assert marker is not None
    given = request.config.getoption("timeout")
    assert marker.args == (given if full and given else HOSTILE_SECONDS,)
