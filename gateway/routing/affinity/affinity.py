"""Prefix affinity of one gateway process: what endpoints should have of a prompt, and notes of what is sent to them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from gateway.base.config import AFFINITY_HEADER, AFFINITY_OFF, Config
from gateway.dialects.prompt_fields import PromptFields
from gateway.ipc.live_page import EndpointWork, LivePage
from gateway.registry.reader import BoundedCache
from gateway.routing.affinity.keys import Hash, ScopeHashes, fingerprint, hash_number, load_secret, session_hash
from gateway.routing.affinity.prompts import (
    FIRST_BYTES,
    count_marks,
    read_beginning,
    read_opening,
    session_of,
    size_of,
)
from gateway.routing.affinity.table import (
    CLOCK_MASK,
    CLOCK_TOKENS_SHIFT,
    HALF,
    NO_PRINT,
    OLDEST,
    SLOTS,
    TAG_MASK,
    MarkTable,
    StoredMark,
    age_between,
    open_table,
)

CACHED_SCOPES = 5_000
CACHED_HASHES = 1_000  # of marks, and of openings: half the size of each cache
MAX_CACHED_OPENING = 64  # bytes; ids of sessions may be long
# A prefix is of age 0 to 3: younger than the first of these numbers of prompt tokens that were sent to its endpoint
# since, than the second, than the third, or older. Caches hold some 10,000 to some 100,000 tokens.
YOUNG, MIDDLE, OLD = 8_192 >> CLOCK_TOKENS_SHIFT, 32_768 >> CLOCK_TOKENS_SHIFT, 131_072 >> CLOCK_TOKENS_SHIFT
FRESH = YOUNG >> 3  # a mark of a lower age need not be stored again

_NOTHING: dict[str, "Kept"] = {}


class TokenClocks(Protocol):
    """Clocks of the endpoints: the prompt tokens sent so far to each, by all processes, modulo 2**32."""

    def read_tokens(self, slot: int) -> int: ...


class PlaceFacts(Protocol):
    """An endpoint's address, and its slot in the live page."""

    @property
    def slot(self) -> int: ...
    @property
    def base_url(self) -> str: ...


class PlacedEndpoint(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def facts(self) -> PlaceFacts: ...


class Candidates(Protocol):
    """The endpoints that have a model. Another object is made when an endpoint's slot or address changes."""

    has_prints: bool  # their fingerprints are known

    @property
    def endpoints(self) -> Sequence[PlacedEndpoint]: ...
    @property
    def by_id(self) -> Mapping[str, object]: ...


class Kept(NamedTuple):
    """The part of a prompt that an endpoint should have in its prefix cache."""

    size: int  # bytes of the body
    age: int  # 0 to 3: index into Speeds.kept
    number: int  # of the mark
    entry: StoredMark
    is_fresh: bool  # few tokens were sent there since


class Prefix:
    """The beginning of one request's prompt: its marks, the shortest first."""

    __slots__ = ("conversation", "has_marks", "hashed", "hashes", "head", "kept", "marks", "session")

    def __init__(self, hashed: Hash, marks: Sequence[int], head: int, session: int | None, conversation: str) -> None:
        self.hashed = hashed  # the keyed hash of the marks
        self.marks = marks  # 64 bits each
        self.hashes: dict[int, int] = {}  # keyed, by number of the mark; computed when they are first needed: 0.3 µs
        self.has_marks = bool(marks) or session is not None
        self.head = head  # bytes of tools and system prompt
        self.session = session  # keyed hash of the session's mark
        self.conversation = conversation  # 8 bytes in hexadecimal
        self.kept: dict[str, Kept] = _NOTHING  # by id of the endpoint


class Affinity:
    """Finds and stores the marks of requests. `endpoints` returns all endpoints by id."""

    def __init__(
        self,
        setting: str,
        secret: bytes,
        table: MarkTable,
        clocks: TokenClocks,
        endpoints: Callable[[], Mapping[str, PlacedEndpoint]],
    ) -> None:
        self._reads_bodies = setting != AFFINITY_HEADER
        self._secret = secret
        self._table = table
        self._clocks = clocks
        self._endpoints = endpoints
        self._slots: set[int] = set()  # that have an endpoint
        self._scopes: dict[tuple[str | None, str], ScopeHashes] = {}
        # Keyed hashes, by the function that hashes, number of the mark, and mark. The next turn of a conversation looks
        # up the longest mark of this one.
        self._hashes: BoundedCache[tuple[Hash, int, int], int] = BoundedCache(CACHED_HASHES)
        self._conversations: BoundedCache[tuple[ScopeHashes, bytes], str] = BoundedCache(CACHED_HASHES)
        self._owners: dict[int, tuple[str, str]] = {}  # id and address of the endpoint of a slot
        self._prints = [NO_PRINT] * SLOTS  # its fingerprint

    def read(
        self, fields: PromptFields, session: bytes | None, key_id: str | None, model: str, body_bytes: int
    ) -> Prefix | None:
        """Return the beginning of a request's prompt; None if it has neither a session nor 512 bytes.

        `session`: see `session_in`.
        """
        session = session_of(fields) if session is None else session
        if session is None and (body_bytes < FIRST_BYTES or not self._reads_bodies):
            return None
        scope = self._scope(key_id, model)
        if session is None:
            marks, head, opening = read_beginning(fields)
            return Prefix(scope.mark, marks, head, None, self._conversation_of(scope, opening))
        of_session = session_hash(scope, session)
        first = hash_number(of_session, 0)
        conversation = self._conversation_of(scope, _opening_of(session))
        if self._reads_bodies:
            marks, head, _ = read_beginning(fields)
            return Prefix(scope.mark, marks, head, first, conversation)
        # Only the session is known, so what is noted is how much of it an endpoint has seen.
        count, head = count_marks(fields)
        return Prefix(of_session, [1] * count, head, first, conversation)

    def scoped(self, prefix: Prefix, session: bytes | None, key_id: str | None, model: str) -> Prefix:
        """Return the same beginning of a prompt for another model, whose prefix caches are others.

        `session`: with which `prefix` was read.
        """
        scope = self._scope(key_id, model)
        if session is None:
            return Prefix(scope.mark, prefix.marks, prefix.head, None, prefix.conversation)
        of_session = session_hash(scope, session)
        hashed = scope.mark if self._reads_bodies else of_session
        return Prefix(hashed, prefix.marks, prefix.head, hash_number(of_session, 0), prefix.conversation)

    def conversation(
        self, fields: PromptFields, session: bytes | None, key_id: str | None, model: str, body_bytes: int
    ) -> str | None:
        """Return the conversation of a request that has no choice of endpoints, so that its marks do not matter."""
        session = session_of(fields) if session is None else session
        if session is None and (body_bytes < FIRST_BYTES or not self._reads_bodies):
            return None
        opening = read_opening(fields) if session is None else _opening_of(session)
        return self._conversation_of(self._scope(key_id, model), opening)

    def _conversation_of(self, scope: ScopeHashes, opening: bytes) -> str:
        """Return the id of a conversation, whose turns have the same opening."""
        if len(opening) > MAX_CACHED_OPENING:
            return scope.conversation_of(opening)
        key = scope, opening
        conversation = self._conversations.get(key)
        if conversation is None:
            conversation = scope.conversation_of(opening)
            self._conversations.put(key, conversation)
        return conversation

    def _scope(self, key_id: str | None, model: str) -> ScopeHashes:
        scope = self._scopes.get((key_id, model))
        if scope is None:
            if len(self._scopes) >= CACHED_SCOPES:
                self._scopes.clear()
            scope = self._scopes[key_id, model] = ScopeHashes(self._secret, key_id, model)
        return scope

    def find(self, prefix: Prefix, candidates: Candidates) -> dict[str, Kept]:
        """Return what each endpoint should have of a prompt, by the endpoint's id. It is kept in `prefix.kept`.

        The longest mark is looked up first. After one is found, so is the first: others may have a part of the prompt,
        such as a common system prompt. If there are some, the mark in the middle shows which of them have more of it.
        """
        if not candidates.has_prints:
            for endpoint in candidates.endpoints:
                self._learn(endpoint)
            candidates.has_prints = True
        kept: dict[str, Kept] = {}
        prefix.kept = kept
        number = len(prefix.marks)
        while number > 0 and not kept:
            number -= 1
            self._note(kept, self._look_up(prefix, number), prefix, number)
        if number and _lacks(kept, candidates.by_id):
            first = self._look_up(prefix, 0)
            for slot, _, _ in first:
                if self._owners[slot][0] not in kept:
                    if middle := number // 2:
                        self._note(kept, self._look_up(prefix, middle), prefix, middle)
                    self._note(kept, first, prefix, 0)
                    break
        if prefix.session is not None:  # its endpoints are preferred even if the prompt has changed
            self._note(kept, self._table.find(prefix.session, self._prints), prefix, -1)
        return kept

    def _look_up(self, prefix: Prefix, number: int) -> list[StoredMark]:
        key = prefix.hashed, number, prefix.marks[number]
        hashed = self._hashes.get(key)
        if hashed is None:
            hashed = _hash_of(prefix, number)
            self._hashes.put(key, hashed)
        prefix.hashes[number] = hashed
        return self._table.find(hashed, self._prints)

    def _note(self, kept: dict[str, Kept], stored: Iterable[StoredMark], prefix: Prefix, number: int) -> None:
        """Note the endpoints that have a mark, unless they have a longer one. The number of a session's mark is -1."""
        for mark in stored:
            slot, clock, _ = mark
            name = self._owners[slot][0]
            if name not in kept:
                size = FIRST_BYTES if number < 0 else size_of(prefix.head, number)
                age = (self._clocks.read_tokens(slot) >> CLOCK_TOKENS_SHIFT) - clock & CLOCK_MASK
                if age >= HALF:  # the clock of another process may be ahead
                    age = 0
                years = 0 if age < YOUNG else 1 if age < MIDDLE else 2 if age < OLD else 3
                kept[name] = Kept(size, years, number, mark, age < FRESH)

    def store(self, prefix: Prefix, endpoint: PlacedEndpoint) -> None:
        """Note that a prompt is sent to an endpoint, whose clock was moved by it already."""
        known = prefix.kept.get(endpoint.id)
        first, count = 0 if known is None else known.number + 1, len(prefix.marks)
        if known is not None and known.is_fresh and first == count and prefix.session is None:
            return
        self._learn(endpoint)
        slot = endpoint.facts.slot
        now, own = self._now(slot), self._prints[slot]
        if known is not None and first:
            self._table.refresh(known.entry, now)
        store, hashes, age = self._table.store, prefix.hashes, self._age
        for number in range(first, count):
            hashed = hashes.get(number)
            if hashed is None:
                hashed = _hash_of(prefix, number)
            store(hashed, slot, own, now, age)
        if prefix.session is not None:
            store(prefix.session, slot, own, now, age)

    def _learn(self, endpoint: PlacedEndpoint) -> None:
        """Compute the fingerprint of an endpoint, if its slot had another endpoint or address before."""
        facts = endpoint.facts
        owner = endpoint.id, facts.base_url
        if self._owners.get(facts.slot) != owner:
            self._owners[facts.slot] = owner
            self._prints[facts.slot] = fingerprint(self._secret, *owner) & TAG_MASK

    def _now(self, slot: int) -> int:
        return self._clocks.read_tokens(slot) >> CLOCK_TOKENS_SHIFT & CLOCK_MASK

    def _age(self, slot: int, clock: int) -> int:
        """Return the age of a mark that may be replaced. The clock of a slot without an endpoint stands still."""
        endpoints = self._endpoints()
        if len(endpoints) != len(self._slots):
            self._slots = {endpoint.facts.slot for endpoint in endpoints.values()}
        return age_between(clock, self._now(slot)) if slot in self._slots else OLDEST


def _hash_of(prefix: Prefix, number: int) -> int:
    """Return the keyed hash of a mark."""
    return hash_number(prefix.hashed, number << 64 | prefix.marks[number])


def _opening_of(session: bytes) -> bytes:
    """Return the opening of a conversation that has a session: its turns have the session in common."""
    return b"session." + session


def _lacks(kept: dict[str, Kept], names: Iterable[str]) -> bool:
    """Return True if a name is missing. Views of keys take several times the instructions."""
    for name in names:  # noqa: SIM110  # `any` would make a generator
        if name not in kept:
            return True
    return False


def open_affinity(
    config: Config, page: LivePage, endpoints: Callable[[], Mapping[str, PlacedEndpoint]]
) -> Affinity | None:
    """Open the affinity of a gateway process; None if it is off. Raises ConfigError and OSError for the secret."""
    if config.affinity == AFFINITY_OFF:
        return None
    secret = load_secret(config.affinity_key_file)
    table = open_table(config.affinity_path, config.affinity_key_file)
    return Affinity(config.affinity, secret, table, EndpointWork(page), endpoints)
