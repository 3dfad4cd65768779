"""Replays predict what a change does in a simulated fleet, and refuse past saturation."""

import pytest

from benchmarks.routing import predictions
from benchmarks.routing.predictions import SWITCH, Case, Outcome
from gateway.base.config import ADAPTIVE, LEAST_INFLIGHT

HELD = Outcome(Case("F1", 0.3, ADAPTIVE, SWITCH), 2.0, 1.5, 2.0, 2.5)


@pytest.mark.parametrize(
    "case",
    [
        Case("F3", 0.6, ADAPTIVE, SWITCH),
        Case("F2", 0.3, LEAST_INFLIGHT, SWITCH),
        Case("F2", 0.3, ADAPTIVE, predictions.ADD),
    ],
)
def test_the_interval_holds_the_real_gain(case: Case) -> None:
    outcome = predictions.evaluate(case, 1500)
    assert not outcome.refusal
    assert outcome.holds
    assert not outcome.is_wrong_sign


def test_past_saturation_there_is_no_prediction() -> None:
    assert predictions.evaluate(Case("F1", 2.0, LEAST_INFLIGHT, SWITCH), 1200).refusal == "past_saturation"


def test_what_is_missed_is_reported() -> None:
    assert predictions.misses([HELD], []) == []
    assert predictions.misses([], []) == ["fewer than 80 % of the intervals hold"]
    wrong = HELD._replace(real=0.9)
    assert "a prediction has the wrong sign" in predictions.misses([*[HELD] * 9, wrong], [])
    assert predictions.misses([HELD], [HELD]) == ["a prediction was made past saturation"]


def test_a_report_has_a_line_for_each_case() -> None:
    lines = predictions.report([HELD, HELD._replace(refusal="backtest_off")]).splitlines()
    assert "holds" in lines[0]
    assert "refused: backtest_off" in lines[1]
    assert lines[2].startswith("1 predicted, 1 refused; 1 intervals hold (100 %)")
