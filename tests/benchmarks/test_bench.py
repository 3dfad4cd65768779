"""The benchmark's own code: parsing, comparison, and the check of figures."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.bench import proc, results, tools
from benchmarks.bench.__main__ import Bench
from benchmarks.bench.bodies import SHAPES, conversation
from benchmarks.bench.cases import CASES
from benchmarks.bench.servers import Figures, Upstreams, audit
from benchmarks.bench.tools import SOURCES, chat_body, parse_load, parse_wrk

WRK = """Running 1s test @ http://127.0.0.1:1/v1/chat/completions
  1 threads and 32 connections
Requests/sec:  20000.00

{"requests": 20000, "seconds": 1.000100, "p50_us": 640, "p99_us": 1900, "refused": 1, "broken": 2, "timeouts": 3}
"""
LOAD = (
    '{"seconds": 2.5, "whole": 7, "miscounted": 1, "unfinished": 2, "refused": 0, "broken": 0, "events": 600,'
    ' "started": 10, "connections": 5, "duration_us": {"p50": 641000, "p99": 700000, "max": 1},'
    ' "first_us": {"p50": 10500, "p99": 1, "max": 1}, "gap_us": {"p50": 1, "p99": 16000, "max": 1}}'
)


def test_the_output_of_wrk_is_parsed() -> None:
    measured = parse_wrk(WRK)
    assert (measured.requests, measured.p50_us, measured.p99_us, measured.wrong) == (20000, 640, 1900, 6)


def test_the_output_of_the_stream_client_is_parsed() -> None:
    measured = parse_load(LOAD)
    assert (measured.whole, measured.wrong, measured.errors) == (7, 3, "1 miscounted, 2 unfinished")
    assert (measured.events, measured.duration_p50_us, measured.gap_p99_us) == (600, 641000, 16000)


def test_a_case_that_cannot_be_measured_does_not_stop_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(bench: Bench, case: object) -> None:
        raise tools.CannotMeasure("only 1000 of 5000 streams began")

    bench = object.__new__(Bench)
    bench.failed = []
    monkeypatch.setattr(Bench, "_run", fail)
    assert [bench.run(case) for case in CASES[:2]] == [None, None]
    assert bench.failed[0] == f"`{CASES[0].name}` could not be measured: only 1000 of 5000 streams began"


def test_a_stat_line_with_parentheses_in_the_name() -> None:
    ticks = proc.TICKS
    line = f"7 (a) R 1 (b) S 42 7 7 0 -1 0 0 0 0 0 {ticks} {2 * ticks} {3 * ticks} {4 * ticks} 20 0 1 0 9"
    assert proc.parse_stat(line) == (42, 10.0)


def test_the_cpu_time_of_the_own_process_is_measured() -> None:
    assert proc.cpu_seconds([os.getpid()]) > 0
    assert proc.stat_of(os.getpid())[0] == os.getppid()
    assert proc.resident_kib(os.getpid()) > 1000
    assert proc.tree(os.getpid())[0] == os.getpid()


@pytest.mark.parametrize("size", [1500, 200_000, 5_000_000])
def test_bodies_have_their_size(size: int) -> None:
    assert abs(len(chat_body(size)) - size) < 50


@pytest.mark.parametrize("size", [40_000, 200_000, 200_001, 1_000_000])
def test_a_conversation_has_exactly_its_size(size: int) -> None:
    assert len(conversation(size)) == size


@pytest.mark.parametrize("seed", range(20))
def test_conversations_of_all_seeds_have_their_size(seed: int) -> None:
    assert len(conversation(200_000, seed)) == 200_000


def test_a_conversation_is_the_same_each_time() -> None:
    assert conversation(200_000) == conversation(200_000)
    assert conversation(200_000, 2) != conversation(200_000)


def test_a_conversation_looks_like_one() -> None:
    body = json.loads(conversation(200_000))
    roles = Counter(message["role"] for message in body["messages"])
    assert roles["system"] == 1
    assert min(roles["user"], roles["assistant"]) > 20
    assert roles["tool"] > 10
    assert len(body["tools"]) == 12
    lengths = [len(message["content"]) for message in body["messages"] if message["content"]]
    assert min(lengths) < 500
    assert max(lengths) > 5000
    calls = [call for message in body["messages"] for call in message.get("tool_calls", ())]
    assert [call["id"] for call in calls] == [
        message["tool_call_id"] for message in body["messages"] if message["role"] == "tool"
    ]
    assert all(json.loads(call["function"]["arguments"]) for call in calls)


def test_a_conversation_has_many_escapes() -> None:
    body = conversation(200_000)
    assert body.count(b'\\"') > 1000
    assert body.count(b"\\n") > 1000
    assert b"```python" in body


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [64_000, 200_000])
def test_shapes_have_about_their_size(shape: str, size: int) -> None:
    body = SHAPES[shape](size)
    assert json.loads(body)["model"] == tools.MODEL
    assert 0.9 * size < len(body) < 1.2 * size


def test_a_body_contains_its_options() -> None:
    assert b"#bench events=3#" in chat_body(1500, stream=True, options="events=3")


ROUNDS = [
    {"nginx": {"cpu": 20.0, "p50": 1.0}, "RouterDash": {"cpu": 40.0, "p50": 2.0}},
    {"nginx": {"cpu": 40.0, "p50": 1.0}, "RouterDash": {"cpu": 60.0, "p50": 3.0}},
    {"nginx": {"cpu": 20.0, "p50": 1.0}, "RouterDash": {"cpu": 50.0, "p50": 9.0}},
]


def test_ratios_are_computed_within_rounds() -> None:
    assert results.ratio(ROUNDS, "RouterDash", "cpu") == 2.0
    assert results.median(ROUNDS, "RouterDash", "cpu") == 50.0
    assert results.ratio(ROUNDS, "RouterDash", "nothing") is None


def test_a_table() -> None:
    case = next(case for case in CASES if case.name == "plain32")
    assert results.table(case, ROUNDS) == [
        "|  | CPU µs/request | p50 ms |",
        "|---|--:|--:|",
        "| nginx | 20.0 | 1.00 |",
        "| RouterDash | 50.0 (2.00 ×) | 3.00 |",
    ]


def test_missed_goals_are_reported() -> None:
    assert results.goals({"plain32": ROUNDS})[2:] == [
        "| gateway's CPU for a plain request, × nginx's | ≤ 2.1 | 2.00 | held |"
    ]
    assert "**missed**" in results.goals({"body200k": [{"nginx": {"cpu": 1.0}, "RouterDash": {"cpu": 3.0}}]})[2]


def test_every_goal_belongs_to_a_case() -> None:
    names = {case.name: case.columns for case in CASES}
    assert all(goal.column in names[goal.case] for goal in results.GOALS)


def test_the_added_latency_of_a_proxy() -> None:
    samples = {"direct": {"duration": 640.0, "p50": 0.1}, "nginx": {"duration": 642.0, "p50": 0.3}}
    results.add_differences(samples)
    assert samples["nginx"]["longer"] == 2.0
    assert samples["nginx"]["added_p50"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("successful", "failed", "cancelled", "posts", "held"),
    [
        (100, 0, 0, 100, True),
        (130, 0, 2, 131, True),  # 30 requests in flight had a response, one had not reached an upstream
        (99, 0, 1, 100, False),  # a response of a client is not counted
        (100, 1, 0, 101, False),
        (131, 0, 2, 132, False),  # more successes than requests
        (101, 0, 0, 100, False),  # a success without a request at an upstream
        (100, 0, 0, 101, False),  # a request at an upstream is not counted
    ],
)
def test_figures_are_compared_with_clients_and_upstreams(
    successful: int, failed: int, cancelled: int, posts: int, held: bool
) -> None:
    before, after = Figures(5, 1, 2, 9), Figures(5 + successful, 1 + failed, 2 + cancelled, 9 + posts)
    assert (audit(before, after, 100, 32) == "") is held


def test_a_missing_program_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find", lambda program: None if program == "wrk" else program)
    with pytest.raises(tools.CannotMeasure, match="apt-get install wrk"):
        tools.check()


@pytest.mark.needs("cc")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_streams_between_the_compiled_programs(tmp_path: Path) -> None:
    load = tools.Load(tmp_path, "sk_none")
    upstreams = Upstreams(tmp_path)
    try:
        paced = load.body("paced", 1500, stream=True, options="events=5 pace_us=2000")
        burst = load.body("burst", 1500, stream=True, options="events=300 pace_us=0")
        streams = [
            load.streams(upstreams.ports[0], body, 8, 0.2, events) for body, events in ((paced, 5), (burst, 300))
        ]
        assert [(one.wrong, one.whole > 8) for one in streams] == [(0, True), (0, True)]
        assert load.streams(upstreams.ports[0], paced, 1, 0.1, 6).errors.endswith("miscounted")
        rate = load.rate(upstreams.ports[0], load.body("plain", 1500), 100, 0.3)
        assert (rate.whole, rate.wrong) == (30, 0)
        assert upstreams.posts() > sum(one.whole for one in streams)
    finally:
        upstreams.stop()


@pytest.mark.needs("cc")
def test_c_sources_compile_without_warnings(tmp_path: Path) -> None:
    for name in ("upstream", "load"):
        command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / name), str(SOURCES / f"{name}.c")]
        subprocess.run(command, check=True)
