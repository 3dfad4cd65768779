"""Clients of tests: users with sessions, scripts with API keys, and requests without a database."""

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
        """Send a request with a JSON body. Any error response must have the common error shape."""
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
    """Return a client that is logged in."""
    client = Api(**options)
    client.force_login(user)
    return client


def with_key(key: str, header: str = "X-API-Key") -> Api:
    """Return a client that sends an API key."""
    return Api(headers={header: key if header == "X-API-Key" else f"Bearer {key}"})


def key_for(owner: User, *permissions: str, name: str = "script", **fields: Any) -> str:
    return ApiKey.issue(owner, name, permissions, **fields)[1]


def without_database(call: Callable[[], Any]) -> Any:
    """Call the function in its own thread, whose connection leads to no database."""

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
