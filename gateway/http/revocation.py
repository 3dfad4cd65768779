"""Revocation: ends requests whose API key was deleted, lost its permission, or expired while they wait or run."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from gateway.base import causes, errors
from gateway.base.errors import Refusal
from gateway.http.exchange import Exchange
from gateway.registry.schema import ApiKey

MAX_ENDED = 50  # requests that are ended in one iteration of the event loop; the next iterations end the others


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a request is ended before its response is complete."""

    status: int
    code: str
    message: str  # for the client
    error: str  # for the record


CANCELLED_STATUS = 499  # of a request that an administrator cancelled: no client repeats it on its own
BY_ADMINISTRATOR = Ending(
    CANCELLED_STATUS, errors.REQUEST_CANCELLED, "An administrator cancelled this request.", causes.CANCELLED
)


class KeyedRequest(Protocol):
    """A request that may bear an API key."""

    @property
    def exchange(self) -> Exchange: ...


R = TypeVar("R", bound=KeyedRequest)

REVOKED = Ending(401, errors.INVALID_API_KEY, "The API key of this request was revoked.", causes.KEY_REVOKED)
DISABLED = Ending(401, errors.KEY_DISABLED, "The API key of this request was disabled.", causes.KEY_DISABLED)
EXPIRED = Ending(401, errors.INVALID_API_KEY, "The API key of this request has expired.", causes.KEY_EXPIRED)


class CurrentKeys(Protocol):
    """The API keys of this process: gateway.routing.roster.Roster."""

    keys_version: int
    next_expiry: float  # seconds since 1970

    def key_of(self, digest: bytes) -> ApiKey | None:
        """Return the API key with this SHA-256. Raises Refusal."""

    def take_changed_keys(self) -> Mapping[str, ApiKey | None] | None:
        """Return the keys that changed since the last call, by id; None if any key may have changed."""

    def forget_expiry(self) -> None:
        """Look up all keys again: one of them has expired."""


class Revocation(Generic[R]):
    """Finds the requests to end. While no key changes and none expires, it costs two comparisons."""

    def __init__(self) -> None:
        self._version = -1
        self._due: list[tuple[R, Ending]] = []

    @property
    def pending(self) -> bool:
        """True while requests are left that `due` has found and not returned yet."""
        return bool(self._due)

    def due(self, keys: CurrentKeys, running: Collection[R], now: float) -> list[tuple[R, Ending]]:
        """Return the requests to end now, in seconds since 1970."""
        if keys.keys_version != self._version or now >= keys.next_expiry:
            self._find(keys, running, now)
        if not self._due:
            return []
        due, self._due = self._due[:MAX_ENDED], self._due[MAX_ENDED:]
        return due

    def _find(self, keys: CurrentKeys, running: Collection[R], now: float) -> None:
        changed = keys.take_changed_keys()
        if now >= keys.next_expiry:
            changed = None
            keys.forget_expiry()
        self._version = keys.keys_version
        for request in running:
            admitted_by = request.exchange.api_key
            if admitted_by is None or (changed is not None and admitted_by.id not in changed):
                continue
            current = None if changed is None else changed[admitted_by.id]
            if changed is None or (current is not None and current.digest != admitted_by.digest):
                current = _current(keys, admitted_by)
            if (reason := ending(request.exchange, admitted_by, current, now)) is not None:
                self._due.append((request, reason))
            elif current is not None and admitted_by.permissions and _may_use_other(admitted_by, current):
                request.exchange.api_key = current  # by which it gets an endpoint while it waits


def _current(keys: CurrentKeys, admitted_by: ApiKey) -> ApiKey | None:
    if not admitted_by.digest:
        return admitted_by  # of the playground, while control does not know it
    try:
        return keys.key_of(admitted_by.digest)
    except Refusal:  # the store cannot be read: requests continue with what is in memory
        return admitted_by


def _may_use_other(admitted_by: ApiKey, current: ApiKey) -> bool:
    """Return True if a key may use other endpoints or models than before."""
    return admitted_by.external != current.external or admitted_by.allowed is not current.allowed


def ending(exchange: Exchange, admitted_by: ApiKey, current: ApiKey | None, now: float) -> Ending | None:
    """Return why an admitted request must end, by the current state of its key; None if it may continue."""
    if current is None or current.id != admitted_by.id:
        return REVOKED
    if not current.enabled:
        return DISABLED
    if current.expires_at is not None and current.expires_at <= now:
        return EXPIRED
    permission = "" if exchange.route is None else exchange.route.permission
    if permission in admitted_by.permissions and permission not in current.permissions:
        return REVOKED
    return None
