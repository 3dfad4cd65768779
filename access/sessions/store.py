"""Store of the sessions of all browsers, in the memory of control and in a file (access.sessions.file).

A cookie contains 256 random bits and a signature; their SHA-256 is the id of the session. Only control checks sessions,
so an ended session is invalid from the next request on. The callbacks of `watch` notify responses that still run under
the session. In processes other than control, and in tests, sessions are in memory alone.
"""

import hashlib
import logging
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from access.models import User
from access.sessions.file import NotWritten, Session, SessionFile
from access.stored_users import StoredUser, decode_users, encode_user, open_users, stored_user
from gateway.base.bounds import SESSIONS_PER_USER
from gateway.base.config import Config
from gateway.ipc.bound_hits import Hits

log = logging.getLogger(__name__)

SEEN_SECONDS = 60.0  # interval for writing the last uses of sessions to disk
RETRY_SECONDS = 5.0  # interval until a failed write of the file is repeated
SWEEP_SECONDS = 5.0
MAX_PER_USER = 50  # above this, the sessions used longest ago are ended
MAX_AGENT_CHARACTERS = 300  # stored characters of the User-Agent header


@dataclass(frozen=True, slots=True)
class Limits:
    """Lifetimes of a session in seconds: `idle` counts from its last use, `absolute` from its login."""

    idle: float = 7 * 86400.0
    admin_idle: float = 12 * 3600.0
    absolute: float = 14 * 86400.0


@dataclass(frozen=True, slots=True)
class Client:
    """Client address and User-Agent header of a request."""

    address: str = ""
    agent: str = ""


UNKNOWN_CLIENT = Client()


def session_id(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


class Sessions:
    """All sessions. Reads take no lock, because a request must not wait for a disk write of another request."""

    def __init__(self, limits: Limits | None = None, clock: Callable[[], float] = time.time) -> None:
        """Set the limits and the `clock`, which returns seconds since 1970."""
        self.limits = limits or Limits()
        self.hits = Hits()
        self.problem = ""  # reason why the file differs from memory; empty if it does not
        self._clock = clock
        self._lock = threading.RLock()
        self._all: dict[str, Session] = {}
        self._watchers: defaultdict[str, list[Callable[[], object]]] = defaultdict(list)
        self._stored_users: dict[str, StoredUser] = {}
        self._file: SessionFile | None = None
        self._seen: set[str] = set()  # used since the last write
        self._seen_at = self._tried_at = self._swept_at = clock()

    # Start and stop of the process

    def open(self, path: Path, secret: str, hits: Hits | None = None) -> None:
        """Load the sessions and the users from the file, and write all later changes to it.

        `hits`: of limits, over all processes; None: those of this process are counted alone.
        """
        with self._lock:
            self.hits = hits or self.hits
            self._file = SessionFile(path, secret)
            loaded, stored = self._file.read()
            self._all = {session.id: session for session in loaded}
            self._stored_users = decode_users(stored.values())
            for session in loaded:  # the present role, because a changed role is not written into each session
                if session.user_id in self._stored_users:
                    session.admin = self._stored_users[session.user_id].is_admin
            self._sweep(self._clock())

    def close(self) -> None:
        """Write all pending changes and close the file. Sessions continue after the next start."""
        with self._lock:
            self._write_seen()
            if self.problem:
                self._write_all()
            if self._file is not None:
                self._file.close()
            self._file = None

    def forget(self) -> None:
        """Reset to the unopened state, for tests."""
        with self._lock:
            self._all.clear()
            self._watchers.clear()
            self._seen.clear()
            self._stored_users, self._file, self.problem = {}, None, ""

    def is_due(self) -> bool:
        """Return True if `maintain` has something to do. It takes no lock, so that an event loop may ask."""
        now = self._clock()
        return bool(
            (self._all and now - self._swept_at >= SWEEP_SECONDS)
            or (self._seen and now - self._seen_at >= SEEN_SECONDS)
            or (self.problem and now - self._tried_at >= RETRY_SECONDS)
        )

    def maintain(self) -> None:
        """End expired sessions, write their last uses, and repeat a failed write.

        The caller asks about every second whether that is due.
        """
        now = self._clock()
        with self._lock:
            if now - self._swept_at >= SWEEP_SECONDS:
                self._swept_at = now
                self._sweep(now)
            if now - self._seen_at >= SEEN_SECONDS:
                self._seen_at = now
                self._write_seen()
            if self.problem and now - self._tried_at >= RETRY_SECONDS:
                self._tried_at = now
                self._write_all()

    # Logins and requests

    def begin(self, user_id: str, stamp: str, *, admin: bool, client: Client = UNKNOWN_CLIENT, token: str = "") -> str:
        """Create a session and return its token. The session is valid even if the write fails (see `problem`)."""
        token = token or new_token()
        now = self._clock()
        agent = client.agent[:MAX_AGENT_CHARACTERS]
        session = Session(session_id(token), user_id, stamp, admin, now, now, client.address, agent)
        with self._lock:
            self._all[session.id] = session
            self._write(put=[session])
            if too_many := self.of(user_id)[MAX_PER_USER:]:
                self.hits.hit(SESSIONS_PER_USER)
                self.end(session.id for session in too_many)
        return token

    def get(self, key: str) -> Session | None:
        """Return the session with this id unless it has expired. This does not count as a use."""
        session = self._all.get(key)
        return None if session is None or self._over(session, self._clock()) else session

    def use(self, token: str, client: Client = UNKNOWN_CLIENT) -> Session | None:
        """Return the session of a request unless it has expired, and record the use."""
        session = self._all.get(session_id(token))
        if session is None:
            return None
        now = self._clock()
        if self._over(session, now):
            self.end([session.id])
            return None
        session.seen = now
        session.address = client.address or session.address
        session.agent = client.agent[:MAX_AGENT_CHARACTERS] or session.agent
        self._seen.add(session.id)
        return session

    def of(self, user_id: str) -> list[Session]:
        """Return the sessions of a user, the last used one first."""
        own = (session for session in self.all() if session.user_id == user_id)
        return sorted(own, key=lambda session: -session.seen)

    def all(self) -> list[Session]:
        now = self._clock()
        with self._lock:
            return [session for session in self._all.values() if not self._over(session, now)]

    # Ends of sessions

    def end(self, ids: Iterable[str]) -> bool:
        """End the sessions at once and call their watchers.

        Return True if the end is on disk, so that a restart cannot restore the sessions.
        """
        with self._lock:
            ended = [key for key in ids if self._all.pop(key, None) is not None]
            callbacks = [callback for key in ended for callback in self._watchers.pop(key, ())]
            self._seen.difference_update(ended)
            written = not ended or self._write(end=ended) or self._remove_file()
        for callback in callbacks:
            callback()
        return written

    def end_all_of(self, user_id: str, *, excluded: str = "") -> tuple[int, bool]:
        """End all sessions of a user except `excluded` (an id). Return their number, and True if the end is on disk."""
        with self._lock:
            ids = [session.id for session in self.of(user_id) if session.id != excluded]
            return len(ids), self.end(ids)

    def new_secret(self, secret: str) -> None:
        """End all sessions. With the new secret, the sessions in older copies of the file are invalid too."""
        with self._lock:
            self.end(list(self._all))
            if self._file is not None:
                self._write_all(secret)

    def watch(self, key: str, ended: Callable[[], object]) -> Callable[[], None]:
        """Call `ended` once, in any thread, when the session with this id ends.

        If the session does not exist, `ended` is called at once. Return a function that cancels the callback.
        """
        with self._lock:
            alive = key in self._all
            if alive:
                self._watchers[key].append(ended)
        if not alive:
            ended()
        return lambda: self._unwatch(key, ended)

    def _unwatch(self, key: str, ended: Callable[[], object]) -> None:
        with self._lock:
            watchers = self._watchers.get(key, [])
            if ended in watchers:
                watchers.remove(ended)
            if not watchers:
                self._watchers.pop(key, None)

    # Users

    def stored_users(self) -> dict[str, User]:
        """Return the users in the file by id."""
        with self._lock:
            return open_users(self._stored_users.values())

    def restamp(self, user_id: str, before: str, after: str) -> None:
        """Keep the sessions of a user valid after a change of the password."""
        with self._lock:
            changed = [session for session in self.of(user_id) if session.stamp == before]
            for session in changed:
                session.stamp = after
            self._write(put=changed)

    def follow(self, users: Mapping[str, User]) -> None:
        """Apply the users read from the database: end sessions of deleted users and of users with a new password."""
        with self._lock:
            known = {user_id: users[user_id] for user_id in self._user_ids() if user_id in users}
            stamps = {user_id: user.get_session_auth_hash() for user_id, user in known.items()}
            self.end([session.id for session in self._all.values() if stamps.get(session.user_id) != session.stamp])
            for session in self._all.values():
                session.admin = known[session.user_id].is_admin
            self._store_users(users)

    def _user_ids(self) -> set[str]:
        return {session.user_id for session in self._all.values()}

    def _store_users(self, users: Mapping[str, User]) -> None:
        if self._file is None:
            return
        known = self._stored_users
        changed: dict[str, str | None] = {user_id: None for user_id in known if user_id not in users}
        for user_id in changed:
            del known[user_id]
        for user_id, user in users.items():
            if user_id not in known or not known[user_id].is_of(user):
                known[user_id] = stored_user(user)
                changed[user_id] = encode_user(known[user_id])
        if changed:
            self._write(users=changed)

    # Methods that require the lock

    def _over(self, session: Session, now: float) -> bool:
        idle = self.limits.admin_idle if session.admin else self.limits.idle
        return now - session.seen >= idle or now - session.created >= self.limits.absolute

    def _sweep(self, now: float) -> None:
        over = [session.id for session in self._all.values() if self._over(session, now)]
        if over:
            self.end(over)

    def _write_seen(self) -> None:
        seen, self._seen = self._seen, set()  # requests add to the set without the lock
        if put := [self._all[key] for key in tuple(seen) if key in self._all]:
            self._write(put=put)

    def _write(
        self,
        *,
        put: Iterable[Session] = (),
        end: Iterable[str] = (),
        users: Mapping[str, str | None] | None = None,
    ) -> bool:
        """Write the changes; return True if the file now contains them, or if there is no file."""
        if self._file is None:
            return True
        if self.problem:
            return self._write_all()
        try:
            self._file.write(put=put, end=end, users=users)
        except NotWritten as error:
            self._fail(error)
            return False
        return True

    def _write_all(self, secret: str | None = None) -> bool:
        assert self._file is not None
        try:
            users = {user_id: encode_user(user) for user_id, user in self._stored_users.items()}
            self._file.replace(self._all.values(), users, secret)
        except NotWritten as error:
            self._fail(error)
            return False
        if self.problem:
            log.info("sessions can be written to disk again")
        self.problem = ""
        return True

    def _fail(self, error: NotWritten) -> None:
        if not self.problem:
            log.error("sessions cannot be written to disk: %s; they stay in memory until the next attempt", error)
        self.problem = str(error)
        self._tried_at = self._clock()

    def _remove_file(self) -> bool:
        """Remove the file after a failed write, and return True if that worked.

        A restart must not restore an ended session: without the file, all users have to log in again.
        """
        assert self._file is not None
        try:
            self._file.remove()
        except OSError as error:
            log.error(
                "a session was ended, but the session file can neither be written nor removed: %s; "
                "a restart can restore the session",
                error,
            )
            return False
        return True


def new_token() -> str:
    return secrets.token_urlsafe(32)


def limits_of(config: Config) -> Limits:
    hour, day = 3600.0, 86400.0
    return Limits(
        config.session_idle_hours * hour, config.admin_session_idle_hours * hour, config.session_max_days * day
    )


sessions = Sessions(limits_of(settings.ROUTERDASH))
