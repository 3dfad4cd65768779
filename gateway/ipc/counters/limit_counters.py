"""Limits over all gateway processes: requests in flight, and requests and tokens a minute.

A limit is taken first and checked then. A process claims: it counts the request in its own place. It passes a memory
barrier, and adds up the places of all rows. If a sum is too high, it gives back its claim. Barriers have one order, and
the process that passes the last one sees all claims that stand. So the processes together never exceed a limit.

The last minute is not added up for each request. Once in the time of a cell, a process adds up the cells of all rows,
and subtracts the sums of everything that was ever counted. Until the next time it adds these sums as they are then, and
the claims. A request is counted in its cell, then in the sum, and then the claim ends. A reader loads claims before
sums, and sums before cells. So a request may be counted twice for a moment, but it is never missed. Tokens that
are given back lower their cell only; others notice this when they add up the cells again.

Processes also publish for which subjects their requests wait, so that others let one go first that has waited for long.
Otherwise the process whose requests end would use each free place at once.

The tokens of a request are reserved when it is taken, and corrected when it is settled.
"""

from collections.abc import Sequence
from operator import itemgetter

from gateway.ipc.counters.counter_file import (
    CELL_SECONDS,
    CELLS,
    CHANGES,
    CLAIMED_REQUESTS,
    CLAIMED_TOKENS,
    IN_FLIGHT,
    MAX_REQUESTS_IN_CELL,
    MAX_TOKENS_IN_CELL,
    REQUEST_CELLS,
    REQUESTS,
    TOKEN_CELLS,
    TOKENS,
    WAITING,
    CounterFile,
)
from gateway.ipc.counters.places import NoPlace, OwnPlaces
from gateway.ipc.counters.subject import FRESH, GIVES_WAY, MASK, Subject
from gateway.ipc.live_page import LivePage, Row, memory_barrier

CONCURRENCY, REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE = "concurrency", "requests", "tokens"  # names of limits

TAKE_ATTEMPTS = 3  # to take the last of a limit, while other processes try the same
HEAD_START = 250  # ms that a request may have waited less than one of another process, without letting it go first
PAUSE = 20  # barriers that a process waits before it tries again, for each row before its own


class Allowance:
    """The limits of one subject, over all processes; None is no limit."""

    __slots__ = ("concurrency", "counted", "requests", "tokens")

    def __init__(
        self, *, concurrency: int | None = None, requests: int | None = None, tokens: int | None = None
    ) -> None:
        """`concurrency` limits requests in flight, `requests` and `tokens` those of any 60 seconds."""
        self.concurrency = concurrency
        self.requests = requests
        self.tokens = tokens
        self.counted = requests is not None or tokens is not None  # in cells


def _limits_of(allowance: Allowance) -> tuple[tuple[str, int | None, tuple[int, ...]], ...]:
    """Return the name of each limit, its highest value, and the words of a place that count for it."""
    return (
        (CONCURRENCY, allowance.concurrency, (IN_FLIGHT,)),
        (REQUESTS_PER_MINUTE, allowance.requests, (CLAIMED_REQUESTS, REQUESTS)),
        (TOKENS_PER_MINUTE, allowance.tokens, (CLAIMED_TOKENS, TOKENS)),
    )


class Charge:
    """A request that was taken from limits. It ends once, by `settle` or `cancel`; later calls do nothing."""

    __slots__ = ("_number", "_plan", "_tokens", "left")

    def __init__(self, plan: "Plan", number: int, tokens: int, left: list[int]) -> None:
        """`number` is that of the cell in which the request and its tokens were counted."""
        self._plan: Plan | None = plan
        self._number = number
        self._tokens = tokens
        self.left = left  # of each limit, in the order of `Plan.limits`, once this request was taken

    def settle(self, tokens: int = 0) -> None:
        """End the request, which has used so many tokens."""
        plan, self._plan = self._plan, None
        if plan is not None:
            plan.leave(self._number, 0, self._tokens - tokens)

    def cancel(self) -> None:
        """End the request as if it had never been taken, because it reached no endpoint."""
        plan, self._plan = self._plan, None
        if plan is not None:
            plan.leave(self._number, 1, self._tokens)


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
        "_cells",
        "_checks",
        "_claims",
        "_counted",
        "_demands",
        "_file",
        "_halves",
        "_in_flight",
        "_load",
        "_marks",
        "_number",
        "_pause",
        "_shorts",
        "_stamp",
        "_tags",
        "_until",
        "_words",
        "clock",
        "elsewhere",
    )

    def __init__(self, file: CounterFile, row: int, demands: Sequence[tuple[Subject, Allowance]]) -> None:
        """`demands`: different subjects with their limits. `row`: number of the own row."""
        self._file = file
        self._words, self._halves, self._shorts = file.words, file.halves, file.shorts
        self.clock = file.clock
        self._pause = PAUSE * row
        self._demands = demands
        self._counted = [subject for subject, allowance in demands if allowance.counted]
        # Where other processes publish that requests wait, and for which subject.
        self.elsewhere: list[tuple[int, Subject]] = []
        self._number = 0  # of the present cell
        self._until = 0.0  # time at which it ends
        self._tags: list[tuple[int, int]] = []  # own places, and the tags that they must have
        self._in_flight: list[int] = []  # indexes of words of the own places
        # For each subject that is counted: indexes of the words of a claim; of the requests in the present cell and of
        # all, and of the tokens likewise.
        self._claims: list[tuple[int, int]] = []
        self._cells: list[tuple[int, int, int, int]] = []
        self._load = itemgetter(CHANGES, CHANGES)
        self._stamp: tuple[int, ...] = ()
        self._marks = 1  # number of loaded words that must be as in the stamp
        # Which of the loaded words are added up, from and to; the highest sum; the subject and the name of the limit.
        self._checks: list[tuple[int, int, int, Subject, str]] = []

    def take(self, tokens: int = 0) -> Charge | Excess:
        """Take one request, with a reservation of tokens, from the limits of all subjects, or from none.

        Raises NoPlace if it cannot be counted. Of several processes that try to take the last one at once, all may give
        back their claims. Then the one of the first row tries again first.
        """
        if tokens > MAX_TOKENS_IN_CELL:
            tokens = MAX_TOKENS_IN_CELL
        excess = None
        for _ in range(TAKE_ATTEMPTS):
            self._claim(tokens)
            memory_barrier()
            left: list[int] = []
            excess = self._excess(left)
            if excess is None:
                if self._cells:
                    self._count(tokens)
                return Charge(self, self._number, tokens, left)
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

    def older_wait(self, since: float, *, gives_way: bool = False) -> Subject | None:
        """Return a subject for whose limits a request of another process waits, since long before this time.

        A request that gives way lets all go first that do not, and these never wait for it.
        """
        words = self._words
        for at, subject in self.elsewhere:
            if word := words[at]:
                now = int(self.clock() * 1000)
                earlier = (now - word & MASK) - (now - int(since * 1000))
                if now - (word >> 32) & MASK > FRESH:
                    continue
                if gives_way != bool(word & GIVES_WAY):
                    if gives_way:
                        return subject
                elif earlier > HEAD_START:
                    return subject
        return None

    def limits(self) -> list[tuple[Subject, str]]:
        """Return the subject and the name of each limit, in the order of `Charge.left`."""
        return [
            (subject, limit)
            for subject, allowance in self._demands
            for limit, most, _ in _limits_of(allowance)
            if most is not None
        ]

    def left(self) -> list[int]:
        """Return the unused part of each limit now, at least 0, in the order of `limits`. Raises NoPlace."""
        self._follow()
        left: list[int] = []
        self._excess(left, stops=False)
        return [max(0, one) for one in left]

    def leave(self, number: int, requests: int, tokens: int) -> None:
        """End a request, and give back what it was counted for and has not used. Negative tokens: it used more."""
        if self._cells and (requests or tokens):
            for subject in self._counted:
                if tokens < 0:
                    subject.add_tokens(self._file.cell_number(), -tokens)
                else:
                    subject.give_back(number, requests, tokens)
        for at in self._in_flight:  # the same as when it was taken: the subjects keep their places meanwhile
            self._words[at] -= 1

    def _claim(self, tokens: int) -> None:
        """Count a request in flight, and claim its part of the minute. Both are to be checked. Raises NoPlace."""
        words, now = self._words, self.clock()
        if now >= self._until:
            self._renew(now)
        for place, tag in self._tags:
            if words[place] != tag:
                self._renew(now)
                break
        for at in self._in_flight:
            words[at] += 1
        for claimed_requests, claimed_tokens in self._claims:
            words[claimed_requests] = 1
            words[claimed_tokens] = tokens

    def _count(self, tokens: int) -> None:
        """Count the request of a claim that was checked, and end the claim. Raises NoPlace."""
        words, shorts, halves = self._words, self._shorts, self._halves
        try:
            for request_cell, requests, token_cell, all_tokens in self._cells:
                shorts[request_cell] += 1
                words[requests] += 1
                halves[token_cell] += tokens
                words[all_tokens] += tokens
        except ValueError:
            self._undo()
            raise NoPlace(f"a cell has {MAX_REQUESTS_IN_CELL:,} requests or {MAX_TOKENS_IN_CELL:,} tokens") from None
        for claimed_requests, claimed_tokens in self._claims:
            words[claimed_requests] = 0
            words[claimed_tokens] = 0

    def _undo(self) -> None:
        words = self._words
        for claimed_requests, claimed_tokens in self._claims:
            words[claimed_requests] = 0
            words[claimed_tokens] = 0
        for at in self._in_flight:
            words[at] -= 1

    def _excess(self, left: list[int], requests: int = 0, tokens: int = 0, *, stops: bool = True) -> Excess | None:
        """Return the first limit that is exceeded, with so many more requests and tokens than now.

        The unused part of each limit before it is added to `left`; of all limits, if it does not stop there.
        """
        words = self._words
        found = self._load(words)
        while found[: self._marks] != self._stamp:
            self._look()
            found = self._load(words)
        for begin, end, most, subject, limit in self._checks:
            unused = most - sum(found[begin:end]) - (tokens if limit is TOKENS_PER_MINUTE else requests)
            if unused < 0 and stops:
                return Excess(subject, limit)
            left.append(unused)
        return None

    def _follow(self) -> None:
        """Find the own places again if they are out of date, without a claim. Raises NoPlace."""
        now = self.clock()
        if now >= self._until or any(self._words[place] != tag for place, tag in self._tags):
            self._renew(now)

    def _renew(self, now: float) -> None:
        """Follow the clock: find the own places, or get them, and begin their cells."""
        self._number = number = int(now / CELL_SECONDS)
        tags = [subject.tag for subject, _ in self._demands]
        for subject, _ in self._demands:
            subject.find_own_place(number, tags)
        self._tags = [(subject.place, subject.tag) for subject, _ in self._demands]
        self._in_flight = [subject.place + IN_FLIGHT for subject, _ in self._demands]
        self._claims, self._cells = [], []
        for subject in self._counted:
            subject.begin_cell(number)
            place = subject.place
            self._claims.append((place + CLAIMED_REQUESTS, place + CLAIMED_TOKENS))
            request_cell = 4 * place + REQUEST_CELLS + number % CELLS
            token_cell = 2 * place + TOKEN_CELLS + number % CELLS
            self._cells.append((request_cell, place + REQUESTS, token_cell, place + TOKENS))
        self._until = (number + 1) * CELL_SECONDS
        self._stamp = ()

    def _look(self) -> None:
        """Find out which words are to be loaded: the stamp first, then for each limit claims before sums."""
        at: list[int] = []
        stamp: list[int] = []
        for subject, _ in self._demands:
            subject.look(self._number)
            at += subject.stamp_at
            stamp += subject.stamp
        self._stamp, self._marks, self._checks = tuple(stamp), len(stamp), []
        for subject, allowance in self._demands:
            for limit, most, words in _limits_of(allowance):
                if most is None:
                    continue
                base = {REQUESTS_PER_MINUTE: subject.base_requests, TOKENS_PER_MINUTE: subject.base_tokens}
                begin = len(at)
                for word in words:
                    at += [place + word for place in subject.places]
                self._checks.append((begin, len(at), most - base.get(limit, 0), subject, limit))
        self._load = itemgetter(*at)
        self.elsewhere = [
            (place + WAITING, subject)
            for subject, _ in self._demands
            for place in subject.places
            if place != subject.place
        ]


class LimitCounters:
    """The limits as one process takes them."""

    def __init__(self, page: LivePage, row: Row) -> None:
        """`row`: this process's own row of the page."""
        self._file = page.counters
        self._row = row.number
        self._places = OwnPlaces(self._file, row.number)

    def subject(self, level: str, subject_id: str) -> Subject:
        """Return a subject. Keep it while it is used: looking it up costs more than taking from it."""
        return Subject(self._file, self._places, self._file.tag(level, subject_id))

    def plan(self, *demands: tuple[Subject, Allowance]) -> Plan:
        """Return a plan to take from the limits of different subjects. Keep it while the limits are the same."""
        return Plan(self._file, self._row, demands)
