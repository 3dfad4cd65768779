"""Who calls in tests: people with sessions, scripts with keys; and a database that is away."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.db import connection
from django.test import Client

from access.models import ApiKey, Role, User
from benchmarks.process import free_port

PASSWORD = "correct horse battery staple"


class Api(Client):
    """Django's test client as a script or page uses the API: JSON both ways."""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Any answer that is an error has the one shape of errors."""
        data = "" if body is None else json.dumps(body)
        response = self.generic(method, path, data, content_type="application/json")
        if response.status_code >= 400:
            assert response["Content-Type"] == "application/json"
            assert isinstance(response.json()["error"], str)
        return response


def make_user(username: str = "vera", role: str = Role.VIEWER, password: str = PASSWORD, **fields: Any) -> User:
    return User.objects.create_user(username, password, role, **fields)


def make_admin(username: str = "ada", **fields: Any) -> User:
    return make_user(username, Role.ADMIN, **fields)


def session_of(user: User, **options: Any) -> Api:
    """A client that is logged in."""
    client = Api(**options)
    client.force_login(user)
    return client


def with_key(key: str, header: str = "X-API-Key") -> Api:
    """A client that shows a key."""
    return Api(headers={header: key if header == "X-API-Key" else f"Bearer {key}"})


def key_for(owner: User, *permissions: str, name: str = "script", **fields: Any) -> str:
    return ApiKey.issue(owner, name, permissions, **fields)[1]


def without_database(call: Callable[[], Any]) -> Any:
    """Call it in a thread of its own, whose connection leads to no database."""

    def run() -> Any:
        connection.settings_dict = {
            **connection.settings_dict,
            "NAME": "/nowhere/routerdash.sqlite3",
            "HOST": "127.0.0.1",
            "PORT": str(free_port()),
        }
        try:
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()
