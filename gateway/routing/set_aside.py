"""Endpoints that are set aside: those that a provider lets wait, and those that lack a kind of requests.

It also lists those whose circuit breaker is open, which the roster follows.

All processes of this machine share both by the live page (gateway.ipc.endpoint_notes), so that what one has learned
holds for all at once.
"""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from gateway.base import causes
from gateway.base.request_kinds import (
    BY_NAME,
    CHAT,
    COUNT_TOKENS,
    EMBEDDINGS,
    MESSAGES,
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_GENERATE,
    OLLAMA_SHOW,
    RESPONSES,
    TOKENIZE,
)
from gateway.ipc.endpoint_notes import EndpointNotes
from gateway.providers.errors import ErrorCause
from gateway.providers.table import Provider
from gateway.routing.endpoint import Endpoint

log = logging.getLogger(__name__)

LACKING_SECONDS = 600.0  # after which an endpoint is asked again for a kind that it lacked
MONEY_SECONDS = 600.0  # after which a trial shows whether somebody has paid
KEY_SECONDS = 60.0  # after which a trial shows whether the key is accepted

CAUSES = tuple(ErrorCause)  # a cause's number in the live page is its place
# The bit of a kind is its place. Details of a model come from RouterDash where an endpoint lacks them.
KINDS = tuple(name for name in BY_NAME if name != OLLAMA_SHOW)
# Kinds that are translated to another one where an endpoint lacks them.
TRANSLATED = {
    CHAT: MESSAGES,
    MESSAGES: CHAT,
    COUNT_TOKENS: TOKENIZE,
    RESPONSES: CHAT,
    OLLAMA_CHAT: CHAT,
    OLLAMA_GENERATE: CHAT,
    OLLAMA_EMBED: EMBEDDINGS,
}
# Of these, the kinds that are translated only if no other endpoint has them: no translated response is stored.
TRANSLATED_LAST = frozenset((RESPONSES,))
_TWICE = frozenset((OLLAMA_CHAT, OLLAMA_GENERATE, RESPONSES))  # by way of a chat completion to Messages
_TRIED = frozenset((ErrorCause.MONEY, ErrorCause.KEY_REFUSED))  # single requests show whether these are over
_TEXTS = {
    ErrorCause.MONEY: causes.ACCOUNT_EMPTY,
    ErrorCause.KEY_REFUSED: "it refuses the API key that RouterDash sends",
    ErrorCause.LIMITED: "its rate limit is reached",
    ErrorCause.OVERLOADED: "it is overloaded",
}


class SetAside:
    """Pauses and missing kinds of the endpoints of this process."""

    def __init__(self, notes: EndpointNotes) -> None:
        # By kind the ids of endpoints that had better not serve it. True: their provider offers neither it nor the kind
        # to which it is translated. False: they have shown that they cannot, or it is translated only as a last
        # resort; they are asked last.
        self.unable: Mapping[str, Mapping[str, bool]] = {}
        self._lacks: dict[str, frozenset[str]] = {}  # kinds by id of the endpoint
        self.opened: list[Endpoint] = []  # those whose circuit breaker is open in any process
        self.breaker_changes = -1  # of all processes, when their breakers were last read
        self._notes = notes
        self._changes = -1
        self._next_end = float("inf")  # time at which the first note expires

    def recheck(self) -> None:
        """Read everything at the next `follow`: there are other endpoints, or in other slots."""
        self._changes = self.breaker_changes = -1

    def follow(self, endpoints: Iterable[Endpoint]) -> None:
        """Apply the notes of all processes, and end those that have expired. Called several times a second."""
        changes, now = self._notes.changes, time.time()
        if changes == self._changes and now < self._next_end:
            return
        self._changes, self._next_end = changes, float("inf")
        self._lacks.clear()
        unable: dict[str, dict[str, bool]] = {}
        for endpoint in endpoints:
            self._follow_pause(endpoint, now)
            for kind, by_provider in self._follow_lacking(endpoint, now):
                unable.setdefault(kind, {})[endpoint.id] = by_provider
        self.unable = unable

    def _follow_pause(self, endpoint: Endpoint, now: float) -> None:
        memory = endpoint.memory
        until, number = self._notes.pause(endpoint.facts.slot, endpoint.id)
        if until > now:
            self._next_end = min(self._next_end, until)
            if memory.paused_until != until:
                memory.paused_until, memory.pause_cause = until, CAUSES[number]
                endpoint.update_rank()
        elif memory.paused_until:
            memory.paused_until = 0
            if until and memory.pause_cause in _TRIED:
                endpoint.await_trial()
            endpoint.update_rank()

    def _follow_lacking(self, endpoint: Endpoint, now: float) -> Iterator[tuple[str, bool]]:
        """Yield the kinds that an endpoint cannot serve, and whether that is certain."""
        until, bits = self._notes.lacking(endpoint.facts.slot, endpoint.id)
        learned: list[str] = []
        if until > now:
            self._next_end = min(self._next_end, until)
            learned = kinds_of(bits)
        provider = endpoint.provider
        endpoint.memory.chat_as_messages = provider is None and CHAT in learned and MESSAGES not in learned
        missing = missing_kinds(provider)
        if learned or missing:
            self._lacks[endpoint.id] = frozenset((*learned, *missing))
            yield from unable_kinds(provider, learned)

    def pause(self, endpoint: Endpoint, cause: ErrorCause, seconds: float) -> None:
        """Send an endpoint no requests for some seconds, in all processes. The longest pause counts."""
        until = math.ceil(time.time() + seconds)
        facts = endpoint.facts
        if until <= endpoint.memory.paused_until:
            return
        if not endpoint.memory.paused_until:
            log.warning("endpoint %s: %s; it gets no requests for %.0f s", facts.name, _TEXTS[cause], seconds)
        self._notes.set_pause(facts.slot, endpoint.id, until, CAUSES.index(cause))
        self._follow_pause(endpoint, time.time())

    def lacks(self, endpoint: Endpoint, kind: str) -> bool:
        """Return True if an endpoint lacks a kind, which may be translated to another one there."""
        return kind in self._lacks.get(endpoint.id, ())

    def learn_lacking(self, endpoint: Endpoint, kind: str) -> None:
        """Remember for a while that an endpoint lacks a kind."""
        slot, now = endpoint.facts.slot, time.time()
        until, bits = self._notes.lacking(slot, endpoint.id)
        bits = (bits if until > now else 0) | 1 << KINDS.index(kind)
        if not self.lacks(endpoint, kind):
            log.info("endpoint %s: it lacks %s", endpoint.facts.name, BY_NAME[kind].path)
        self._notes.set_lacking(slot, endpoint.id, int(now + LACKING_SECONDS), bits)
        unable = {name: dict(ids) for name, ids in self.unable.items()}
        for each, by_provider in self._follow_lacking(endpoint, now):
            unable.setdefault(each, {})[endpoint.id] = by_provider
        self.unable = unable

    def forget_pause(self, endpoint: Endpoint) -> None:
        """End the pause of an endpoint whose key or address is another one now."""
        self._notes.clear_pause(endpoint.facts.slot)

    def forget_lacking(self, endpoint: Endpoint) -> None:
        """Forget which kinds an endpoint lacks: it was edited, its models have changed, or it has one after all."""
        self._notes.clear_lacking(endpoint.facts.slot)


class AsideNote(NamedTuple):
    """What pages, the API and the routing preview know of an endpoint that is set aside."""

    paused_until: int  # second since 1970; 0: it is not paused
    cause: str | None
    kinds: tuple[str, ...]  # of requests that it has shown to lack

    @property
    def lacks(self) -> list[str]:
        """Paths of the requests that it has shown to lack."""
        return [BY_NAME[kind].path for kind in self.kinds]


def note_of(notes: EndpointNotes, slot: int, endpoint_id: str, now: float) -> AsideNote | None:
    """Return the note of an endpoint; None if it is not set aside at `now` (seconds since 1970)."""
    until, number = notes.pause(slot, endpoint_id)
    lacking_until, bits = notes.lacking(slot, endpoint_id)
    kinds = tuple(kinds_of(bits)) if lacking_until > now else ()
    if until > now:
        return AsideNote(until, CAUSES[number].value, kinds)
    return AsideNote(0, None, kinds) if kinds else None


def missing_kinds(provider: Provider | None) -> list[str]:
    """Return the kinds of requests that a provider does not offer."""
    return [] if provider is None else [kind for kind in KINDS if kind not in provider.paths]


def unable_kinds(provider: Provider | None, learned: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield the kinds for which an endpoint is asked last, and whether it is certain that it cannot serve them.

    It lacks them, and they are not translated for it, or only if no other endpoint has them. `learned`: the kinds that
    it has shown to lack. It is certain if its provider offers neither them nor the kind to which they are translated.
    """
    missing = missing_kinds(provider)
    lacks = {*learned, *missing}
    for kind in lacks:
        other = translated_kind(provider, kind)
        if other in lacks and kind in _TWICE:
            other = translated_kind(provider, other)
        if other is None or other in lacks or kind in TRANSLATED_LAST:
            yield kind, kind in missing and (other is None or other in missing)


def translated_kind(provider: Provider | None, kind: str) -> str | None:
    """Return the kind to which requests of a kind are translated where an endpoint lacks it; None if they are not."""
    if kind == CHAT and provider is not None and not provider.chat_as_messages:
        return None
    return TRANSLATED.get(kind)


def kinds_of(bits: int) -> list[str]:
    """Return the names of the kinds of requests whose bits are set."""
    return [kind for place, kind in enumerate(KINDS) if bits >> place & 1]
