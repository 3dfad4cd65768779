"""The benchmark of events of many streams measures the gateway's thread."""

import pytest

from benchmarks.many_streams import ROOT, measure


@pytest.mark.unmeasured
def test_events_take_some_time() -> None:
    assert 0 < measure(ROOT, streams=2) < 100_000
