"""What was learned about endpoints and models, and what of it gateways have: when it is worth a new version."""

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from gateway.registry.schema import Lengths, Speeds
from gateway.registry.writer import Changes
from gateway.routing.adaptive import SLOW_START
from metrics.learning.fleet import Target
from routerdash.publication.publisher import Publisher

MOVED = 0.05  # a change by this part is published at once
PUBLISH_SECONDS = 10.0  # after which smaller changes are published too
KEPT_MOVED = 0.05  # of a share

LengthsOf = tuple[str, str | None]  # requested model, API key or all clients

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Facts(Generic[K, V]):
    """Facts by key: those that are published, and those that are not yet."""

    def __init__(self) -> None:
        self.published: dict[K, V] = {}
        self.waiting: dict[K, V | None] = {}

    def update(self, facts: Mapping[K, V | None]) -> None:
        for key, value in facts.items():
            if key in self.published and value == self.published[key]:
                self.waiting.pop(key, None)
            else:
                self.waiting[key] = value

    def take(self) -> dict[K, V | None]:
        taken, self.waiting = self.waiting, {}
        for key, value in taken.items():
            if value is None:
                self.published.pop(key, None)
            else:
                self.published[key] = value
        return taken

    def lose(self) -> None:
        self.waiting = {**self.published, **self.waiting}
        self.published = {}


class Learned:
    """All that was learned. Only one thread uses it."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._speeds: _Facts[Target, Speeds] = _Facts()
        self._lengths: _Facts[LengthsOf, Lengths] = _Facts()
        self._waits_since: float | None = None  # seconds of a clock

    def known_lengths(self) -> set[LengthsOf]:
        """Return the keys of all lengths that are published, or will be."""
        return {*self._lengths.published, *self._lengths.waiting}

    def update(self, speeds: Mapping[Target, Speeds | None], lengths: Mapping[LengthsOf, Lengths | None]) -> None:
        """Take new facts; None: there is none any more."""
        self._speeds.update(speeds)
        self._lengths.update(lengths)

    def lose_published(self) -> None:
        """Publish all again, because there is a new registry store. Rows that it has are not written."""
        self._speeds.lose()
        self._lengths.lose()

    def publish(self, now: float) -> float | None:
        """Publish if something has moved or has waited long; return the seconds after which it will have, or None."""
        if not self._speeds.waiting and not self._lengths.waiting:
            self._waits_since = None
            return None
        if self._waits_since is None:
            self._waits_since = now
        left = self._waits_since + PUBLISH_SECONDS - now
        if left > 0 and not self._has_moved():
            return left
        self._waits_since = None
        self._publisher.publish_learned(Changes(speeds=self._speeds.take(), lengths=self._lengths.take()))
        return None

    def _has_moved(self) -> bool:
        speeds, lengths = self._speeds, self._lengths
        return any(speeds_moved(speeds.published.get(key), value) for key, value in speeds.waiting.items()) or any(
            lengths_moved(lengths.published.get(key), value) for key, value in lengths.waiting.items()
        )


def speeds_moved(before: Speeds | None, after: Speeds | None) -> bool:
    """Return True if routing should know of the change at once."""
    if before is None or after is None:
        return before is not after
    if before.completions != after.completions and min(before.completions, after.completions) < SLOW_START:
        return True
    if any(abs(one - other) > KEPT_MOVED for one, other in zip(before.kept, after.kept, strict=True)):
        return True
    if abs(after.load - before.load) > MOVED * before.load:
        return True
    # A parameter near 0 may move by any factor without an effect on a duration, so that it is compared with the others.
    floors = (after.write, after.write / 100, 0.0, after.write / 100)
    pairs = zip(
        (before.setup, before.read, before.write, before.share),
        (after.setup, after.read, after.write, after.share),
        floors,
        strict=True,
    )
    return any(abs(new - old) > MOVED * max(old, floor) for old, new, floor in pairs)


def lengths_moved(before: Lengths | None, after: Lengths | None) -> bool:
    """Return True if routing should know of the change at once."""
    if before is None or after is None:
        return before is not after
    return _moved(before.output, after.output) or _moved(before.bytes_per_token, after.bytes_per_token)


def _moved(before: float | None, after: float | None) -> bool:
    if before is None or after is None:
        return before is not after
    return abs(after - before) > MOVED * before
