"""Authentication for the JSON API: by API key or by session. Neither reads the database."""

import time

from rest_framework import authentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.request import Request

from access.directory import KeyEntry, access
from access.models import READ_ENDPOINTS, READ_METRICS, User, hash_key
from endpoints.local_key import is_local_key
from gateway.registry.key_rules import allowed_use

FORWARDED = "HTTP_X_ROUTERDASH_CLIENT"  # header of every request that a gateway forwards (gateway.http.control_proxy)
LOCAL_ENTRY = KeyEntry("", "", "", (READ_ENDPOINTS, READ_METRICS), expires_at=None)  # of keys of endpoints.local_key


class ApiKeyAuthentication(authentication.BaseAuthentication):
    """Authentication by the API key in `X-API-Key`, else in `Authorization: Bearer`.

    A wrong key is an error, even if the request has a valid session.
    """

    def authenticate(self, request: Request) -> tuple[User, KeyEntry] | None:
        key = request.headers.get("X-API-Key") or _bearer(request.headers.get("Authorization", ""))
        if not key:
            return None
        if FORWARDED not in request.META and is_local_key(key):
            return User(username="reconcile"), LOCAL_ENTRY
        entry = access.key(hash_key(key))
        owner = access.user(entry.owner_id) if entry else None
        if entry is None or owner is None:
            raise AuthenticationFailed("This API key is not known.")
        if entry.expires_at is not None and entry.expires_at <= time.time():
            raise AuthenticationFailed("This API key has expired.")
        if not entry.enabled:
            raise AuthenticationFailed("This API key is disabled.")
        use = allowed_use(entry.rules)
        if use is not None and not use.allows_address(request.META.get("REMOTE_ADDR")):
            raise PermissionDenied("This API key may not be used from this network.")
        return owner, entry

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class SessionAuthentication(authentication.SessionAuthentication):
    """Authentication by Django's session, with its CSRF check."""

    def authenticate_header(self, request: Request) -> str:
        return "Session"


def _bearer(header: str) -> str:
    kind, _, key = header.partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""
