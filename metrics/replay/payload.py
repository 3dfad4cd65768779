"""JSON of an answer, for the API, the page and the command line. Imports nothing of Django."""

from collections.abc import Mapping
from typing import TypedDict

from metrics.replay.ask import Answer
from metrics.replay.backtest import ReplayRefusal
from metrics.replay.figures import Quantiles, RunFigures
from metrics.replay.headroom import Headroom
from metrics.replay.prediction import Gain
from metrics.replay.sentences import sentences


class QuantilesPayload(TypedDict):
    p50_ms: float
    p95_ms: float
    p99_ms: float


class KeyTimesPayload(TypedDict):
    api_key_id: str | None
    per_token: QuantilesPayload


class SharePayload(TypedDict):
    endpoint_id: str
    endpoint_name: str
    share: float


class RunPayload(TypedDict):
    requests: int
    per_token: QuantilesPayload | None
    first_token: QuantilesPayload | None
    queue: QuantilesPayload
    keys: list[KeyTimesPayload]
    endpoints: list[SharePayload]


class GainPayload(TypedDict):
    low: float
    middle: float
    high: float


class HeadroomPayload(TypedDict):
    low: float
    high: float
    first_token_ms: float
    limit: str | None
    endpoint_id: str | None
    endpoint_name: str | None


class RefusalPayload(TypedDict):
    code: str
    values: Mapping[str, str | int]


class AnswerPayload(TypedDict):
    sentences: list[str]
    recorded_policy: str
    requests: int
    sessions: int
    is_cut: bool
    conversations_guessed: bool
    failed_requests: int
    refusal: RefusalPayload | None
    error: float | None
    speed_factor: float | None
    happened: RunPayload | None
    replayed: RunPayload | None
    predicted: RunPayload | None
    per_token_gain: GainPayload | None
    first_token_gain: GainPayload | None
    headroom: HeadroomPayload | None


def answer_payload(found: Answer) -> AnswerPayload:
    tested, prediction = found.tested, found.prediction
    return {
        "sentences": sentences(found),
        "recorded_policy": found.recorded_policy,
        "requests": found.requests,
        "sessions": found.sessions,
        "is_cut": found.is_cut,
        "conversations_guessed": found.is_guessed,
        "failed_requests": found.failed,
        "refusal": _refusal(found.refusal) if found.refusal else None,
        "error": tested.error if tested else None,
        "speed_factor": tested.setting.speed if tested else None,
        "happened": _run(tested.happened, found.names) if tested else None,
        "replayed": _run(tested.replayed, found.names) if tested else None,
        "predicted": _run(prediction.figures, found.names) if prediction else None,
        "per_token_gain": _gain(prediction.gain) if prediction else None,
        "first_token_gain": _gain(prediction.first_gain) if prediction else None,
        "headroom": _headroom(found.headroom, found.names) if found.headroom else None,
    }


def _refusal(refusal: ReplayRefusal) -> RefusalPayload:
    return {"code": refusal.code, "values": refusal.values}


def _run(figures: RunFigures, names: Mapping[str, str]) -> RunPayload:
    return {
        "requests": figures.requests,
        "per_token": _quantiles(figures.per_token),
        "first_token": _quantiles(figures.first),
        "queue": _milliseconds(figures.queued),
        "keys": [
            {"api_key_id": key or None, "per_token": _milliseconds(times)} for key, times in figures.by_key.items()
        ],
        "endpoints": [
            {"endpoint_id": endpoint, "endpoint_name": names.get(endpoint, endpoint), "share": share}
            for endpoint, share in figures.by_endpoint.items()
        ],
    }


def _quantiles(times: Quantiles | None) -> QuantilesPayload | None:
    return None if times is None else _milliseconds(times)


def _milliseconds(times: Quantiles) -> QuantilesPayload:
    return {"p50_ms": 1000 * times.p50, "p95_ms": 1000 * times.p95, "p99_ms": 1000 * times.p99}


def _gain(gain: Gain | None) -> GainPayload | None:
    return None if gain is None else {"low": gain.low, "middle": gain.middle, "high": gain.high}


def _headroom(found: Headroom, names: Mapping[str, str]) -> HeadroomPayload:
    return {
        "low": found.low,
        "high": found.high,
        "first_token_ms": 1000 * found.seconds,
        "limit": found.limit or None,
        "endpoint_id": found.endpoint or None,
        "endpoint_name": names.get(found.endpoint, found.endpoint) or None,
    }
