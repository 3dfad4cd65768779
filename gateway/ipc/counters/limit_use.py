"""Use of the limits of one subject, added up over the rows of all processes, for a process that only reads."""

from typing import NamedTuple

from gateway.ipc.counters.counter_file import IN_FLIGHT, CounterFile


class LimitUse(NamedTuple):
    """Requests in flight, and requests and tokens of the last minute."""

    concurrency: int = 0
    requests: int = 0
    tokens: int = 0


def limit_use(file: CounterFile, level: str, subject_id: str) -> LimitUse:
    """Return the present use of a subject's limits. Without limits, it has not been counted."""
    tag, number = file.tag(level, subject_id), file.cell_number()
    in_flight = requests = tokens = 0
    for row in file.counting(number):
        place = file.find(row, tag)
        if place is not None:
            in_flight += file.words[place + IN_FLIGHT]
            more_requests, more_tokens = file.window(place, number)
            requests += more_requests
            tokens += more_tokens
    return LimitUse(in_flight, requests, tokens)
