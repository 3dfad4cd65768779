"""Who calls the JSON API: a script by its key, a person by a session. Neither needs the database."""

import time
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework import authentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from access.directory import KeyEntry, access
from access.models import User, hash_key


class ApiKeyAuthentication(authentication.BaseAuthentication):
    """`X-API-Key`, else `Authorization: Bearer`. A key that is given but wrong is an error, whatever else is given."""

    def authenticate(self, request: Request) -> tuple[User, KeyEntry] | None:
        key = request.headers.get("X-API-Key") or _bearer(request.headers.get("Authorization", ""))
        if not key:
            return None
        found = access.key(hash_key(key))
        owner = access.user(found.owner_id) if found else None
        if found is None or owner is None:
            raise AuthenticationFailed("This API key is not known.")
        if found.expires_at is not None and found.expires_at <= time.time():
            raise AuthenticationFailed("This API key has expired.")
        return owner, found

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class SessionAuthentication(authentication.SessionAuthentication):
    """Django's session, with its CSRF check."""

    def authenticate_header(self, request: Request) -> str:
        return "Session"


def _bearer(header: str) -> str:
    kind, _, key = header.partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "access.authentication.ApiKeyAuthentication"
    name: Any = ("apiKey", "bearer")

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[str]]]:
        return [{"apiKey": []}, {"bearer": []}]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        return [
            {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            {"type": "http", "scheme": "bearer"},
        ]


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "access.authentication.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": "routerdash_session"}
