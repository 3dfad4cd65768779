"""A prediction agrees with what then happens, and is refused where it could not be known."""

from dataclasses import replace

import pytest

from gateway.base.config import ADAPTIVE, LEAST_INFLIGHT
from metrics.replay import backtest, figures
from metrics.replay.backtest import Backtest, Recording, record, refusal_of
from metrics.replay.history import Past
from metrics.replay.prediction import NotReplayed, Prediction, Question, changed, fleet_refusal, predict
from metrics.replay.run import RunSetting, play
from metrics.replay.traffic import PastRequest
from tests.metrics.records import A, B
from tests.metrics.replay.traffic import FAST, FLEET, LENGTHS, SLOW, chats, happened, known, node


def replayed(of: Recording) -> Backtest:
    return backtest.backtest(of, RunSetting(of.nodes, of.lengths, of.policy))


def predicted(of: Recording, question: Question) -> Prediction:
    tested = replayed(of)
    nodes = changed(of.nodes, question)
    return predict(of, tested, replace(tested.setting, policy=question.policy, nodes=nodes))


def p95(requests: list[PastRequest]) -> float:
    return figures.quantile(sorted(figures.per_token(figures.recorded_times(requests))), 0.95)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(Past(happened()), known())


def test_the_predicted_gain_of_a_policy_is_the_real_one(recording: Recording) -> None:
    assert refusal_of(recording, ADAPTIVE) is None
    prediction = predicted(recording, Question(ADAPTIVE))
    real = p95(happened()) / p95(happened(policy=ADAPTIVE))
    assert prediction.gain is not None
    assert prediction.gain.low <= real <= prediction.gain.high
    assert prediction.gain.low > 1.0


def test_the_same_policy_gains_nothing(recording: Recording) -> None:
    prediction = predicted(recording, Question(LEAST_INFLIGHT))
    assert prediction.gain is not None
    assert prediction.gain.low < 1.0 < prediction.gain.high
    assert prediction.gain.middle == pytest.approx(1.0)


def test_the_recorded_policy_is_replayed_well(recording: Recording) -> None:
    tested = replayed(recording)
    assert tested.refusal is None
    assert tested.setting.speed == pytest.approx(1.0, abs=0.1)
    assert tested.error == pytest.approx(0.0, abs=0.15)


def test_an_endpoint_less_makes_times_longer(recording: Recording) -> None:
    prediction = predicted(recording, Question(LEAST_INFLIGHT, removed=(A,)))
    assert prediction.gain is not None
    assert prediction.gain.high < 1.0
    assert prediction.figures.by_endpoint == {B: 1.0}


def test_an_endpoint_more_is_used(recording: Recording) -> None:
    prediction = predicted(recording, Question(LEAST_INFLIGHT, added=(A,)))
    assert f"{A}+1" in prediction.figures.by_endpoint


def test_an_unknown_endpoint_is_an_error(recording: Recording) -> None:
    with pytest.raises(NotReplayed, match="nowhere"):
        changed(recording.nodes, Question(ADAPTIVE, removed=("nowhere",)))


def test_without_any_endpoint_there_is_no_prediction(recording: Recording) -> None:
    left = changed(recording.nodes, Question(ADAPTIVE, removed=(A, B)))
    refusal = fleet_refusal(recording.parts, left)
    assert refusal is not None
    assert refusal.code == backtest.NO_ENDPOINT


def test_a_recording_that_the_model_does_not_explain_is_refused(recording: Recording) -> None:
    """One in ten took thirty times as long, for a reason that the fitted endpoints do not have."""
    odd = [
        request._replace(ended=request.arrived + 30 * (request.ended - request.arrived))
        if number % 10 == 0
        else request
        for number, request in enumerate(recording.past.requests)
    ]
    refusal = replayed(replace(record(Past(odd), known()), nodes=recording.nodes)).refusal
    assert refusal is not None
    assert refusal.code == backtest.OFF


@pytest.mark.parametrize(
    ("past", "code"),
    [
        (Past(happened(chats(20))), backtest.FEW),
        (Past(happened(), cold=40), backtest.COLD),
        (Past(happened(), queue_refused=40), backtest.SATURATED),
        (
            Past(
                [
                    request._replace(balancer=(ADAPTIVE, LEAST_INFLIGHT)[index % 2])
                    for index, request in enumerate(happened())
                ]
            ),
            backtest.SWITCHED,
        ),
    ],
)
def test_what_cannot_be_known_is_refused(past: Past, code: str) -> None:
    refusal = refusal_of(record(past, known()), ADAPTIVE)
    assert refusal is not None
    assert refusal.code == code


def test_failed_requests_alone_are_refused(recording: Recording) -> None:
    refusal = refusal_of(recording, ADAPTIVE, successes=False)
    assert refusal is not None
    assert refusal.code == backtest.COARSE


def test_traffic_past_saturation_is_refused() -> None:
    nodes = [node(A, SLOW), node(B, SLOW)]
    past = Past(happened(chats(250, 0.3), nodes))
    refusal = refusal_of(record(past, known(nodes)), ADAPTIVE)
    assert refusal is not None
    assert refusal.code == backtest.SATURATED


def test_an_endpoint_that_was_never_used_is_refused_where_it_would_be() -> None:
    nodes = [*FLEET, node("unused", SLOW)]
    past = Past([request._replace(balancer=ADAPTIVE) for request in happened()])
    refusal = refusal_of(record(past, known(nodes)), LEAST_INFLIGHT)
    assert refusal is not None
    assert (refusal.code, refusal.values) == (backtest.UNKNOWN_SPEED, {"names": "unused"})


def test_a_worse_tier_gets_requests_only_when_the_better_one_is_full() -> None:
    first, second = replace(node(A, SLOW), tier=1, slots=2, places=2), replace(node(B, FAST), tier=2)
    shares = figures.run_figures(
        figures.played_times(play(RunSetting([first, second], LENGTHS, ADAPTIVE), chats()), [A, B])
    ).by_endpoint
    alone = figures.run_figures(
        figures.played_times(play(RunSetting([replace(first, slots=None), second], LENGTHS, ADAPTIVE), chats()), [A, B])
    ).by_endpoint
    assert 0 < shares[B] < 1
    assert alone == {A: 1.0}


def test_a_cost_weight_keeps_requests_away() -> None:
    def share(weight: float) -> float:
        fleet = [node(A, FAST), replace(node(B, FAST), weight=weight)]
        played = play(RunSetting(fleet, LENGTHS, ADAPTIVE), chats())
        return sum(request.node == 1 for request in played) / len(played)

    assert share(1.0) > 2 * share(3.0)


def test_less_capacity_widens_the_interval(recording: Recording) -> None:
    slower = predicted(recording, Question(LEAST_INFLIGHT, slower=((A, 1.01),))).gain
    faster = predicted(recording, Question(LEAST_INFLIGHT, slower=((A, 0.99),))).gain
    assert slower is not None
    assert faster is not None
    assert slower.high / slower.low > 1.3 * faster.high / faster.low
