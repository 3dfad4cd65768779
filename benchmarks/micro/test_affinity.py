"""Prefix affinity: what a request costs before and after the choice of its endpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench.tools import chat_body
from gateway.base.config import AFFINITY_AUTO
from gateway.dialects.prompt_fields import PromptFields, decode_prompt
from gateway.ipc.live_page import EndpointWork, LivePage
from gateway.routing.affinity.affinity import Affinity, Prefix
from gateway.routing.affinity.prompts import marks_of, read_beginning
from gateway.routing.affinity.table import open_table
from tests.gateway.routing.affinity.conftest import Facts, FakeEndpoint

Benchmark = Callable[..., Any]  # pytest-benchmark's fixture

SIZES = {"600 B": 600, "2 KB": 2_000, "8 KB": 8_000, "84 KB": 84_000, "1 MB": 1_000_000}


class Candidates:
    has_prints = False

    def __init__(self) -> None:
        self.endpoints = [FakeEndpoint(f"e{number}", Facts(number)) for number in range(4)]
        self.by_id = {it.id: it for it in self.endpoints}


@pytest.fixture(params=list(SIZES.values()), ids=list(SIZES))
def fields(request: pytest.FixtureRequest) -> PromptFields:
    return decode_prompt(chat_body(request.param, stream=True))


@pytest.fixture
def candidates() -> Candidates:
    return Candidates()


@pytest.fixture
def affinity(tmp_path: Path, candidates: Candidates) -> Affinity:
    (tmp_path / "key").touch()
    table = open_table(tmp_path / "affinity", tmp_path / "key")
    page = LivePage(tmp_path / "live")
    page.claim_row()
    endpoints = {it.id: it for it in candidates.endpoints}
    return Affinity(AFFINITY_AUTO, b"s" * 32, table, EndpointWork(page), lambda: endpoints)


def read(affinity: Affinity, fields: PromptFields) -> Prefix:
    prefix = affinity.read(fields, None, "key", "m", 8_000)
    assert prefix is not None
    return prefix


def test_marks_of_a_prompt(benchmark: Benchmark, fields: PromptFields) -> None:
    """Goals: 0.7 µs for 600 B, and 5 µs for 8 KB."""
    assert benchmark(lambda: marks_of(bytes(fields.messages), 0))


def test_checksums_of_a_prompt(benchmark: Benchmark, fields: PromptFields) -> None:
    assert benchmark(read_beginning, fields)[0]


def test_read_a_prompt(benchmark: Benchmark, affinity: Affinity, fields: PromptFields) -> None:
    assert benchmark(read, affinity, fields).marks


def test_a_prompt_that_is_known(
    benchmark: Benchmark, affinity: Affinity, candidates: Candidates, fields: PromptFields
) -> None:
    """Of a conversation's next turn: find its endpoint, and note that the prompt is sent there again."""

    def serve() -> None:
        prefix = read(affinity, fields)
        affinity.find(prefix, candidates)
        affinity.store(prefix, candidates.endpoints[0])

    serve()
    benchmark(serve)
    assert affinity.find(read(affinity, fields), candidates)["e0"].age == 0


def test_a_prompt_that_is_new(
    benchmark: Benchmark, affinity: Affinity, candidates: Candidates, fields: PromptFields
) -> None:
    """Find nothing, and store all marks: each round is of another API key."""
    keys = iter(range(1 << 60))

    def serve() -> None:
        prefix = affinity.read(fields, None, f"key {next(keys)}", "m", 8_000)
        assert prefix is not None
        affinity.find(prefix, candidates)
        affinity.store(prefix, candidates.endpoints[0])

    benchmark(serve)
    assert not affinity.find(read(affinity, fields), candidates)
