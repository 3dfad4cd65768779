"""Tokens per second of the models with the most successful requests today. There may be 50,000 models."""

from collections.abc import Iterator
from heapq import nlargest
from itertools import islice

from endpoints.registry import Entry
from metrics.counting.speeds import SpeedKey
from metrics.queries.figures import Moment, speed
from metrics.queries.payloads import SpeedRowPayload

SHOWN = 50


def known(moment: Moment) -> int:
    """Return the number of models at endpoints with a speed or requests of today."""
    speeds = moment.figures.endpoint_speeds
    return sum(len(speeds[entry.id].keys) for entry in moment.entries if entry.id in speeds)


def busiest(moment: Moment) -> list[SpeedRowPayload]:
    """Return the models at endpoints with the most successful requests today, in the order of their names."""
    entries = sorted(moment.entries, key=lambda entry: (entry.name, entry.id))
    return [
        {"endpoint_id": entry.id, "endpoint_name": entry.name, **speed(key, moment)}
        for entry, key in sorted(_busiest(moment, entries), key=lambda pair: (pair[0].name, *pair[1]))
    ]


def _busiest(moment: Moment, entries: list[Entry]) -> list[tuple[Entry, SpeedKey]]:
    """Return the busiest models; of equal ones, the first by name. `entries` are sorted by name."""
    by_id = {entry.id: entry for entry in entries}
    counts = {key: daily.successful for key, daily in moment.figures.today.items() if key[0] in by_id}
    most = nlargest(SHOWN, counts.values())
    last = most[-1] if len(most) == SHOWN else 0
    above = [(by_id[key[0]], key) for key, count in counts.items() if count > last]
    equal = (pair for pair in _by_name(moment, entries) if counts.get(pair[1], 0) == last)
    return above + list(islice(equal, SHOWN - len(above)))


def _by_name(moment: Moment, entries: list[Entry]) -> Iterator[tuple[Entry, SpeedKey]]:
    for entry in entries:
        summary = moment.figures.endpoint_speeds.get(entry.id)
        yield from ((entry, key) for key in (summary.keys if summary else ()))
