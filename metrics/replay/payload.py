"""JSON of an answer, for the API, the page and the command line. Imports nothing of Django."""

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from endpoints.openapi.payload_fields import Choices, Help
from metrics.replay.ask import Answer
from metrics.replay.backtest import REFUSALS, ReplayRefusal
from metrics.replay.figures import Quantiles, RunFigures
from metrics.replay.headroom import LIMITS, Headroom
from metrics.replay.history import MOST_REQUESTS
from metrics.replay.prediction import Gain
from metrics.replay.run import POLICIES
from metrics.replay.sentences import sentences


class QuantilesPayload(TypedDict):
    p50_ms: float
    p95_ms: float
    p99_ms: float


class KeyTimesPayload(TypedDict):
    api_key_id: str | None
    per_token: QuantilesPayload


class SharePayload(TypedDict):
    endpoint_id: Annotated[str, Help("With `+1` and so on for one that was added.")]
    endpoint_name: str
    share: Annotated[float, Help("Of the requests.")]


class ReplayRunPayload(TypedDict):
    requests: int
    per_token: Annotated[QuantilesPayload | None, Help("Time of a request per output token.")]
    first_token: Annotated[QuantilesPayload | None, Help("Time to first token, of streams.")]
    queue: Annotated[QuantilesPayload, Help("Wait in the queue.")]
    keys: list[KeyTimesPayload]
    endpoints: list[SharePayload]


class GainPayload(TypedDict):
    """How many times shorter the 95th percentile would be: the interval, and its middle. Below 1 it would be longer."""

    low: float
    middle: float
    high: float


class HeadroomPayload(TypedDict):
    """How many times the users of today the changed fleet would carry."""

    low: float
    high: float
    first_token_ms: Annotated[float, Help("95th percentile of the time to first token that must hold.")]
    limit: Annotated[str | None, Choices(LIMITS), Help("What fails first; null if even 16 times the users fit.")]
    endpoint_id: Annotated[str | None, Help("Where most requests wait then.")]
    endpoint_name: str | None


class ReplayRefusalPayload(TypedDict):
    code: Annotated[str, Choices(REFUSALS)]
    values: Annotated[Mapping[str, Any], Help("Numbers and names of the sentence.")]


class ReplayAnswerPayload(TypedDict):
    """What a change would do. Without a prediction there is a `refusal`."""

    sentences: Annotated[list[str], Help("The result in English.")]
    recorded_policy: Annotated[str, Choices(POLICIES)]
    requests: Annotated[int, Help(f"That were replayed: at most the latest {MOST_REQUESTS:,}.")]
    sessions: int
    is_cut: Annotated[bool, Help("There were more requests.")]
    conversations_guessed: Annotated[
        bool, Help("No conversation is recorded in this time, so they were guessed by key and length of the prompt.")
    ]
    failed_requests: Annotated[int, Help("These are left out.")]
    refusal: ReplayRefusalPayload | None
    error: Annotated[
        float | None, Help("Of the replayed 95th percentile per token: 0.1 is 10 % more than what happened.")
    ]
    speed_factor: Annotated[
        float | None, Help("On all times, so that the replay agrees in the middle with what happened.")
    ]
    happened: ReplayRunPayload | None
    replayed: Annotated[ReplayRunPayload | None, Help("The recorded balancer and fleet.")]
    predicted: Annotated[ReplayRunPayload | None, Help("The change.")]
    per_token_gain: GainPayload | None
    first_token_gain: GainPayload | None
    headroom: HeadroomPayload | None


def answer_payload(answer: Answer) -> ReplayAnswerPayload:
    tested, prediction = answer.tested, answer.prediction
    return {
        "sentences": sentences(answer),
        "recorded_policy": answer.recorded_policy,
        "requests": answer.requests,
        "sessions": answer.sessions,
        "is_cut": answer.is_cut,
        "conversations_guessed": answer.is_guessed,
        "failed_requests": answer.failed,
        "refusal": _refusal(answer.refusal) if answer.refusal else None,
        "error": tested.error if tested else None,
        "speed_factor": tested.setting.speed if tested else None,
        "happened": _run(tested.happened, answer.names) if tested else None,
        "replayed": _run(tested.replayed, answer.names) if tested else None,
        "predicted": _run(prediction.figures, answer.names) if prediction else None,
        "per_token_gain": _gain(prediction.gain) if prediction else None,
        "first_token_gain": _gain(prediction.first_gain) if prediction else None,
        "headroom": _headroom(answer.headroom, answer.names) if answer.headroom else None,
    }


def _refusal(refusal: ReplayRefusal) -> ReplayRefusalPayload:
    return {"code": refusal.code, "values": refusal.values}


def _run(figures: RunFigures, names: Mapping[str, str]) -> ReplayRunPayload:
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


def _headroom(headroom: Headroom, names: Mapping[str, str]) -> HeadroomPayload:
    return {
        "low": headroom.low,
        "high": headroom.high,
        "first_token_ms": 1000 * headroom.seconds,
        "limit": headroom.limit or None,
        "endpoint_id": headroom.endpoint or None,
        "endpoint_name": names.get(headroom.endpoint, headroom.endpoint) or None,
    }
