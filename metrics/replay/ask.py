"""A replay from the database to its answer. Imports nothing of Django: control runs it in a process of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from metrics import sql
from metrics.learning.samples import WINDOW, SpeedSample, unpack_speeds
from metrics.replay.backtest import Backtest, Recording, ReplayRefusal, backtest, record, refusal_of
from metrics.replay.headroom import FIRST_TOKEN_SECONDS, Headroom, headroom
from metrics.replay.history import Past, read_past
from metrics.replay.nodes import KnownEndpoint
from metrics.replay.prediction import (
    Prediction,
    Progress,
    Question,
    changed,
    fleet_refusal,
    no_progress,
    predict,
)
from metrics.replay.run import RunSetting
from metrics.replay.traffic import Group
from metrics.sql import RunSql, Vendor

TESTED, PREDICTED = 0.15, 0.6  # share of the work that is done then


class OfferedEndpoint(msgspec.Struct, frozen=True):
    """An endpoint of the registry, with the model that it offers under each casefolded name."""

    id: str
    name: str
    engine: str
    slots: int | None
    is_enabled: bool
    models: dict[str, str]
    tier: int = 1
    weight: float = 1.0  # of its expected times


class ReplayScope(msgspec.Struct, frozen=True):
    """The recorded time that is replayed, and what matters of the settings."""

    since: datetime
    until: datetime
    successes: bool  # they are in the history
    queue_places: int
    spill_after: float  # seconds


class ReplayQuestion(msgspec.Struct, frozen=True):
    """What is asked: a change, and the time to first token that must hold with more users."""

    change: Question
    seconds: float = FIRST_TOKEN_SECONDS  # p95


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a question. Without a `prediction` there is a `refusal`."""

    recorded_policy: str
    requests: int  # that are replayed
    sessions: int
    is_cut: bool  # there were more requests; these are the latest
    is_guessed: bool  # conversations are not recorded, so they were guessed
    failed: int  # requests that ended without an answer, and are left out
    names: Mapping[str, str]  # of endpoints, by id
    tested: Backtest | None = None
    prediction: Prediction | None = None
    headroom: Headroom | None = None  # after the change
    refusal: ReplayRefusal | None = None


def read_recording(run: RunSql, vendor: Vendor, scope: ReplayScope, offered: Sequence[OfferedEndpoint]) -> Recording:
    """Read recorded requests and fit their endpoints. Errors of `run` pass."""
    models = {name: model for endpoint in offered for name, model in endpoint.models.items()}
    past = read_past(run, vendor, scope.since, scope.until, models)
    return record(past, _known(past, offered, _windows(run, vendor, past, offered)))


def answer(
    run: RunSql,
    vendor: Vendor,
    scope: ReplayScope,
    offered: Sequence[OfferedEndpoint],
    question: ReplayQuestion,
    progress: Progress = no_progress,
) -> Answer:
    """Answer a question from the history. Errors of `run` pass; raises NotReplayed."""
    recording = read_recording(run, vendor, scope, offered)
    change = question.change
    nodes = changed(recording.nodes, change)
    past = recording.past
    answer_so_far = Answer(
        recording.policy,
        sum(len(session.turns) for session in recording.parts),
        len(recording.parts),
        past.is_cut,
        recording.is_guessed,
        past.failed,
        {endpoint.id: endpoint.name for endpoint in offered} | {node.id: node.name for node in nodes},
    )
    refusal = refusal_of(recording, change.policy, successes=scope.successes) or fleet_refusal(recording.parts, nodes)
    if refusal is not None:
        return replace(answer_so_far, refusal=refusal)
    setting = RunSetting(
        recording.nodes, recording.lengths, recording.policy, queue=scope.queue_places, spill_after=scope.spill_after
    )
    tested = backtest(recording, setting)
    answer_so_far = replace(answer_so_far, tested=tested, refusal=tested.refusal)
    if answer_so_far.refusal is not None:
        return answer_so_far
    progress(TESTED)
    other = replace(tested.setting, policy=change.policy, nodes=nodes)
    predicted = predict(recording, tested, other, lambda share: progress(TESTED + share * (PREDICTED - TESTED)))
    carries = headroom(
        recording, other, question.seconds, tested.error, lambda share: progress(PREDICTED + share * (1 - PREDICTED))
    )
    return replace(answer_so_far, prediction=predicted, headroom=carries)


def _known(
    past: Past, offered: Sequence[OfferedEndpoint], windows: Mapping[str, Mapping[Group, Sequence[SpeedSample]]]
) -> list[KnownEndpoint]:
    """Return the endpoints of the recorded requests, and the enabled ones that have one of their models."""
    used = {request.endpoint for request in past.requests}
    models = {request.model for request in past.requests}
    known = [
        KnownEndpoint(
            endpoint.id,
            endpoint.name,
            endpoint.engine,
            endpoint.slots,
            endpoint.tier,
            endpoint.weight,
            windows.get(endpoint.id, {}),
        )
        for endpoint in offered
        if endpoint.id in used or (endpoint.is_enabled and not models.isdisjoint(endpoint.models.values()))
    ]
    deleted = used - {endpoint.id for endpoint in offered}
    return known + [KnownEndpoint(endpoint_id, endpoint_id, "") for endpoint_id in sorted(deleted)]


def _windows(
    run: RunSql, vendor: Vendor, past: Past, offered: Sequence[OfferedEndpoint]
) -> dict[str, dict[Group, list[SpeedSample]]]:
    """Return what routing has learned of the models of these requests, also before them. One query."""
    models = {request.model for request in past.requests}
    names = sorted({name for endpoint in offered for name, model in endpoint.models.items() if model in models})
    source, values = sql.listed(names, vendor)
    statement = sql.select(
        ("endpoint_id", "model", "kind", "samples"),
        "learning_speeds",
        where=f"lower(model) IN ({sql.select('value', source)})",
    )
    by_id = {endpoint.id: endpoint.models for endpoint in offered}
    windows: dict[str, dict[Group, list[SpeedSample]]] = {}
    for endpoint_id, name, kind, packed in run(statement, values):
        model = by_id.get(str(endpoint_id), {}).get(str(name).casefold())
        if model is None:
            continue
        of = windows.setdefault(str(endpoint_id), {})
        merged = sorted({*of.get((model, kind), ()), *unpack_speeds(bytes(packed))})
        of[model, kind] = merged[-WINDOW:]
    return windows
