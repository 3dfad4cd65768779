"""Requests that lose their API key while they wait or run: it was deleted, it lost its permission, or it expired."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from gateway import errors
from gateway.exchange import Exchange
from gateway.snapshot import ApiKey, Snapshot

AT_ONCE = 50  # requests that are ended in one turn of the event loop; the next turns end the others
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a request is ended before its answer is whole: what its client is told, and what its record says."""

    status: int
    code: str
    message: str
    error: str


class Request(Protocol):
    @property
    def exchange(self) -> Exchange: ...


R = TypeVar("R", bound=Request)

REVOKED = Ending(401, errors.INVALID_API_KEY, "The API key of this request was revoked.", "its API key was revoked")
EXPIRED = Ending(401, errors.INVALID_API_KEY, "The API key of this request has expired.", "its API key has expired")


class Revocation(Generic[R]):
    """Finds these requests. It costs only a comparison while there is no new snapshot and no key expires."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._next_expiry = NEVER  # seconds since 1970
        self._due: list[tuple[R, Ending]] = []

    def look(
        self,
        snapshot: Snapshot | None,
        keys: Mapping[str, ApiKey],
        running: Collection[R],
        now: float,
    ) -> list[tuple[R, Ending]]:
        """Called many times a second; the requests to be ended now. `keys` are the snapshot's, by id; `now` is in
        seconds since 1970.
        """
        if snapshot is not self._snapshot or now >= self._next_expiry:
            self._snapshot = snapshot
            expiries = (key.expires_at for key in keys.values() if key.expires_at is not None and key.expires_at > now)
            self._next_expiry = min(expiries, default=NEVER)
            found = ((it, ending(it.exchange, keys, now)) for it in running)
            self._due += [(it, why) for it, why in found if why is not None]
        if not self._due:
            return []
        due, self._due = self._due[:AT_ONCE], self._due[AT_ONCE:]
        return due


def ending(exchange: Exchange, keys: Mapping[str, ApiKey], now: float) -> Ending | None:
    """Why a request that was let in must end, by the keys that there are now; None if it may go on."""
    let_in = exchange.api_key
    if let_in is None:
        return None
    key = keys.get(let_in.id)
    if key is None:
        return REVOKED
    if key.expires_at is not None and key.expires_at <= now:
        return EXPIRED
    needed = "" if exchange.route is None else exchange.route.permission
    if needed in let_in.permissions and needed not in key.permissions:
        return REVOKED
    return None
