"""Explanation of a request: each part of its time, beside what is usual for that endpoint at that load.

The usual times are those of gateway.routing.expected_time, with the parameters that RouterDash has learned by now and
what the attempt recorded of its load: nothing is shown that either of them lacks. With U prompt tokens to read, Q
pending and R read for others meanwhile, O output tokens, and n requests in flight on average, itself included:

    prefill, until the first token:  prefill(Q + U) + token(n)
    decode, the rest of a stream:    (O - 1) * token(n)
    a whole response:                duration(Q + U, O, n)
    stalls:                          read * R

Nobody measures stalls. They are what is usual for R, taken from the time of the stream or the response.

No I/O.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.ipc import record
from gateway.registry.schema import Speeds
from gateway.routing.expected_time import parameters_of
from metrics.queries.requests.payload import AttemptPayload, RequestPayload, WorkPayload

QUEUE, EARLIER, CONNECT, STALLS = "queue", "earlier", "connect", "stalls"
PREFILL, DECODE, RESPONSE = "prefill", "decode", "response"
LEAST_COMPLETIONS = 5  # learned from fewer responses, a time is not called usual
SLOW_RATIO, SLOW_MS = 1.5, 100.0  # a part is slow if it took both more than usual


@dataclass(frozen=True, slots=True)
class ExplainedPart:
    """A part of a request's time. `usual_ms` is None if it is not known."""

    what: str  # QUEUE, EARLIER (attempts), CONNECT, PREFILL, DECODE, RESPONSE or STALLS
    took_ms: float
    usual_ms: float | None = None
    is_estimated: bool = False  # it was not measured

    @property
    def is_slow(self) -> bool:
        if self.usual_ms is None:
            return False
        return self.took_ms > SLOW_RATIO * self.usual_ms and self.took_ms - self.usual_ms > SLOW_MS

    @property
    def ratio(self) -> float | None:
        return self.took_ms / self.usual_ms if self.usual_ms else None


@dataclass(frozen=True, slots=True)
class ConsideredEndpoint:
    """An endpoint that could have got the attempt. Expected time and load are None if not recorded."""

    endpoint_id: str
    endpoint_name: str | None
    expected_ms: int | None  # of the choice
    in_flight: int | None


@dataclass(frozen=True, slots=True)
class RequestExplanation:
    """Explanation of a request's last attempt. Times in ms."""

    parts: tuple[ExplainedPart, ...]
    work: WorkPayload
    took_ms: float  # of the attempt
    expected_ms: float  # before the attempt
    unread_tokens: int  # prompt tokens that were not in the prefix cache
    is_reported: bool  # the endpoint reported `unread_tokens`; else they are expected
    saved_ms: float | None  # expected, by the prefix cache
    completions: int  # responses that the usual times were learned from; 0: there are none
    next_best: ConsideredEndpoint | None

    @property
    def ratio(self) -> float | None:
        return self.took_ms / self.expected_ms if self.expected_ms else None


def candidates(attempt: AttemptPayload) -> list[ConsideredEndpoint]:
    """Return the recorded candidates: by expected time, then by requests in flight."""
    names = {
        candidate["endpoint_id"]: candidate["endpoint_name"] for candidate in (*attempt["costs"], *attempt["scores"])
    }
    times = {cost["endpoint_id"]: cost["cost_ms"] for cost in attempt["costs"]}
    loads = {score["endpoint_id"]: score["in_flight"] for score in attempt["scores"]}
    return [ConsideredEndpoint(key, name, times.get(key), loads.get(key)) for key, name in names.items()]


def explanation(request: RequestPayload, speeds: Speeds | None) -> RequestExplanation | None:
    """Explain a request whose last attempt has recorded its work; None if it has not.

    `speeds`: of the model at the endpoint of that attempt; None if nothing was learned.
    """
    attempt = request["attempts"][-1] if request["attempts"] else None
    if attempt is None or attempt["work"] is None:
        return None
    work = attempt["work"]
    learned = speeds if speeds is not None and speeds.completions >= LEAST_COMPLETIONS else None
    unread, is_reported = _unread(request, work)
    others = [
        candidate
        for candidate in candidates(attempt)
        if candidate.expected_ms is not None and candidate.endpoint_id != attempt["endpoint_id"]
    ]
    return RequestExplanation(
        parts=tuple(_parts(request, attempt, work, learned, unread)),
        work=work,
        took_ms=attempt["duration_ms"],
        expected_ms=work["expected_ms"],
        unread_tokens=unread,
        is_reported=is_reported,
        saved_ms=1000 * learned.read * work["prefix_tokens"] if learned and work["prefix_tokens"] else None,
        completions=learned.completions if learned else 0,
        next_best=others[0] if others else None,
    )


def _unread(request: RequestPayload, work: WorkPayload) -> tuple[int, bool]:
    prompt, cached = request["input_tokens"], request["cached_tokens"]
    if prompt is not None and cached is not None:
        return max(0, prompt - cached), True
    if prompt is None:
        prompt = work["prompt_tokens"]
    return max(0, prompt - work["prefix_tokens"]), False


def _parts(
    request: RequestPayload, attempt: AttemptPayload, work: WorkPayload, speeds: Speeds | None, unread: int
) -> Iterator[ExplainedPart]:
    yield ExplainedPart(QUEUE, request["queue_ms"] or 0.0)
    earlier: Sequence[AttemptPayload] = request["attempts"][:-1]
    if earlier:
        yield ExplainedPart(EARLIER, sum(earlier_attempt["duration_ms"] for earlier_attempt in earlier))
    connect = attempt["connect_ms"]
    if connect is not None:
        yield ExplainedPart(CONNECT, connect)
    start, length, first = attempt["at_ms"], attempt["duration_ms"], request["first_token_ms"]
    output, mean = request["output_tokens"], work["mean_in_flight"]
    answered = attempt["outcome"] == record.OK  # one that broke off has no usual time
    if speeds is None or mean is None or work["is_cold"] or not answered:
        prefill = decode = whole = None
    else:
        of, tokens = parameters_of(speeds), work["pending_tokens"] + unread
        prefill = 1000 * (of.prefill(tokens) + of.token(mean))
        decode = 1000 * (output - 1) * of.token(mean) if output else None
        whole = None if output is None else 1000 * of.duration(tokens, output, mean)
    stalls = 1000 * speeds.read * work["read_tokens"] if speeds else 0.0
    ready = start + (connect or 0.0)
    end = start + length
    if first is not None and ready <= first <= end:
        yield ExplainedPart(PREFILL, first - ready, prefill)
        yield from _beside_stalls(DECODE, end - first, decode, stalls)
    else:
        yield from _beside_stalls(RESPONSE, end - ready, whole, stalls)


def _beside_stalls(what: str, took_ms: float, usual_ms: float | None, stalls_ms: float) -> Iterator[ExplainedPart]:
    """Yield a part without the stalls that are usual in it, and these."""
    stalls = min(stalls_ms, took_ms)
    yield ExplainedPart(what, took_ms - stalls, usual_ms)
    if stalls:
        yield ExplainedPart(STALLS, stalls, stalls_ms, is_estimated=True)
