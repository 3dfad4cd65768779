"""The ways to read an event that `benchmarks.events` compares give the same result."""

import pytest

from benchmarks.events import SHAPES, new_relay, relay_all


@pytest.mark.parametrize("name", SHAPES)
def test_all_ways_count_the_same(name):
    shape = SHAPES[name]
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in shape.events()]
    counts, short = [], {}
    for way in ("read", "typed", "template"):
        relay = new_relay(way, shape)
        short[way] = relay_all(way, relay, chunks)
        counts.append((relay.events, relay.deltas, relay.usage, relay.whole))
    assert counts[0] == counts[1] == counts[2]
    assert short["read"] == 0
    assert short["typed"] > len(chunks) * 0.9
    assert short["template"] > len(chunks) * 0.9 or name == "OpenAI"
