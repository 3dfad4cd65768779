"""The part of limits that bulk requests may use, and the whole once they have aged."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.base.queue_class import part_for_bulk
from gateway.base.request_kinds import BY_NAME
from gateway.inference.limiting.admission import admit, must_wait
from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.live_page import LivePage
from gateway.limits.compiled import CompiledLimits, KeyLimits, LimitedRequest
from gateway.registry.limits import EVERYONE_LEVEL, KEY_LEVEL, LimitFacts
from gateway.registry.schema import ApiKey
from gateway.routing.balancer import HELD

UNUSED: Any = None


@pytest.mark.parametrize(("amount", "part"), [(0, 0), (1, 1), (2, 1), (4, 3), (5, 4), (99, 79), (100, 80)])
def test_the_part_is_rounded_down_but_of_one_it_is_the_whole(amount: int, part: int) -> None:
    assert part_for_bulk(amount) == part


class Reader:
    limits_version = 1
    facts = LimitFacts(concurrency=5, requests=60, tokens=1000)

    def limits_of(self, level: str, subject_id: str) -> LimitFacts | None:
        return self.facts if level in (KEY_LEVEL, EVERYONE_LEVEL) else None


class Gateway:
    """What the limits of a request need of a gateway."""

    def __init__(self, directory: Path) -> None:
        page = LivePage(directory / "live")
        reader: Any = Reader()
        self.reader = reader
        self.limits = KeyLimits(reader, LimitCounters(page, page.claim_row()), UNUSED, UNUSED)

    def request(self, key: ApiKey, *, gives_way: bool) -> tuple[Any, LimitedRequest]:
        services = SimpleNamespace(limits=self.limits, roster=SimpleNamespace(reader=self.reader))
        made = SimpleNamespace(
            gives_way=gives_way,
            services=services,
            api=SimpleNamespace(kind=BY_NAME["chat_completions"]),
            exchange=SimpleNamespace(arrived=1.0, api_key=key),
        )
        compiled = self.limits.of(key)
        assert compiled is not None
        made.limited = LimitedRequest(compiled, UNUSED, False, reserved=0)
        return made, made.limited


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def key_of(*, bulk: bool = False) -> ApiKey:
    return ApiKey("a", b"", (), bulk=bulk)


def test_a_bulk_request_waits_at_its_part_and_uses_the_whole_once_it_has_aged(gateway: Gateway) -> None:
    key = key_of()
    for _ in range(4):
        assert admit(*gateway.request(key, gives_way=True)) is None
    waiting, limited = gateway.request(key, gives_way=True)
    assert must_wait(waiting, limited)
    assert admit(waiting, limited) is HELD
    waiting.gives_way = False
    assert admit(waiting, limited) is None
    assert admit(*gateway.request(key, gives_way=False)) is HELD


def test_an_edit_changes_the_part_of_a_request_that_waits(gateway: Gateway) -> None:
    key = key_of()
    for _ in range(4):
        assert admit(*gateway.request(key, gives_way=True)) is None
    waiting, limited = gateway.request(key, gives_way=True)
    assert admit(waiting, limited) is HELD
    gateway.reader.facts, gateway.reader.limits_version = LimitFacts(concurrency=7), 2
    assert admit(waiting, limited) is None, "the part of 7 is 5"
    assert admit(*gateway.request(key, gives_way=True)) is HELD


def test_limits_of_a_key_with_bulk_requests_only_are_whole(gateway: Gateway) -> None:
    compiled = gateway.limits.of(key_of())
    assert compiled is not None
    assert concurrency_of(compiled) == [5, 5]
    assert concurrency_of(compiled.for_bulk(has_bulk_only=True)) == [5, 4]
    part = compiled.for_bulk(has_bulk_only=False)
    assert concurrency_of(part) == [4, 4]
    assert part.for_bulk(has_bulk_only=False) is part
    assert compiled.for_bulk(has_bulk_only=False) is part


def concurrency_of(compiled: CompiledLimits) -> list[int | None]:
    return [level.facts.concurrency for level in compiled.levels]
