"""What ran beside each recorded request at its endpoint: samples for the fit, from the times of all requests. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.routing.adaptive import NO_LIMIT
from metrics.learning.samples import UNKNOWN, SpeedSample
from metrics.replay.traffic import PastRequest

_FIRST, _END, _START = range(3)  # at the same moment, in this order
LEAST_SECONDS = 1e-6  # from its start to its end, so that it starts first
# A limit that an endpoint does not tell: so often were as many requests writing as at most, and others waited.
OFTEN, OFTEN_SHARE = 5, 0.02


@dataclass(slots=True)
class Beside:
    """What ran beside a request. Times in seconds."""

    in_flight: int = 0  # when it was sent, without itself
    pending: int = 0  # prompt tokens
    read_meanwhile: int = 0  # prompt tokens
    shared: float = 0.0  # integral of the requests in flight, itself included


def _events(requests: Sequence[PastRequest]) -> list[tuple[float, int, int]]:
    events = []
    for number, request in enumerate(requests):
        ended = max(request.ended, request.sent + LEAST_SECONDS)
        events.append((request.sent, _START, number))
        events.append(
            (min(ended, max(request.first, request.sent + LEAST_SECONDS)) if request.first else ended, _FIRST, number)
        )
        events.append((ended, _END, number))
    return sorted(events)


def beside(requests: Sequence[PastRequest], unread: Sequence[int], slots: int = NO_LIMIT) -> list[Beside]:
    """Return what ran beside each request of one endpoint. `unread`: prompt tokens that each had read there.

    No more than `slots` requests count as in flight: the others wait and slow nothing down.
    """
    surroundings = [Beside() for _ in requests]
    in_flight = pending = read = 0
    integral = last = 0.0
    for moment, event, number in _events(requests):
        integral += min(in_flight, slots) * (moment - last)
        last = moment
        around = surroundings[number]
        if event == _START:
            around.in_flight, around.pending = in_flight, pending
            in_flight += 1
            pending += unread[number]
            read += unread[number]
            around.shared, around.read_meanwhile = -integral, -read
        elif event == _FIRST:
            pending -= unread[number]
        else:
            in_flight -= 1
            around.shared += integral
            around.read_meanwhile += read
    return surroundings


def most_in_flight(requests: Sequence[PastRequest]) -> int:
    """Return how many requests of one endpoint were in flight at once."""
    return max((around.in_flight + 1 for around in beside(requests, [0] * len(requests))), default=0)


def seen_slots(requests: Sequence[PastRequest]) -> int:
    """Return how many requests an endpoint serves at a time, if its streams show a limit; else NO_LIMIT."""
    in_flight = writing = most = 0
    waits: list[int] = []  # requests in flight that each found
    reached: list[int] = []  # requests that wrote when another began to
    is_writing: set[int] = set()
    for _, event, number in _events(requests):
        if event == _START:
            waits.append(in_flight)
            in_flight += 1
        elif event == _FIRST:
            if requests[number].first:
                is_writing.add(number)
                writing += 1
                most = max(most, writing)
                reached.append(writing)
        else:
            in_flight -= 1
            writing -= number in is_writing
            is_writing.discard(number)
    if len(reached) < 0.9 * len(requests):
        return NO_LIMIT
    enough = max(OFTEN, OFTEN_SHARE * len(requests))
    if sum(count == most for count in reached) >= enough and sum(count >= most for count in waits) >= enough:
        return most
    return NO_LIMIT


def samples(
    requests: Sequence[PastRequest], unread: Sequence[int], prefixes: Sequence[tuple[int, int]], slots: int
) -> list[tuple[SpeedSample, bool]]:
    """Return the sample of each request of one endpoint, and whether it began at once instead of waiting for a slot.

    `prefixes`: tokens that were expected in the prefix cache, and their age.
    """
    speed_samples = []
    for number, (request, by) in enumerate(zip(requests, beside(requests, unread, slots), strict=True)):
        duration = max(1, round((request.ended - request.sent) * 1e6))
        first = UNKNOWN
        if request.first > request.sent and not by.in_flight:
            first = round((request.first - request.sent) * 1e6)
        prefix, age = prefixes[number]
        sample = SpeedSample(
            round(request.ended * 1e6), number, duration, by.pending + unread[number], by.read_meanwhile,
            request.output, round(by.shared * 1e6), first, prefix, age, request.cached, 0,
        )  # fmt: skip
        speed_samples.append((sample, by.in_flight < slots))
    return speed_samples
