"""Judges from outside whether a limit was exceeded: by what reached the simulated servers, and by the edits of limits.

A request holds its place from its arrival at a server until the server has sent the response. This is within the time
for which RouterDash counts it, so an excess here is one in truth. All times are those of the machine's monotonic clock.

A bulk request is let in only while all requests together, and it, are within the part for bulk requests. It is judged
with those that were certainly counted when it was let in, and with the other bulk requests: of these, the last one saw
all others. One that has waited for so long that it aged may use the whole.
"""

import heapq
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gateway.base.queue_class import BULK_SECONDS, part_for_bulk
from tests.torture.limits.subjects import CONCURRENCY, REQUESTS, TOKENS, Limits, Subject

# A request may reach a server this much later than it was admitted: RouterDash and the servers share few processors.
WAY_SECONDS = 5.0
WINDOW_SECONDS = 60.0
COUNTED_SECONDS = 63.0  # RouterDash counts whole cells, which cover a minute
NO_LIMIT = 1 << 60
FOR_BULK = "for bulk requests"


@dataclass(slots=True)
class Visit:
    """A request that reached a server: its first arrival, and when it left the last server."""

    key: int
    arrived: float
    left: float
    tokens: int  # that RouterDash was told, 0 if the response broke off
    subjects: tuple[Subject, ...]
    sent: float = 0.0  # by the client
    bulk: bool = False

    @property
    def admitted(self) -> float:
        """The earliest time at which it was admitted."""
        return max(self.sent, self.arrived - WAY_SECONDS)

    @property
    def uses_part(self) -> bool:
        """True if it was let in as a bulk request for certain: one that has waited for long may have aged."""
        return self.bulk and self.arrived - self.sent < BULK_SECONDS


@dataclass(slots=True)
class _Value:
    limits: Limits
    since: float  # when the edit began
    until: float = float("inf")  # when a later edit was in effect for certain


@dataclass(slots=True)
class History:
    """The limits of each subject over time. While an edit is under way, the old limits and the new ones may be used."""

    _values: dict[Subject, list[_Value]] = field(default_factory=lambda: defaultdict(list))

    def begin(self, subject: Subject, limits: Limits, moment: float) -> None:
        """Note that an edit begins. Until `end` both its limits and the earlier ones are possible."""
        self._values[subject].append(_Value(limits, moment))

    def end(self, subject: Subject, moment: float) -> None:
        """Note that the last edit is in effect everywhere: no earlier limits are possible any more."""
        for value in self._values[subject][:-1]:
            value.until = min(value.until, moment)

    def most(self, subject: Subject, name: str, visit: Visit) -> int:
        """Return the highest value of a limit by which a request may have been admitted."""
        limits = [
            getattr(value.limits, name)
            for value in self._values[subject]
            if value.since <= visit.arrived and value.until >= visit.admitted
        ]
        return NO_LIMIT if not limits or None in limits else max(limits)

    @property
    def subjects(self) -> list[Subject]:
        return list(self._values)


@dataclass(slots=True)
class Verdict:
    """What was found: differences, and for each limit how often a request arrived that was the last one allowed."""

    wrong: list[str] = field(default_factory=list)
    full: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def note(self, subject: Subject, name: str, count: int, most: int, slack: int = 0, of: str = "allowed") -> None:
        self.full[f"{subject[0]}:{name}{'' if of == 'allowed' else f', {of}'}"] += count >= most
        if count > most + slack:
            self.wrong.append(f"{name} of {' '.join(subject)}: {count}, but {most} are {of}, at most {slack} more")


def judge(visits: Iterable[Visit], history: History, *, excess: int) -> Verdict:
    """Return each excess of a limit. `excess`: tokens that a request may use beyond its reservation."""
    verdict = Verdict()
    by_subject: dict[Subject, list[Visit]] = defaultdict(list)
    for visit in sorted(visits, key=lambda request: request.arrived):
        for subject in visit.subjects:
            by_subject[subject].append(visit)
    for subject in history.subjects:
        _judge(subject, by_subject[subject], history, excess, verdict)
    return verdict


def _judge(subject: Subject, visits: list[Visit], history: History, excess: int, verdict: Verdict) -> None:
    leaves: list[float] = []
    arrivals = [visit.arrived for visit in visits]
    for number, visit in enumerate(visits):
        arrived = visit.arrived
        while leaves and leaves[0] <= arrived:
            heapq.heappop(leaves)
        heapq.heappush(leaves, visit.left)
        if (most := history.most(subject, CONCURRENCY, visit)) < NO_LIMIT:
            verdict.note(subject, CONCURRENCY, len(leaves), most)
        begin = arrived - WINDOW_SECONDS  # all that are counted were admitted after it, whenever they have arrived
        recent = [request for request in visits[bisect_right(arrivals, begin) : number + 1] if request.admitted > begin]
        if (most := history.most(subject, REQUESTS, visit)) < NO_LIMIT:
            verdict.note(subject, REQUESTS, len(recent), most)
        if (most := history.most(subject, TOKENS, visit)) < NO_LIMIT:
            used = sum(request.tokens for request in recent if request.left <= arrived or request is visit)
            verdict.note(subject, TOKENS, used, most, excess * len(recent))
        if visit.uses_part:
            before = visits[bisect_right(arrivals, begin) : number]
            _judge_bulk(subject, visit, before, history, excess, verdict)


def _judge_bulk(
    subject: Subject, visit: Visit, before: list[Visit], history: History, excess: int, verdict: Verdict
) -> None:
    """Judge a bulk request by those that reached a server before it."""
    # With each, those that were counted when the bulk request was let in, whenever exactly that was.
    counted = [request for request in before if request.arrived <= visit.admitted or request.uses_part]
    if (most := history.most(subject, CONCURRENCY, visit)) < NO_LIMIT:
        running = sum(request.left > visit.arrived for request in counted)
        verdict.note(subject, CONCURRENCY, running + 1, part_for_bulk(most), of=FOR_BULK)
    recent = [request for request in counted if request.admitted > visit.arrived - WINDOW_SECONDS]
    if (most := history.most(subject, REQUESTS, visit)) < NO_LIMIT:
        verdict.note(subject, REQUESTS, len(recent) + 1, part_for_bulk(most), of=FOR_BULK)
    if (most := history.most(subject, TOKENS, visit)) < NO_LIMIT:
        used = visit.tokens + sum(request.tokens for request in recent if request.left <= visit.admitted)
        verdict.note(subject, TOKENS, used, part_for_bulk(most), excess * (len(recent) + 1), of=FOR_BULK)


def least_counted(
    refused: Iterable[tuple[float, float]], visits: Sequence[Visit], broken: Sequence[tuple[float, float]]
) -> float:
    """Return the fewest requests that a limit a minute can have counted when it refused one; infinite: it refused none.

    `refused`: when these were sent, and when their refusals arrived. `broken`: the same of requests that may have been
    counted, whether they reached a server or not.
    """
    fewest = float("inf")
    for sent, ended in refused:
        since = sent - COUNTED_SECONDS
        counted = [visit for visit in visits if visit.arrived > since and visit.sent < ended]
        uncertain = [span for span in broken if span[1] > since and span[0] < ended]
        fewest = min(fewest, len(counted) + len(uncertain))
    return fewest
