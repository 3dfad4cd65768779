"""The limits of API keys, compiled so that a request takes those of all levels at once.

An API key has its own limits, those of its owner, and those of everyone. A request without an API key has those of
everyone. They are compiled when a key is first used, and again after one of the rows has changed.
"""

from gateway.ipc.counters.limit_counters import Allowance, Charge, Excess, LimitCounters
from gateway.ipc.counters.subject import Subject
from gateway.registry.limits import (
    CONCURRENCY,
    EVERYONE_LEVEL,
    KEY_LEVEL,
    REQUESTS,
    TOKENS,
    USER_LEVEL,
    LimitFacts,
)
from gateway.registry.reader import BoundedCache, RegistryReader
from gateway.registry.schema import ApiKey

CACHED = 10_000  # API keys in each of the two halves of the cache
OF_A_MINUTE = (REQUESTS, TOKENS)


class LevelLimits:
    """The limits of one level: those of a subject."""

    __slots__ = ("facts", "level", "subject")

    def __init__(self, level: str, facts: LimitFacts, subject: Subject) -> None:
        self.level = level
        self.facts = facts
        self.subject = subject

    def amount(self, limit: str) -> int | None:
        """Return the highest value of a limit; None: there is none."""
        return {CONCURRENCY: self.facts.concurrency, REQUESTS: self.facts.requests, TOKENS: self.facts.tokens}[limit]


class CompiledLimits:
    """The limits of one API key, of its owner and of everyone."""

    __slots__ = ("cheap", "has_tokens", "has_user", "levels", "minutes", "owner_id", "plan", "version")

    def __init__(self, owner_id: str, version: int, levels: list[LevelLimits], counters: LimitCounters) -> None:
        """`version`: RegistryReader.limits_version of the levels."""
        self.owner_id = owner_id
        self.version = version
        self.levels = levels
        self.has_tokens = any(it.facts.tokens is not None for it in levels)
        self.has_user = any(it.level == USER_LEVEL for it in levels)
        self.plan = counters.plan(*[(it.subject, _allowance(it.facts)) for it in levels])
        # For requests that need no slot: they are counted, and neither wait nor have tokens.
        of_requests = [(it.subject, Allowance(requests=amount)) for it in levels if (amount := it.facts.requests)]
        self.cheap = counters.plan(*of_requests) if of_requests else None
        # Of the limits a minute: the name, and for each level that has it, its place in `Charge.left` and its amount.
        self.minutes: list[tuple[str, list[tuple[int, int]]]] = []
        order = self.plan.limits()
        for limit in OF_A_MINUTE:
            found = [
                (order.index((it.subject, limit)), amount) for it in levels if (amount := it.amount(limit)) is not None
            ]
            if found:
                self.minutes.append((limit, found))

    def level_of(self, excess: Excess) -> LevelLimits:
        """Return the level whose limit a request would exceed."""
        return next(it for it in self.levels if it.subject is excess.subject)

    def least(self, left: list[int]) -> list[tuple[str, int, int]]:
        """Return the name, the amount and the rest of each limit a minute: of the level that has least left.

        `left` is that of a Charge of `plan`.
        """
        found = []
        for limit, places in self.minutes:
            at, amount = places[0]
            least = left[at]
            for other, of_other in places[1:]:
                if left[other] < least:
                    least, amount = left[other], of_other
            found.append((limit, amount, least))
        return found


class KeyLimits:
    """The limits of all API keys, as one gateway process takes them."""

    def __init__(self, reader: RegistryReader, counters: LimitCounters) -> None:
        self._reader = reader
        self._counters = counters
        self._compiled: BoundedCache[str, CompiledLimits] = BoundedCache(CACHED)
        self._subjects: BoundedCache[tuple[str, str], Subject] = BoundedCache(CACHED)

    def of(self, key: ApiKey | None) -> CompiledLimits | None:
        """Return the limits of a request with this API key; None: it has none. Raises StoreUnreadable."""
        key_id, owner_id = ("", "") if key is None else (key.id, key.owner_id)
        found = self._compiled.get(key_id)
        if found is None or found.version != self._reader.limits_version or found.owner_id != owner_id:
            found = self._compile(key_id, owner_id, found)
        return found if found.levels else None

    def _compile(self, key_id: str, owner_id: str, before: CompiledLimits | None) -> CompiledLimits:
        version = self._reader.limits_version
        levels = []
        for level, subject_id in ((KEY_LEVEL, key_id), (USER_LEVEL, owner_id), (EVERYONE_LEVEL, "")):
            if not subject_id and level != EVERYONE_LEVEL:
                continue
            facts = self._reader.limits_of(level, subject_id)
            if facts is not None and (facts.concurrency, facts.requests, facts.tokens) != (None, None, None):
                levels.append(LevelLimits(level, facts, self._subject(level, subject_id)))
        if before is not None and before.owner_id == owner_id and _facts(before.levels) == _facts(levels):
            before.version = version  # only limits of others have changed
            return before
        compiled = CompiledLimits(owner_id, version, levels, self._counters)
        self._compiled.put(key_id, compiled)
        return compiled

    def _subject(self, level: str, subject_id: str) -> Subject:
        """Return the subject, which all API keys share that it counts for."""
        found = self._subjects.get((level, subject_id))
        if found is None:
            found = self._counters.subject(level, subject_id)
            self._subjects.put((level, subject_id), found)
        return found


def _facts(levels: list[LevelLimits]) -> list[tuple[str, LimitFacts]]:
    return [(it.level, it.facts) for it in levels]


def _allowance(facts: LimitFacts) -> Allowance:
    return Allowance(concurrency=facts.concurrency, requests=facts.requests, tokens=facts.tokens)


class LimitedRequest:
    """One request with limits, and the part of them that it has taken."""

    __slots__ = ("anthropic", "charge", "compiled", "excess", "left", "lines", "prompt", "reserved", "waited_for")

    def __init__(self, compiled: CompiledLimits, *, anthropic: bool = False) -> None:
        """`anthropic`: its client uses Anthropic's API, otherwise OpenAI's or Ollama's."""
        self.compiled = compiled
        self.anthropic = anthropic
        self.charge: Charge | None = None  # until it ends
        self.left: list[int] | None = None  # of each limit (Charge.left), once it was taken from them
        self.excess: Excess | None = None  # the limit that it exceeded when it last tried
        self.waited_for: str | None = None  # that limit as records name it, if it had to wait for it
        self.prompt = 0  # tokens of the prompt, as they were expected
        self.reserved: int | None = None  # tokens; None: nothing limits them
        self.lines: bytes | None = None  # header lines, once they are needed

    def take(self) -> bool:
        """Take the request from all limits; return False if it would exceed one. Raises NoPlace."""
        taken = self.compiled.plan.take(self.reserved or 0)
        if isinstance(taken, Charge):
            self.charge, self.left, self.excess = taken, taken.left, None
            return True
        self.excess = taken
        return False

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
        self.left = compiled.plan.left()
        return True

    def settle(self, tokens: int) -> None:
        """End the request, which has used so many tokens."""
        if self.charge is not None:
            self.charge.settle(tokens)

    def cancel(self) -> None:
        """Undo the request, which has reached no endpoint. It may be taken again."""
        if self.charge is not None:
            self.charge.cancel()
            self.charge = self.left = self.lines = None
