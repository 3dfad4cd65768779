"""Django's sessions over ours (settings.SESSION_ENGINE): what a request's cookie stands for."""

from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.core import signing

from access.directory import access
from access.sessions import NOBODY, Client, new_token, session_id, sessions

SALT = "access.sessions"
LOCAL_COOKIE, LOCAL_SALT, LOCAL_SECONDS = "routerdash_local", "access.local", 60

UPDATED, ENDED = "updated", "ended"  # why a cookie opens nothing any more


class SessionStore(SessionBase):
    """The session of one request. Its key is the cookie's whole value: a random token, and its signature.

    Sessions are those of people who are logged in. What an anonymous visitor's session would hold is not kept.
    """

    def __init__(self, session_key: str | None = None, client: Client = NOBODY) -> None:
        super().__init__(session_key)
        self._client = client
        self._loaded = ""  # the key under which there was a session
        self.admin = True  # is it an administrator's? Where that is not known, the shorter limit holds
        self.why = ""  # why the cookie opens nothing
        self.end_is_durable = True

    @property
    def id(self) -> str:
        """Of the session that this request has; empty for none."""
        token = _token(self.session_key)
        return session_id(token) if token else ""

    def load(self) -> dict[str, Any]:
        key = self.session_key or ""
        token = _token(key)
        found = sessions.use(token, self._client) if token else None
        if found is None:
            self.why = UPDATED if is_outdated(key) else ENDED
            self._session_key = None
            return {}
        self._loaded = key
        self.admin = found.admin
        return _data(found.user_id, found.stamp)

    def exists(self, session_key: str) -> bool:
        token = _token(session_key)
        return bool(token) and sessions.get(session_id(token)) is not None

    def create(self) -> None:
        """A new key. The session begins with `save`, once it is known whose it is."""
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
            raise UpdateError  # it was ended while this request ran
        sessions.begin(user_id, data[HASH_SESSION_KEY], admin=self.admin, client=self._client, token=_token(key))

    def delete(self, session_key: str | None = None) -> None:
        token = _token(session_key or self.session_key)
        if token:
            self.end_is_durable = sessions.end([session_id(token)])

    @classmethod
    def clear_expired(cls) -> None:
        sessions.tend()


def is_outdated(cookie: str) -> bool:
    """Is it of a release in which the cookie held the session itself, as Django's signing writes it?"""
    return cookie.count(":") == 2


def _token(session_key: str | None) -> str:
    """Empty where the signature does not fit."""
    try:
        return signing.Signer(salt=SALT).unsign(session_key or "")
    except signing.BadSignature:
        return ""


def _data(user_id: str, stamp: str) -> dict[str, Any]:
    return {SESSION_KEY: user_id, BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[0], HASH_SESSION_KEY: stamp}


# The auditor (metrics.reconcile) asks control as the first administrator. It proves by the secret key who it is, and
# comes over control's own socket, which no other user of this machine can open.


def local_cookie(user: AbstractBaseUser) -> str:
    """A cookie that lets this process ask control as this user, for a minute; not through a gateway."""
    return f"{LOCAL_COOKIE}={signing.TimestampSigner(salt=LOCAL_SALT).sign(str(user.pk))}"


def local_session(cookie: str) -> SessionStore | None:
    """Of a request that came to control's socket by itself. It is in no list, and ends with the request."""
    try:
        user_id = signing.TimestampSigner(salt=LOCAL_SALT).unsign(cookie, max_age=LOCAL_SECONDS)
    except signing.BadSignature:
        return None
    user = access.user(user_id)
    if user is None:
        return None
    session = SessionStore()
    session._session_cache = _data(user_id, user.get_session_auth_hash())
    return session
