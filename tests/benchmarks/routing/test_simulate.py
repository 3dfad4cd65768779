"""Policies in virtual time: short runs, the same at every seed."""

import pytest

from benchmarks.routing import simulate
from benchmarks.routing.fleets import BY_NAME, HELD_BACK, OPEN
from benchmarks.routing.oracle import expected_finish
from benchmarks.routing.policies import POLICIES
from benchmarks.routing.server import Job, Server
from benchmarks.routing.simulate import Cell, Figures
from benchmarks.routing.virtual import Change, Result, Run, percentile
from benchmarks.routing.workloads import KINDS, contexts, sessions
from gateway.routing.balancer import EXCLUDED


def run(policy: str, fleet: str = "F1", load: float = 0.6, requests: int = 300, **options) -> Result:
    return Run(BY_NAME[fleet], POLICIES[policy](1), policy, load, requests, **options).run()


# Workloads


def test_a_conversation_grows_by_what_was_said() -> None:
    chat = next(session for session in sessions(BY_NAME["F2"], 1.0, 200, 1) if len(session.turns) > 2)
    turns = list(contexts(chat))
    assert turns[2][1] == sum(turn.new + turn.output for turn in chat.turns[:2])
    assert turns[2][2] == chat.system_tokens + turns[2][1] + chat.turns[2].new


def test_requests_come_at_the_given_rate_and_in_the_given_mix() -> None:
    drawn = sessions(BY_NAME["F10"], 20.0, 5000, 1)
    count = {kind: sum(len(session.turns) for session in drawn if session.kind == kind) for kind in KINDS}
    total = sum(count.values())
    assert total / drawn[-1].start == pytest.approx(20.0, rel=0.1)
    assert count["chat"] / total == pytest.approx(0.35, abs=0.05)
    assert count["embeddings"] / total == pytest.approx(0.2, abs=0.05)


def test_a_document_is_shared_by_sessions() -> None:
    rag_sessions = [session for session in sessions(BY_NAME["F8"], 5.0, 500, 1) if session.kind == "rag"]
    most = max(
        rag_sessions, key=lambda session: sum(other.conversation == session.conversation for other in rag_sessions)
    )
    assert sum(other.conversation == most.conversation for other in rag_sessions) > len(rag_sessions) / 10


def test_fleets_have_names_and_a_saturation_of_their_own() -> None:
    assert len(BY_NAME) == len(OPEN) + len(HELD_BACK)
    assert all(fleet.saturation > 1.0 for fleet in BY_NAME.values())


# Runs


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_ends_and_is_counted_once(policy: str) -> None:
    result = run(policy, requests=120)
    assert result.unfinished == 0
    assert [(view.in_flight, view.pending) for view in result.views] == [(0, 0)] * 4
    assert sum(view.completed for view in result.views) == len(result.ends)
    assert all(request.arrived <= request.sent < request.first <= request.ended for request in result.requests)


@pytest.mark.parametrize("policy", ["least_inflight", "adaptive"])
def test_the_same_seed_gives_the_same_result(policy: str) -> None:
    assert run(policy).per_token() == run(policy).per_token()
    assert run(policy).per_token() != run(policy, seed=2).per_token()


def test_slots_that_a_server_tells_are_never_exceeded() -> None:
    result = run("adaptive", "F9", 1.5, 200)
    assert all(len(view.server.waiting) == 0 for view in result.views)
    assert max(view.most for view in result.views if view.slots == 2) <= 2


def test_adaptive_is_faster_than_least_in_flight_on_a_mixed_fleet() -> None:
    assert run("adaptive", "F2", 0.6, 800).p95() < 0.5 * run("least_inflight", "F2", 0.6, 800).p95()


def test_an_excluded_endpoint_receives_nothing_until_it_is_back() -> None:
    changes = [Change(0.2, 0, rank=EXCLUDED), Change(0.6, 0)]
    result = run("adaptive", changes=changes)
    away = [request for request in result.requests if 0.2 < request.sent / result.seconds < 0.6]
    assert away
    assert all(request.view is not result.views[0] for request in away)
    assert any(request.view is result.views[0] for request in result.requests if request.sent > 0.6 * result.seconds)


def test_strangers_make_a_server_slower() -> None:
    def seconds(strangers: float) -> float:
        result = run("least_inflight", requests=600, strangers=strangers)
        return percentile(
            sorted(request.ended - request.sent for request in result.requests if request.view is result.views[0]), 0.5
        )

    assert seconds(0.6) > 1.3 * seconds(0.0)


def test_the_oracle_knows_when_a_request_ends() -> None:
    shape = BY_NAME["F2"].shapes[0]
    server = Server(shape, random=lambda: 0.5)
    job = Job(300, 100)
    own, others = expected_finish(server, job, 0.0)
    due = server.submit(job, 0.0)
    while due is not None:
        now = due
        server.advance(now)
        due = server.begin(now)
    assert own == pytest.approx(now + 0.001, rel=0.05)
    assert others == 0.0


# Figures


def figures(per_token: float) -> Figures:
    return Figures(per_token, 1.0, 0.5, 0.0, 0.5, 0.0)


def test_ratios_are_to_the_best_of_the_cell() -> None:
    cells = {Cell("F1", 0.3): {"adaptive": figures(0.2), "oracle": figures(0.1)},
             Cell("F1", 0.6): {"adaptive": figures(0.1), "oracle": figures(0.3)}}  # fmt: skip
    assert simulate.ratios(cells, "adaptive") == [2.0, 1.0]
    assert "| F1 home, 0.3 | 100.0 | 2.00 | 1.00 |" in simulate.report(cells, ["adaptive", "oracle"])
    assert simulate.misses(cells) == [
        "adaptive: geometric mean 1.41, more than 1.15", "adaptive: worst cell 2.00, more than 1.5",
    ]  # fmt: skip


def test_within_the_bounds_nothing_is_missed() -> None:
    assert simulate.misses({Cell("F1", 0.3): {"adaptive": figures(0.11), "oracle": figures(0.1)}}) == []


def test_a_comparison_has_every_cell_and_policy() -> None:
    cells = simulate.compare(["F1"], [0.3], ["least_inflight", "weighted_least"], 100, [1], 1)
    assert {cell: set(by_policy) for cell, by_policy in cells.items()} == {
        Cell("F1", 0.3): {"least_inflight", "weighted_least"}
    }
