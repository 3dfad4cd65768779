"""The limits of API keys, compiled so that a request takes those of all levels at once.

An API key has its own limits, those of its owner, and those of everyone. A request without an API key has those of
everyone. They are compiled when a key is first used, and again after one of the rows has changed.
"""

from msgspec import structs

from gateway.base.queue_class import part_for_bulk
from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.counters.other_waits import OtherWaits
from gateway.ipc.counters.places import NoPlace
from gateway.ipc.counters.plan import Allowance, Charge, Excess
from gateway.ipc.counters.subject import Subject
from gateway.limits.budgets import BudgetExceeded, Budgets, Demand, Held, Reserve
from gateway.prices.published import PublishedPrices
from gateway.registry.limits import (
    CONCURRENCY,
    EVERYONE_LEVEL,
    KEY_LEVEL,
    MONEY,
    REQUESTS,
    TOKENS,
    USER_LEVEL,
    Budget,
    LimitFacts,
)
from gateway.registry.reader import BoundedCache, RegistryReader
from gateway.registry.schema import ApiKey

CACHED = 2_000  # API keys in each of the two halves of the cache: one takes 7 KiB, and some 100 µs to compile again
CACHED_SUBJECTS = 10_000  # in each half of theirs
MAX_BUDGET = (1 << 62) - 1
OF_A_MINUTE = ((REQUESTS, 1), (TOKENS, 2))  # and the place of each among the three of a subject in `Plan.left`


class LevelLimits:
    """The limits of one level: those of a subject."""

    __slots__ = ("facts", "level", "subject", "whole")

    def __init__(self, level: str, facts: LimitFacts, subject: Subject, whole: LimitFacts | None = None) -> None:
        """`whole`: the limits of which `facts` are the part for bulk requests; None: `facts` are the whole."""
        self.level = level
        self.facts = facts
        self.subject = subject
        self.whole = facts if whole is None else whole

    @property
    def is_part(self) -> bool:
        """True for the part of the limits that bulk requests may use."""
        return self.whole is not self.facts

    def amount(self, limit: str) -> int | None:
        """Return the highest value of a limit; None: there is none."""
        return {CONCURRENCY: self.facts.concurrency, REQUESTS: self.facts.requests, TOKENS: self.facts.tokens}[limit]


class CompiledLimits:
    """The limits of one API key, of its owner and of everyone."""

    __slots__ = (
        "_counters", "_for_bulk", "budgets", "cheap", "gives_way", "has_hard", "has_money", "has_tokens",
        "has_user", "levels", "minutes", "other_waits", "owner_id", "plan", "reserved_budgets", "version",
        "with_instead",
    )  # fmt: skip

    def __init__(
        self,
        owner_id: str,
        version: int,
        levels: list[LevelLimits],
        counters: LimitCounters,
        budgets: tuple[Demand, ...] = (),
        other_waits: OtherWaits | None = None,
    ) -> None:
        """`version`: RegistryReader.limits_version of the levels. `budgets`: those of all levels.

        `other_waits`: for the part of bulk requests, those of the whole; None: this is the whole.
        """
        self._counters = counters
        self._for_bulk: tuple[bool, CompiledLimits] | None = None
        self.gives_way = other_waits is not None
        self.budgets = budgets
        # A budget with another model refuses nothing: it counts, and sends requests there once it is spent.
        self.reserved_budgets = [
            (level, subject_id, budget if budget.instead is None else _endless(budget))
            for level, subject_id, budget in budgets
        ]
        self.with_instead = [demand for demand in budgets if demand[2].instead is not None]
        self.has_hard = any(budget.hard for _, _, budget in budgets)
        self.has_money = any(budget.unit == MONEY for _, _, budget in budgets)
        self.owner_id = owner_id
        self.version = version
        self.levels = levels
        self.has_tokens = bool(budgets) or any(level.facts.tokens is not None for level in levels)
        self.has_user = any(level.level == USER_LEVEL for level in levels) or any(
            demand[0] == USER_LEVEL for demand in budgets
        )
        self.plan = counters.plan(*[(level.subject, _allowance(level)) for level in levels])
        # What bulk requests give back may be of use to others only, so they pass it on as those do.
        self.other_waits = OtherWaits(self.plan, counters.waker) if other_waits is None else other_waits
        # For requests that need no slot: they are counted, and neither wait nor have tokens.
        of_requests = [
            (level.subject, Allowance(requests=amount))
            for level in levels
            if (amount := level.facts.requests) is not None
        ]
        self.cheap = counters.plan(*of_requests) if of_requests else None
        # Of the limits a minute: the name, and for each level that has it, its place in `Charge.left` and its amount.
        self.minutes: list[tuple[str, list[tuple[int, int]]]] = []
        for limit, offset in OF_A_MINUTE:
            places = [
                (3 * number + offset, amount)
                for number, level in enumerate(levels)
                if (amount := level.amount(limit)) is not None
            ]
            if places:
                self.minutes.append((limit, places))

    def is_equal(self, owner_id: str, levels: list[LevelLimits], budgets: list[Demand]) -> bool:
        """Return True if these are its limits and budgets."""
        same = self.owner_id == owner_id and _facts(self.levels) == _facts(levels)
        return same and self.budgets == tuple(budgets)

    def for_bulk(self, *, has_bulk_only: bool) -> "CompiledLimits":
        """Return the part of the limits that bulk requests of the key may use. Budgets are the same for them.

        `has_bulk_only`: all requests of the key are bulk requests, so that they may use the whole of its own limits.
        """
        if self.gives_way or not self.levels:
            return self
        if self._for_bulk is None or self._for_bulk[0] != has_bulk_only:
            levels = [
                level if has_bulk_only and level.level == KEY_LEVEL else _part_for_bulk(level) for level in self.levels
            ]
            made = CompiledLimits(self.owner_id, self.version, levels, self._counters, self.budgets, self.other_waits)
            self._for_bulk = has_bulk_only, made
        made = self._for_bulk[1]
        made.version = self.version
        return made

    @property
    def needs_end(self) -> bool:
        """True if the end and the use of a request matter."""
        return self.has_tokens or any(level.facts.concurrency is not None for level in self.levels)

    def level_of(self, excess: Excess) -> LevelLimits:
        """Return the level whose limit a request would exceed."""
        return next(level for level in self.levels if level.subject is excess.subject)

    def least(self, left: list[int]) -> list[tuple[str, int, int]]:
        """Return the name, the amount and the rest of each limit a minute: of the level that has least left.

        `left` is that of a Charge of `plan`.
        """
        rests = []
        for limit, places in self.minutes:
            place, amount = places[0]
            least = left[place]
            for other, of_other in places[1:]:
                if left[other] < least:
                    least, amount = left[other], of_other
            rests.append((limit, amount, least))
        return rests


class KeyLimits:
    """The limits of all API keys, as one gateway process takes them."""

    def __init__(
        self, reader: RegistryReader, counters: LimitCounters, budgets: Budgets, prices: PublishedPrices
    ) -> None:
        self.budgets = budgets
        self.prices = prices  # for budgets of money
        self.waits = counters.waits
        self.waker = counters.waker
        self._reader = reader
        self._counters = counters
        self._compiled: BoundedCache[str, CompiledLimits] = BoundedCache(CACHED)  # may be of an earlier version
        self._subjects: BoundedCache[tuple[str, str], Subject] = BoundedCache(CACHED_SUBJECTS)

    def of(self, key: ApiKey | None) -> CompiledLimits | None:
        """Return the limits of a request with this API key; None: it has none. Raises StoreUnreadable."""
        if not self._reader.limits_version:
            return None
        key_id = owner_id = ""
        if key is not None:
            key_id, owner_id = key.id, key.owner_id
        compiled = self._compiled.get(key_id)
        if compiled is None or compiled.version != self._reader.limits_version or compiled.owner_id != owner_id:
            compiled = self._compile(key_id, owner_id, compiled)
        return compiled if compiled.levels or compiled.budgets else None

    def _compile(self, key_id: str, owner_id: str, before: CompiledLimits | None) -> CompiledLimits:
        version = self._reader.limits_version
        levels: list[LevelLimits] = []
        budgets: list[Demand] = []
        for level, subject_id in ((KEY_LEVEL, key_id), (USER_LEVEL, owner_id), (EVERYONE_LEVEL, "")):
            if not subject_id and level != EVERYONE_LEVEL:
                continue
            facts = self._reader.limits_of(level, subject_id)
            if facts is None:
                continue
            budgets += [(level, subject_id, budget) for budget in facts.budgets]
            if _amounts(facts) != (None, None, None):
                levels.append(LevelLimits(level, facts, self._subject(level, subject_id)))
        if before is not None and before.is_equal(owner_id, levels, budgets):
            before.version = version  # only limits of others have changed
            return before
        compiled = CompiledLimits(owner_id, version, levels, self._counters, tuple(budgets))
        self._compiled.put(key_id, compiled)
        return compiled

    def _subject(self, level: str, subject_id: str) -> Subject:
        """Return the subject, which all API keys share that it counts for."""
        subject = self._subjects.get((level, subject_id))
        if subject is None:
            subject = self._counters.subject(level, subject_id)
            self._subjects.put((level, subject_id), subject)
        return subject


def _endless(budget: Budget) -> Budget:
    return structs.replace(budget, amount=MAX_BUDGET, hard=False, refuses_unpriced=False)


def _facts(levels: list[LevelLimits]) -> list[tuple[str, LimitFacts]]:
    return [(level.level, level.facts) for level in levels]


def _part_for_bulk(level: LevelLimits) -> LevelLimits:
    whole = level.facts
    concurrency, requests, tokens = (None if amount is None else part_for_bulk(amount) for amount in _amounts(whole))
    facts = structs.replace(whole, concurrency=concurrency, requests=requests, tokens=tokens)
    return LevelLimits(level.level, facts, level.subject, whole)


def _allowance(level: LevelLimits) -> Allowance:
    concurrency, requests, tokens = amounts = _amounts(level.facts)
    kept = (0, 0, 0)
    # Bulk requests may use the whole of a key's limits if it has no others: this is not known here.
    if level.level != KEY_LEVEL and not level.is_part:
        of_concurrency, of_requests, of_tokens = (
            0 if amount is None else amount - part_for_bulk(amount) for amount in amounts
        )
        kept = of_concurrency, of_requests, of_tokens
    return Allowance(concurrency=concurrency, requests=requests, tokens=tokens, kept=kept)


def _amounts(facts: LimitFacts) -> tuple[int | None, int | None, int | None]:
    return facts.concurrency, facts.requests, facts.tokens


class LimitedRequest:
    """One request with limits, and the part of them that it has taken."""

    __slots__ = (
        "anthropic", "budgets", "charge", "compiled", "cost", "exceeded", "excess", "held", "left", "most", "prompt",
        "reserved", "waited_for", "yields",
    )  # fmt: skip

    def __init__(
        self, compiled: CompiledLimits, budgets: Budgets, anthropic: bool, *, reserved: int | None = None
    ) -> None:
        """`anthropic`: its client uses Anthropic's API, otherwise OpenAI's or Ollama's."""
        self.compiled = compiled
        self.budgets = budgets
        self.anthropic = anthropic
        self.charge: Charge | None = None  # from its limits, until it ends
        self.left: list[int] | None = None  # of each limit (Charge.left), once it was taken from them
        self.prompt = 0  # tokens that were expected of its prompt; 0: nothing limits tokens
        self.reserved = reserved  # tokens; None: nothing limits them
        self.excess: Excess | None = None  # the limit that it exceeded when it last tried
        self.waited_for: str | None = None  # that limit as records name it, if it had to wait for it
        self.yields = True  # to older requests of other processes
        self.held: Held | None = None  # from its budgets, until it ends
        self.exceeded: BudgetExceeded | None = None  # the budget that forbade it when it last tried
        self.most = 0  # tokens that it can use at most, for hard budgets
        self.cost: Reserve | None = None  # None: it has no price

    def take(self, arrived: float) -> bool:
        """Take the request, which has arrived at this time, from all limits and budgets.

        Return False if it would exceed one, or lets another one go first. Raises NoPlace.
        """
        compiled, plan = self.compiled, self.compiled.plan
        if compiled.gives_way and self.yields and self._lets_own_go_first():
            return False
        if self.yields and compiled.other_waits.exist() and self._lets_go_first(arrived):
            return False
        if compiled.budgets and not self._hold():
            return False
        if not compiled.levels:
            self.left = []
            return True
        try:
            taken = plan.take(self.reserved or 0)
        except NoPlace:
            self.give_back()
            raise
        if isinstance(taken, Excess):
            self.excess = taken
            self.give_back()
            return False
        self.charge, self.left, self.excess = taken, taken.left, None
        if self.waited_for is not None:
            self.wait_no_more(arrived)
            compiled.other_waits.pass_on()
        return True

    def _hold(self) -> bool:
        """Reserve the use of the request from its budgets, unless it would exceed one, or a limit.

        Budgets come first: other processes see at once what was given back to them, but only after a while what was
        given back to limits. A key whose budget is spent must not use up the limits of its user. Raises NoPlace.
        """
        reserved = self.reserved or 0
        if self.compiled.levels and (excess := self.compiled.plan.look(reserved)) is not None:
            self.excess = excess
            return False
        self.excess = self.exceeded = None
        reservation = self.budgets.hold(
            self.compiled.reserved_budgets, Reserve(reserved, max(self.most, reserved)), self.cost
        )
        if isinstance(reservation, Held):
            self.held = reservation
            return True
        self.exceeded = reservation
        return False

    def give_back(self) -> None:
        """Give back the reservation from budgets."""
        if self.held is not None:
            self.held.cancel()
            self.held = None

    def wait_no_more(self, arrived: float, *, but_for: Subject | None = None) -> bool:
        """Withdraw the wait that is published, unless it is for one subject. Return False if there was none."""
        subjects = [level.subject for level in self.compiled.levels if level.subject is not but_for]
        return any([subject.wait_no_more(arrived) for subject in subjects])

    def _lets_own_go_first(self) -> bool:
        """Return True if the bulk request lets an interactive one of this process go first, which needs more tokens."""
        for level in self.compiled.levels:
            if level.facts.waiting and level.subject.has_interactive_wait():
                self.excess = Excess(level.subject, level.facts.waiting[0])
                return True
        return False

    def _lets_go_first(self, arrived: float) -> bool:
        """Return True if the request has no room, or lets another one of another process go first. Raises NoPlace."""
        compiled = self.compiled
        if (excess := compiled.plan.look(self.reserved or 0)) is not None:
            self.excess = excess
            return True
        subject = compiled.other_waits.first_before(arrived, gives_way=compiled.gives_way)
        if subject is None:
            return False
        waiting = next(level.facts.waiting for level in compiled.levels if level.subject is subject)
        if not waiting:
            return False
        self.excess = Excess(subject, waiting[0])
        return True

    def count(self) -> bool:
        """Count a request that needs no slot among those of the minute; return False if it would exceed that limit.

        It is not among those in flight, and has no tokens. Raises NoPlace.
        """
        compiled = self.compiled
        if compiled.cheap is not None:
            taken = compiled.cheap.take()
            if isinstance(taken, Excess):
                self.excess = taken
                return False
            taken.settle()
        self.left = compiled.plan.left() if compiled.levels else []
        return True

    def settle(self, tokens: int) -> None:
        """End the request, which has used so many tokens."""
        if self.charge is not None:
            self.charge.settle(tokens)
            self.charge = None

    def cancel(self) -> None:
        """Undo the request, which has reached no endpoint. It may be taken again."""
        self.give_back()
        if self.charge is not None:
            self.charge.cancel()
        self.charge = self.left = None
