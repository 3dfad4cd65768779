"""Prefix caches of simulated servers: pages that all requests share (vLLM, SGLang), or one prefix a slot (llama.cpp).

A prompt is a system prompt that other conversations may share, then the conversation's own history, then new text.
A cache knows prefixes by the names of the first two and their lengths in tokens.
"""

from collections import OrderedDict
from typing import Protocol

PAGE = 16  # tokens; only whole pages are reused
SIMILAR = 0.1  # llama.cpp takes the slot with the longest common prefix if it is at least this share of the prompt


class Prompt(Protocol):
    """What a cache needs to know of a request."""

    system: str
    system_tokens: int
    conversation: str
    history: int  # tokens after the system prompt that earlier requests of this conversation had
    prompt: int  # all tokens
    place: int  # the slot it runs in


class Cache(Protocol):
    def match(self, job: Prompt) -> int:
        """Return how many tokens of the prompt need not be read."""

    def take(self, job: Prompt) -> int:
        """Begin a request, and return the tokens that need not be read."""

    def keep(self, job: Prompt, tokens: int, room: float) -> None:
        """Keep the system prompt and `tokens` of what follows it, within `room` tokens for all prefixes."""

    def end(self, job: Prompt) -> None:
        """The request ended."""

    def shrink(self, room: float) -> None:
        """Forget the oldest prefixes until the rest takes at most `room` tokens."""

    def clear(self) -> None:
        """Forget everything."""


class Pages:
    """The least recently used prefix goes first."""

    def __init__(self) -> None:
        self._tokens: OrderedDict[str, int] = OrderedDict()
        self.total = 0

    def match(self, job: Prompt) -> int:
        cached = min(self._tokens.get(job.system, 0), job.system_tokens)
        if cached == job.system_tokens:
            cached += min(self._tokens.get(job.conversation, 0), job.history)
        return min(cached - cached % PAGE, job.prompt - 1)

    def take(self, job: Prompt) -> int:
        for name in (job.system, job.conversation):
            if name in self._tokens:
                self._tokens.move_to_end(name)
        return self.match(job)

    def keep(self, job: Prompt, tokens: int, room: float) -> None:
        self._put(job.system, job.system_tokens)
        self._put(job.conversation, tokens)
        self.shrink(room)

    def _put(self, name: str, tokens: int) -> None:
        before = self._tokens.get(name, 0)
        if tokens > before:
            self._tokens[name] = tokens
            self.total += tokens - before
        if before:
            self._tokens.move_to_end(name)

    def end(self, job: Prompt) -> None:
        pass

    def shrink(self, room: float) -> None:
        while self.total > room and self._tokens:
            name, tokens = self._tokens.popitem(last=False)
            left = min(tokens, int(room) - (self.total - tokens))
            self.total -= tokens
            if left > PAGE:
                self._tokens[name] = left
                self._tokens.move_to_end(name, last=False)
                self.total += left

    def clear(self) -> None:
        self._tokens.clear()
        self.total = 0


class _Slot:
    __slots__ = ("busy", "conversation", "system", "system_tokens", "tokens", "used")

    def __init__(self) -> None:
        self.system, self.system_tokens, self.conversation, self.tokens = "", 0, "", 0
        self.busy, self.used = False, 0

    def match(self, job: Prompt) -> int:
        if self.system != job.system:
            return 0
        cached = min(self.system_tokens, job.system_tokens)
        if cached == job.system_tokens and self.conversation == job.conversation:
            cached += min(self.tokens, job.history)
        return min(cached, job.prompt - 1)


class Slots:
    """Each slot keeps the prefix of its last request."""

    def __init__(self, count: int) -> None:
        self._slots = [_Slot() for _ in range(count)]
        self._uses = 0

    def _choose(self, job: Prompt) -> tuple[int, int]:
        """Return the slot and the tokens that it has of this prompt."""
        best, chosen, oldest = -1, -1, -1
        for number, slot in enumerate(self._slots):
            if slot.busy:
                continue
            if oldest < 0 or slot.used < self._slots[oldest].used:
                oldest = number
            if (cached := slot.match(job)) > best:
                best, chosen = cached, number
        if chosen < 0:
            return -1, 0
        return (chosen, best) if best >= SIMILAR * job.prompt else (oldest, self._slots[oldest].match(job))

    def match(self, job: Prompt) -> int:
        return self._choose(job)[1]

    def take(self, job: Prompt) -> int:
        number, cached = self._choose(job)
        slot = self._slots[number]
        slot.busy, job.place = True, number
        slot.system, slot.system_tokens = job.system, job.system_tokens
        slot.conversation, slot.tokens = job.conversation, job.prompt - job.system_tokens
        return cached

    def keep(self, job: Prompt, tokens: int, room: float) -> None:
        self._slots[job.place].tokens = tokens

    def end(self, job: Prompt) -> None:
        self._uses += 1
        slot = self._slots[job.place]
        slot.busy, slot.used = False, self._uses

    def shrink(self, room: float) -> None:
        pass

    def clear(self) -> None:
        for slot in self._slots:
            slot.system, slot.conversation, slot.used = "", "", 0
