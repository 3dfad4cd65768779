"""What an attempt asks of its endpoint, and what the endpoint does for others meanwhile, for the record.

Routing learns from it (gateway.ipc.record.Work). Integrals and sums are differences between the end of an attempt and
its start, over all processes.
"""

from gateway.inference.attempt import Attempt, AttemptStart
from gateway.inference.request import InferenceRequest
from gateway.ipc.live_page import MOMENTS_PER_SECOND, WORD, moment
from gateway.ipc.record import Work
from gateway.routing.adaptive import Demand, expected_seconds
from gateway.routing.routes import Routes

MICROSECONDS = 1_000_000 // MOMENTS_PER_SECOND  # of one moment
_MOST = 1 << 31  # a greater difference is one below 0: the cells of a process that has ended were cleared


def begin_work(request: InferenceRequest, attempt: Attempt, routes: Routes, demand: Demand) -> None:
    """Count the prompt tokens as sent, before another request is chosen an endpoint. The endpoint counts the request
    as in flight already.
    """
    learned, endpoint = request.services.learned, attempt.endpoint
    name = endpoint.id
    prefix = int(demand.kept.get(name, 0.0))
    own = attempt.pending = max(1, int(demand.prompt) - prefix)
    endpoint.send_prompt(own)
    in_flight, pending, read, shared = learned.totals(endpoint, moment())
    pending = max(0, pending - own)
    row = learned.routes(routes, request.api.kind.name).by_id[name]
    expected = expected_seconds(row, demand, in_flight - 1, pending)
    attempt.start = AttemptStart(
        int(demand.prompt), int(demand.output), prefix, int(expected * 1e6), pending, read, shared, in_flight == 1
    )


def work_of(request: InferenceRequest, attempt: Attempt, now: float) -> Work | None:
    """Return the work of an attempt that ends at `now` (time.monotonic()) and is still counted as in flight."""
    start = attempt.start
    if start is None:
        return None
    prompt, output, prefix, expected_us, pending, read_before, shared_before, was_idle = start
    _, _, read, shared = request.services.learned.totals(attempt.endpoint, int(now * MOMENTS_PER_SECOND) & WORD)
    return Work(
        prompt,
        output,
        prefix,
        0,  # prefix_age
        expected_us,
        pending,
        _difference(read, read_before),
        _difference(shared, shared_before) * MICROSECONDS,
        was_idle,
    )


def _difference(after: int, before: int) -> int:
    """Return the difference of two counts modulo 2**32, at least 0."""
    difference = after - before & WORD
    return difference if difference <= _MOST else 0
