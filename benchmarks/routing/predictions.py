"""Check what replays predict: a change is predicted from the records of a run, then made in another run.

A case is a fleet at a load with a policy, and a change of it. The records of the run go through the rows of the
history, as the product stores them. The prediction knows nothing else: servers run as benchmarks.routing.server does,
with steps, memory for tokens and noise, which a replay has not. Exits 1 if fewer than 80 % of the intervals contain
the real gain, if a prediction has the wrong sign, or if one was made past saturation.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import django

from benchmarks.routing.fleets import BY_NAME, HELD_BACK, OPEN, Fleet
from benchmarks.routing.learner import kind_of
from benchmarks.routing.policies import POLICIES
from benchmarks.routing.simulate import requests_of
from benchmarks.routing.virtual import Request, Run
from gateway.base.config import ADAPTIVE, LEAST_INFLIGHT
from gateway.ipc.record import OK, AttemptRecord, RequestRecord, Work, uuid7
from gateway.routing.adaptive import FASTEST
from gateway.routing.balancer import LEAST

LOADS = (0.3, 0.6)
SATURATED_FLEETS = ("F1", "F2", "F9", "K1")  # small ones, whose runs are long beside the pauses of their clients
SATURATED = (1.3, 2.0)
OTHER = {ADAPTIVE: LEAST_INFLIGHT, LEAST_INFLIGHT: ADAPTIVE}
REASONS = {ADAPTIVE: FASTEST, LEAST_INFLIGHT: LEAST}
BEGIN = 1_800_000_000  # seconds since 1970
COVERED = 0.8
SWITCH, ADD, REMOVE, SLOW = CHANGES = ("switch", "add", "remove", "slow")
SLOWER = 2.0
QUICK = (("F1", 0.3), ("F3", 0.6), ("F4", 0.3))


class Case(NamedTuple):
    fleet: str
    load: float
    policy: str
    change: str


class Outcome(NamedTuple):
    """A case with its real gain of p95 per token, and what was predicted."""

    case: Case
    real: float
    low: float = 0.0
    middle: float = 0.0
    high: float = 0.0
    error: float = 0.0
    refusal: str = ""  # why there is no prediction; empty if there is one

    @property
    def holds(self) -> bool:
        return self.low <= self.real <= self.high

    @property
    def is_wrong_sign(self) -> bool:
        """Return True if the interval claims a gain where there was a loss, or the reverse."""
        return (self.low > 1.0 > self.real) or (self.high < 1.0 < self.real)


def cases(fleets: Iterable[str], loads: Sequence[float], changes: Sequence[str] = CHANGES) -> list[Case]:
    """Return the cases of fleets that do not swap models, which no replay predicts."""
    return [
        Case(fleet, load, policy, change)
        for fleet in fleets
        if not BY_NAME[fleet].loads
        for load in loads
        for policy in OTHER
        for change in changes
    ]


def changed_fleet(fleet: Fleet, change: str) -> Fleet:
    """Return a fleet with one more of its first servers, without its last one, or with a slower first one."""
    shapes = fleet.shapes
    if change == ADD:
        shapes = (*shapes, shapes[0])
    elif change == REMOVE:
        shapes = shapes[:-1]
    elif change == SLOW:
        first = shapes[0]
        times = {name: getattr(first, name) * SLOWER for name in ("a", "b", "c", "p")}
        shapes = (replace(first, **times), *shapes[1:])
    return replace(fleet, shapes=shapes)


def simulate(fleet: Fleet, policy: str, rate: float, requests: int, seed: int) -> tuple[Run, float]:
    """Return a run and its p95 per token."""
    run = Run(fleet, POLICIES[policy](seed), policy, 0.0, requests_of(fleet, requests), seed, rate=rate)
    return run, run.run().p95()


def record_of(request: Request, policy: str) -> RequestRecord:
    """Return the record that a gateway would write."""
    job, view = request.job, request.view
    assert view is not None
    work = None
    if policy == ADAPTIVE:
        work = Work(
            job.prompt, job.output, int(request.expected_prefix), max(0, request.age), 0, request.pending_before, 0, 0,
            request.was_idle, request.is_cold,
        )  # fmt: skip
    attempt = AttemptRecord(
        view.id, OK, 200, _us(request.ended - request.sent), at_us=_us(request.sent - request.arrived),
        reason=REASONS[policy], work=work,
    )  # fmt: skip
    return RequestRecord(
        uuid7(),
        _us(BEGIN + request.ended),
        kind_of(request),
        job.model,
        OK,
        200,
        _us(request.ended - request.arrived),
        first_token_us=_us(request.first - request.arrived) if job.output else None,
        attempts=(attempt,),
        input_tokens=job.prompt,
        output_tokens=job.output or None,
        streamed=bool(job.output),
        api_key_id=request.session.kind,
        cached_tokens=job.cached,
        body_bytes=4 * job.prompt,
        conversation=job.conversation if policy == ADAPTIVE else None,
    )


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def evaluate(case: Case, requests: int = 2000, seed: int = 1) -> Outcome:
    """Run a case: predict its change from its records, then make the change."""
    from metrics.replay import backtest, prediction  # they need Django's settings, which `run_all` loads
    from metrics.replay.history import COLUMNS, past_of
    from metrics.replay.nodes import KnownEndpoint
    from metrics.replay.run import RunSetting
    from metrics.storage import history_rows

    fleet = BY_NAME[case.fleet]
    rate = case.load * fleet.saturation
    run, before = simulate(fleet, case.policy, rate, requests, seed)
    policy = OTHER[case.policy] if case.change == SWITCH else case.policy
    _, after = simulate(changed_fleet(fleet, case.change), policy, rate, requests, seed)
    real = before / after
    entries = [record_of(request, case.policy) for request in run.answered()]
    names = (*history_rows.COLUMNS.common, *history_rows.COLUMNS.own)
    rows = []
    for common, own in history_rows.rows(entries, lambda name: history_rows.EndpointName(name, "")):
        for values in own:
            row = dict(zip(names, (*common, *values), strict=True))
            rows.append([row[name] for name in COLUMNS])
    rows.sort(key=lambda row: row[0], reverse=True)
    known = [KnownEndpoint(view.id, view.id, view.server.shape.kind, view.slots) for view in run.views]
    recording = backtest.record(past_of(rows, {}), known)
    first, last = known[0].name, known[-1].name
    question = prediction.Question(
        policy,
        removed=(last,) if case.change == REMOVE else (),
        added=(first,) if case.change == ADD else (),
        slower=((first, SLOWER),) if case.change == SLOW else (),
    )
    refusal = backtest.refusal_of(recording, policy)
    if refusal is not None:
        return Outcome(case, real, refusal=refusal.code)
    tested = backtest.backtest(recording, RunSetting(recording.nodes, recording.lengths, recording.policy))
    if tested.refusal is not None:
        return Outcome(case, real, refusal=tested.refusal.code, error=tested.error)
    try:
        nodes = prediction.changed(recording.nodes, question)
    except prediction.NotReplayed as error:
        return Outcome(case, real, refusal=f"unknown endpoint {error}")
    forecast = prediction.predict(recording, tested, replace(tested.setting, policy=policy, nodes=nodes))
    gain = forecast.gain
    assert gain is not None
    return Outcome(case, real, gain.low, gain.middle, gain.high, tested.error)


def report(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each case, and the sums."""
    lines = []
    for outcome in outcomes:
        case = (
            f"{BY_NAME[outcome.case.fleet].name:18} {outcome.case.load:<4} {outcome.case.policy:14} "
            f"{outcome.case.change:6}"
        )
        if outcome.refusal:
            lines.append(f"{case} real {outcome.real:6.2f}  refused: {outcome.refusal}")
        else:
            held = "holds" if outcome.holds else "MISSES"
            sign = "  WRONG SIGN" if outcome.is_wrong_sign else ""
            lines.append(
                f"{case} real {outcome.real:6.2f}  predicted {outcome.low:6.2f} to {outcome.high:6.2f}, "
                f"middle {outcome.middle:6.2f}, error {outcome.error:+.2f}  {held}{sign}"
            )
    predicted = [outcome for outcome in outcomes if not outcome.refusal]
    holding, wrong = sum(outcome.holds for outcome in predicted), sum(outcome.is_wrong_sign for outcome in predicted)
    lines.append(
        f"{len(predicted)} predicted, {len(outcomes) - len(predicted)} refused; {holding} intervals hold "
        f"({100 * holding / max(1, len(predicted)):.0f} %), {wrong} with the wrong sign"
    )
    return "\n".join(lines)


def misses(outcomes: Sequence[Outcome], saturated: Sequence[Outcome]) -> list[str]:
    """Return the bounds that are missed, in words."""
    predicted = [outcome for outcome in outcomes if not outcome.refusal]
    texts = []
    if sum(outcome.holds for outcome in predicted) < COVERED * len(predicted) or not predicted:
        texts.append(f"fewer than {100 * COVERED:.0f} % of the intervals hold")
    if any(outcome.is_wrong_sign for outcome in predicted):
        texts.append("a prediction has the wrong sign")
    if any(not outcome.refusal for outcome in saturated):
        texts.append("a prediction was made past saturation")
    return texts


def run_all(wanted: Sequence[Case], requests: int, seed: int, jobs: int) -> list[Outcome]:
    with ProcessPoolExecutor(jobs, initializer=django.setup) as pool:
        waiting = [pool.submit(evaluate, case, requests, seed) for case in wanted]
        return [future.result() for future in waiting]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--fleets", default=",".join(fleet.name.split()[0] for fleet in OPEN), help="or `held`, or `all`"
    )
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--changes", default=",".join(CHANGES))
    parser.add_argument("--requests", type=int, default=2000, help="of one run; large fleets get more")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="a few cases")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "routerdash.settings")
    fleets = options.fleets.split(",")
    if options.fleets in ("held", "all"):
        fleets = [fleet.name.split()[0] for fleet in (HELD_BACK if options.fleets == "held" else OPEN + HELD_BACK)]
    if unknown := sorted(set(fleets) - BY_NAME.keys()):
        parser.error(f"unknown: {', '.join(unknown)}")
    wanted = cases(fleets, options.loads, options.changes.split(","))
    past = cases([fleet for fleet in fleets if fleet in SATURATED_FLEETS], SATURATED, [SWITCH])
    if options.quick:
        wanted = [case for case in wanted if (case.fleet, case.load) in QUICK and case.change == SWITCH]
        past = past[:1]
    outcomes = run_all(wanted, options.requests, options.seed, options.jobs)
    print(report(outcomes))
    saturated = run_all(past, options.requests, options.seed, options.jobs)
    print("\nPast saturation\n" + report(saturated))
    if missed := misses(outcomes, saturated):
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
