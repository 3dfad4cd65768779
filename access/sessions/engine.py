"""Session engine for Django (settings.SESSION_ENGINE) on top of access.sessions.store."""

from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.core import signing

from access.sessions.store import UNKNOWN_CLIENT, Client, new_token, session_id, sessions

SALT = "access.sessions.store"

UPDATED, ENDED = "updated", "ended"  # reasons why a cookie is invalid


class SessionStore(SessionBase):
    """Session of one request. Its key is the whole value of the cookie: a random token and its signature.

    Only users that are logged in have sessions. The data of an anonymous session is not stored.
    """

    def __init__(self, session_key: str | None = None, client: Client = UNKNOWN_CLIENT) -> None:
        super().__init__(session_key)
        self._client = client
        self._loaded = ""  # the key under which `load` found a session
        self.admin = True  # True if it is an administrator's; the default is the shorter limit
        self.invalid_reason = ""  # reason why the cookie is invalid: UPDATED, ENDED or empty
        self.end_is_durable = True

    @property
    def id(self) -> str:
        """Return the id of the request's session; empty if it has none."""
        token = _token(self.session_key)
        return session_id(token) if token else ""

    def load(self) -> dict[str, Any]:
        key = self.session_key or ""
        token = _token(key)
        session = sessions.use(token, self._client) if token else None
        if session is None:
            self.invalid_reason = UPDATED if is_outdated(key) else ENDED
            self._session_key = None
            return {}
        self._loaded = key
        self.admin = session.admin
        return _data(session.user_id, session.stamp)

    def exists(self, session_key: str) -> bool:
        token = _token(session_key)
        return bool(token) and sessions.get(session_id(token)) is not None

    def create(self) -> None:
        """Create a new key. The session itself begins in `save`, when the data names the user."""
        self._session_key = signing.Signer(salt=SALT).sign(new_token())
        self._session_cache: dict[str, Any] = {}
        self.modified = True

    def save(self, must_create: bool = False) -> None:
        data: dict[str, Any] = self._get_session(no_load=must_create)  # type: ignore[attr-defined]
        if (user_id := data.get(SESSION_KEY)) is None:
            return
        if self.session_key is None:
            self._session_key = signing.Signer(salt=SALT).sign(new_token())
        key = self.session_key or ""
        if self.exists(key):
            return
        if key == self._loaded:
            raise UpdateError  # the session ended while this request ran
        sessions.begin(user_id, data[HASH_SESSION_KEY], admin=self.admin, client=self._client, token=_token(key))

    def delete(self, session_key: str | None = None) -> None:
        token = _token(session_key or self.session_key)
        if token:
            self.end_is_durable = sessions.end([session_id(token)])

    @classmethod
    def clear_expired(cls) -> None:
        sessions.maintain()


def is_outdated(cookie: str) -> bool:
    """Return True if an older release wrote the cookie, with the signed session data as its value."""
    return cookie.count(":") == 2


def _token(session_key: str | None) -> str:
    """Return the token of a cookie; empty if the signature is invalid."""
    try:
        return signing.Signer(salt=SALT).unsign(session_key or "")
    except signing.BadSignature:
        return ""


def _data(user_id: str, stamp: str) -> dict[str, str]:
    return {SESSION_KEY: user_id, BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[0], HASH_SESSION_KEY: stamp}
