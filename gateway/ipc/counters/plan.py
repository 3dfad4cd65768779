"""Limits over all gateway processes: requests in flight, and requests and tokens a minute.

A limit is taken first and checked then. A process claims: it counts the request in its own place. It passes a memory
barrier, and adds up the places of all rows. If a sum is too high, it gives back its claim. Barriers have one order, and
the process that passes the last one sees all claims that stand. So the processes together never exceed a limit.

The last minute is not added up for each request. Once in the time of a cell, a process adds up the cells of all rows,
and subtracts the sums of everything that was ever counted. Until the next time it adds these sums as they are then, and
the claims. A request is counted in its cell, then in the sum, and then the claim ends. A reader loads claims before
sums, and sums before cells. So a request may be counted twice for a moment, but it is never missed. Tokens that
are given back lower their cell only; others notice this when they add up the cells again.

Processes also publish for which subjects their requests wait, so that others let one go first that has waited longer
(gateway.ipc.counters.other_waits). Otherwise the process whose requests end would use each free place at once.

The tokens of a request are reserved when it is taken, and corrected when it is settled.
"""

import struct
from collections.abc import Sequence
from operator import itemgetter

from msgspec import Struct

from gateway.ipc.counters.counter_file import (
    CELL_SECONDS,
    CHANGES,
    IN_FLIGHT,
    MAX_REQUESTS_IN_CELL,
    MAX_TOKENS_IN_CELL,
    WAITING,
    CounterFile,
)
from gateway.ipc.counters.own_place import OwnPlace
from gateway.ipc.counters.places import NoPlace, OwnPlaces
from gateway.ipc.counters.subject import Subject
from gateway.ipc.live_page import memory_barrier

CONCURRENCY, REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE = "concurrency", "requests", "tokens"  # names of limits

TAKE_ATTEMPTS = 3  # to take the last of a limit, while other processes try the same
PAUSE = 20  # barriers that a process waits before it tries again, for each row before its own
ENDLESS = 1 << 62  # in place of a limit that there is not

# From IN_FLIGHT on: requests in flight, the claim, then the requests and tokens that were ever counted. Each word is
# loaded at once, one after the other.
load_counts = struct.Struct("4Q").unpack_from


class Allowance:
    """The limits of one subject, over all processes; None is no limit."""

    __slots__ = ("concurrency", "counted", "kept", "requests", "tokens")

    def __init__(
        self,
        *,
        concurrency: int | None = None,
        requests: int | None = None,
        tokens: int | None = None,
        kept: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        """`concurrency` limits requests in flight, `requests` and `tokens` those of any 60 seconds.

        `kept`: the part of each that is kept from requests that give way.
        """
        self.kept = kept
        self.concurrency = concurrency
        self.requests = requests
        self.tokens = tokens
        self.counted = requests is not None or tokens is not None  # in cells


class Charge(Struct, gc=False, eq=False):
    """A request that was taken from limits. It ends once, by `settle` or `cancel`; later calls do nothing."""

    plan: "Plan | None"  # None: it has ended
    number: int  # of the cell in which the request and its tokens were counted
    tokens: int
    left: list[int]  # as of `Plan.left`, once this request was taken

    def settle(self, tokens: int = 0) -> None:
        """End the request, which has used so many tokens."""
        plan, self.plan = self.plan, None
        if plan is not None:
            plan.leave(self.number, 0, self.tokens - tokens)

    def cancel(self) -> None:
        """End the request as if it had never been taken, because it reached no endpoint."""
        plan, self.plan = self.plan, None
        if plan is not None:
            plan.leave(self.number, 1, self.tokens)


class Excess:
    """The limit that a request would exceed."""

    __slots__ = ("limit", "subject")

    def __init__(self, subject: Subject, limit: str) -> None:
        self.subject = subject
        self.limit = limit


class Plan:
    """The limits that are taken together for a request, laid out so that taking them costs little.

    Once in the time of a cell, and when a subject gets a place in a row, it finds out which words to load, and which
    sums of them are too high.
    """

    __slots__ = (
        "_checks",
        "_counted",
        "_demands",
        "_given_up",
        "_halves",
        "_load_stamp",
        "_own",
        "_own_places",
        "_pause",
        "_shorts",
        "_stamp",
        "_until",
        "_words",
        "clock",
        "elsewhere",
        "file",
        "number",
    )

    def __init__(
        self, file: CounterFile, row: int, own_places: OwnPlaces, demands: Sequence[tuple[Subject, Allowance]]
    ) -> None:
        """`demands`: different subjects with their limits. `row`, `own_places`: the own row, and its places."""
        self.file = file
        self._words, self._halves, self._shorts = file.words, file.halves, file.shorts
        self.clock = file.clock
        self._pause = PAUSE * row
        self._own_places = own_places
        self._given_up = 0  # OwnPlaces.given_up when this process last made sure that the subjects have their places
        self._demands = demands
        # Where other processes publish that requests wait, and for which subject.
        self.elsewhere: list[tuple[int, Subject]] = []
        self.number = 0  # of the present cell
        self._until = 0.0  # time at which it ends
        self._own: list[OwnPlace] = []  # of all subjects
        self._counted: list[OwnPlace] = []  # of those that have a limit a minute
        self._load_stamp = itemgetter(CHANGES, CHANGES)
        self._stamp: tuple[int, ...] = ()  # while these words are so, all places are known
        # For each subject: the bytes at which its counts begin in other rows; and its limits, less `Subject.base_…`.
        self._checks: list[tuple[Subject, list[int], int, int, int]] = []

    def take(self, tokens: int = 0) -> Charge | Excess:
        """Take one request, with a reservation of tokens, from the limits of all subjects, or from none.

        Of several processes that try to take the last one at once, all may give back their claims. Then the one of the
        first row tries again first. Raises NoPlace if the request cannot be counted.
        """
        tokens = min(tokens, MAX_TOKENS_IN_CELL)
        excess = None
        for _ in range(TAKE_ATTEMPTS):
            self._claim(tokens)
            memory_barrier()
            left: list[int] = []
            if (excess := self._excess(left)) is None:
                self._count(tokens)
                return Charge(self, self.number, tokens, left)
            self._undo()
            if self._excess([], 1, tokens) is not None:
                break
            for _ in range(self._pause):
                memory_barrier()
        assert excess is not None
        return excess

    def look(self, tokens: int = 0) -> Excess | None:
        """Return the limit that another request with so many tokens would exceed now. Nothing is taken.

        Raises NoPlace.
        """
        self._follow()
        return self._excess([], 1, tokens)

    def with_room(self) -> dict[Subject, bool]:
        """Return the subjects that have room for a request; True: one that gives way may use it. Raises NoPlace."""
        left, subjects = self.left(), {}
        for number, (subject, allowance) in enumerate(self._demands):
            rest = left[3 * number : 3 * number + 3]
            if min(rest):
                subjects[subject] = all(have > kept for have, kept in zip(rest, allowance.kept, strict=True))
        return subjects

    def left(self) -> list[int]:
        """Return the unused part of each limit now, at least 0. Raises NoPlace.

        Each subject has three: of concurrency, requests and tokens. ENDLESS is about that of a limit that there is not.
        """
        self._follow()
        left: list[int] = []
        self._excess(left, stops=False)
        return [max(0, one) for one in left]

    def leave(self, number: int, requests: int, tokens: int) -> None:
        """End a request, and give back what it was counted for and has not used. Negative tokens: it used more."""
        # The places are as when it was taken: the subjects keep them meanwhile.
        if tokens < 0:
            for own in self._counted:
                own.add_tokens(self.file.cell_number(), -tokens)
        elif tokens or requests:
            for own in self._counted:
                own.give_back(number, requests, tokens)
        for own in self._own:
            self._words[own.in_flight_at] = own.in_flight = own.in_flight - 1

    def _claim(self, tokens: int) -> None:
        """Count a request in flight, and claim its part of the minute. Both are to be checked. Raises NoPlace."""
        words = self._words
        self._follow()
        for own in self._own:
            words[own.in_flight_at] = own.in_flight = own.in_flight + 1
        for own in self._counted:
            words[own.claim_at] = own.claim = tokens + 1

    def _count(self, tokens: int) -> None:
        """Count the request of a claim that was checked, and end the claim. Raises NoPlace."""
        words, shorts, halves = self._words, self._shorts, self._halves
        try:
            for own in self._counted:
                shorts[own.request_cell_at] = own.cell_requests = own.cell_requests + 1
                words[own.requests_at] = own.requests = own.requests + 1
                halves[own.token_cell_at] = own.cell_tokens = own.cell_tokens + tokens
                words[own.tokens_at] = own.tokens = own.tokens + tokens
                words[own.claim_at] = own.claim = 0
        except ValueError:
            self._undo()
            raise NoPlace(f"a cell has {MAX_REQUESTS_IN_CELL:,} requests or {MAX_TOKENS_IN_CELL:,} tokens") from None

    def _undo(self) -> None:
        words = self._words
        for own in self._counted:
            words[own.claim_at] = own.claim = 0
        for own in self._own:
            words[own.in_flight_at] = own.in_flight = own.in_flight - 1

    def _excess(self, left: list[int], requests: int = 0, tokens: int = 0, *, stops: bool = True) -> Excess | None:
        """Return the first limit that is exceeded, with so many more requests and tokens than now.

        The unused part of the limits of each subject before it is added to `left`; of all subjects, if it does not stop
        there.
        """
        words = self._words
        while self._load_stamp(words) != self._stamp:
            self._look()
        for (subject, places, in_flight, of_requests, of_tokens), own in zip(self._checks, self._own, strict=True):
            in_flight -= own.in_flight
            of_requests -= own.requests + (own.claim > 0)
            of_tokens -= own.tokens + (own.claim and own.claim - 1)
            for place in places:
                flying, claim, counted_requests, counted_tokens = load_counts(words, place)
                in_flight -= flying
                of_requests -= counted_requests + (claim > 0)
                of_tokens -= counted_tokens + (claim and claim - 1)
            if stops:
                if in_flight < requests:
                    return Excess(subject, CONCURRENCY)
                if of_requests < requests:
                    return Excess(subject, REQUESTS_PER_MINUTE)
                if of_tokens < tokens:
                    return Excess(subject, TOKENS_PER_MINUTE)
            left += (in_flight, of_requests, of_tokens)
        return None

    def _follow(self) -> None:
        """Find the own places again if they are out of date, without a claim. Raises NoPlace."""
        now = self.clock()
        if now >= self._until or (self._given_up != self._own_places.given_up and self._has_lost_a_place()):
            self._renew(now)

    def _has_lost_a_place(self) -> bool:
        """Return True if one of the subjects has lost its own place, after some subject has.

        It may have another one by now, which a plan with the same subject has found.
        """
        tags = [subject.tag for subject, _ in self._demands]
        if any(self._words[own.place] != tag for own, tag in zip(self._own, tags, strict=True)):
            return True
        self._given_up = self._own_places.given_up
        return False

    def _renew(self, now: float) -> None:
        """Follow the clock: find the own places, or get them, and begin their cells."""
        self.number = number = int(now / CELL_SECONDS)
        tags = [subject.tag for subject, _ in self._demands]
        self._own = [subject.find_own_place(number, tags) for subject, _ in self._demands]
        self._given_up = self._own_places.given_up
        self._counted = [own for own, (_, allowance) in zip(self._own, self._demands, strict=True) if allowance.counted]
        for own in self._counted:
            own.begin_cell(number)
        self._until = (number + 1) * CELL_SECONDS
        self._stamp = ()

    def _look(self) -> None:
        """Find the places of all rows, and the rest of the limits beside the counts that are added up each time."""
        indexes: list[int] = []
        stamp: list[int] = []
        self._checks = []
        for subject, allowance in self._demands:
            subject.look(self.number)
            first = 1 if indexes else 0  # that of changes of rows is the same for all
            indexes += subject.stamp_at[first:]
            stamp += subject.stamp[first:]
            concurrency, requests, tokens = allowance.concurrency, allowance.requests, allowance.tokens
            self._checks.append(
                (
                    subject,
                    [8 * (place + IN_FLIGHT) for place in subject.others],
                    ENDLESS if concurrency is None else concurrency,
                    ENDLESS if requests is None else requests - subject.base_requests,
                    ENDLESS if tokens is None else tokens - subject.base_tokens,
                )
            )
        if not indexes:  # without a subject nothing changes, but any word will do
            indexes, stamp = [CHANGES], [self._words[CHANGES]]
        if len(indexes) == 1:  # of one word, an itemgetter returns no tuple
            indexes, stamp = indexes * 2, stamp * 2
        self._load_stamp, self._stamp = itemgetter(*indexes), tuple(stamp)
        self.elsewhere = [(place + WAITING, subject) for subject, _ in self._demands for place in subject.others]
