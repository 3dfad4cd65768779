"""The memory of compiled limits while very many API keys are in use."""

import gc
from pathlib import Path
from typing import Any

from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.live_page import LivePage
from gateway.limits.compiled import CACHED, CompiledLimits, KeyLimits
from gateway.registry.limits import LimitFacts
from gateway.registry.schema import ApiKey

BYTES = 7 * 1024  # of one key with limits of three levels


class Reader:
    """A registry in which all keys, users and everyone have the same limits."""

    limits_version = 1

    def limits_of(self, level: str, subject_id: str) -> LimitFacts:
        return LimitFacts(concurrency=5, requests=60, tokens=1000)


def test_keys_that_are_used_again_are_compiled_again(tmp_path: Path) -> None:
    """A gateway took 127 MiB with 10,000 keys in use: the limits of each stayed compiled."""
    page = LivePage(tmp_path / "live")
    unused: Any = None
    reader: Any = Reader()
    limits = KeyLimits(reader, LimitCounters(page, page.claim_row()), unused, unused)
    for number in range(2 * CACHED + 500):
        assert limits.of(ApiKey(str(number), b"", (), owner_id="ada")) is not None
    kept = sum(type(value) is CompiledLimits for value in gc.get_objects())
    assert CACHED <= kept <= 2 * CACHED
    assert 2 * CACHED * BYTES <= 30 << 20
    first = limits.of(ApiKey("0", b"", (), owner_id="ada"))
    assert first is not None
    assert [level.level for level in first.levels] == ["key", "user", "everyone"]
