"""The matrix of routing over HTTP: its order, what a stopped one continues with, and its verdict."""

import argparse
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from benchmarks.routing import matrix
from benchmarks.routing.fleets import BY_NAME
from benchmarks.routing.matrix import CellResult, cells, is_good, line, stored, summary
from benchmarks.routing.over_http import LOADS, SCALES, SLOW_CELLS, Cell, Outcome, scale_of

RESULT = CellResult("abc", 1, 400, "F1", 0.6, 2, "adaptive", 1.1, 0.5, 0.7, 280, 0.2, 0.04, 0)
replace = msgspec.structs.replace


def test_every_fleet_has_a_speed() -> None:
    assert SCALES.keys() == BY_NAME.keys()
    for fleet, load in SLOW_CELLS:
        assert load in LOADS
        assert scale_of(Cell(fleet, load, 2)) > SCALES[fleet]
    assert scale_of(Cell("F9", 0.6, 1)) == SCALES["F9"]


def test_each_fleet_has_its_turn_before_a_second_one() -> None:
    ordered = list(cells(["F1", "K1"], [0.3, 0.6], [1, 2]))
    assert ordered[:4] == [Cell("F1", 0.3, 1), Cell("K1", 0.3, 1), Cell("F1", 0.3, 2), Cell("K1", 0.3, 2)]
    assert len(set(ordered)) == 8


def test_stored_results_are_read_up_to_a_line_that_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results"
    assert stored(path) == []
    path.write_bytes(msgspec.json.encode(RESULT) + b'\n{"commit": "ab')
    assert stored(path) == [RESULT]
    assert "a line is ignored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({}, True),
        ({"ratio": 1.6}, False),
        ({"ratio": 1.2}, False),
        ({"ratio": 9.0, "balancer": "least_inflight"}, True),
        ({"errors": 1}, False),
        ({"cpu": 0.61}, False),
    ],
)
def test_the_verdict(changes: dict[str, float], good: bool) -> None:
    assert is_good([replace(RESULT, **changes)]) is good


def test_the_mean_is_that_of_a_group_of_fleets() -> None:
    open_fleet, held = replace(RESULT, ratio=1.02), replace(RESULT, fleet="K1", ratio=1.4)
    assert is_good([open_fleet, replace(open_fleet, load=0.3)])
    assert not is_good([open_fleet, held])
    assert "| held | adaptive | 1 | 1.40 | 1.40 (K1, 0.6, 2) | 4% |" in list(summary([open_fleet, held]))


def test_a_row_says_how_fast_time_passes() -> None:
    assert "| 5 × as fast | 4% |" in line(RESULT)
    assert "| 2 × slower | 4% |" in line(replace(RESULT, scale=2.0))


def test_a_run_that_takes_too_much_of_the_machine_is_slowed_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scales: list[float] = []

    def measured(share: Callable[[float], float]) -> None:
        def measure(cell: Cell, balancer: str, requests: int, seed: int, scale: float) -> Outcome:
            scales.append(scale)
            return Outcome(0.02, 0.1, 0.5, 280, share(scale), [])

        monkeypatch.setattr(matrix, "measure", measure)

    options = argparse.Namespace(requests=400, seed=1)
    measured(lambda scale: 0.18 / scale)
    outcome = matrix.run(Cell("F1", 0.6, 2), "adaptive", 0.02, "abc", options)
    assert (outcome.ratio, outcome.scale, scales) == (1.0, 0.4, [0.2, 0.4])
    scales.clear()
    measured(lambda scale: 0.9)
    assert matrix.run(Cell("F1", 0.6, 2), "adaptive", 0.02, "abc", options).scale == pytest.approx(0.8)
    assert scales == [0.2, 0.4, 0.8]
    assert capsys.readouterr().out.count("again at half the speed") == 3
