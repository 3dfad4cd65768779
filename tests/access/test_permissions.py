from typing import Any

import pytest
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from access.directory import KeyEntry
from access.models import MANAGE_ENDPOINTS, PERMISSIONS, READ_ENDPOINTS, Role, User
from access.permissions import ANYBODY, SESSION, HasPermission
from tests.access.people import Api, key_for, make_admin, session_of, with_key

READS, WRITES = ("GET", "HEAD", "OPTIONS"), ("POST", "PUT", "PATCH", "DELETE")


class Plain:
    """A view that says nothing of what it needs."""


class NeedsMetrics:
    permission_needed = "metrics.read"


class NeedsSession:
    permission_needed = SESSION


class Open:
    permission_needed = ANYBODY


def asked(method: str, user: User | None, key: KeyEntry | None = None) -> Request:
    request = Request(APIRequestFactory().generic(method, "/api/anything"))
    request.user, request.auth = user, key  # type: ignore[assignment]  # nobody is None, by UNAUTHENTICATED_USER
    return request


def may(request: Request, view: Any = Plain) -> bool:
    try:
        return HasPermission().has_permission(request, view())
    except PermissionDenied:
        return False


def person(role: Role, **fields: Any) -> User:
    return User(username="x", role=role, **fields)


def key_with(*permissions: str) -> KeyEntry:
    return KeyEntry("1", "hash", "2", permissions, None)


@pytest.mark.parametrize("view", [Plain, NeedsMetrics, NeedsSession])
@pytest.mark.parametrize("method", READS + WRITES)
def test_nobody_may_nothing(view: Any, method: str) -> None:
    assert not may(asked(method, None), view)


@pytest.mark.parametrize("view", [Plain, NeedsMetrics, NeedsSession, Open])
@pytest.mark.parametrize("method", READS + WRITES)
def test_an_administrator_may_everything(view: Any, method: str) -> None:
    assert may(asked(method, person(Role.ADMIN)), view)


@pytest.mark.parametrize("view", [Plain, NeedsMetrics])
def test_a_viewer_may_what_reads(view: Any) -> None:
    assert all(may(asked(method, person(Role.VIEWER)), view) for method in READS)
    assert not any(may(asked(method, person(Role.VIEWER)), view) for method in WRITES)


@pytest.mark.parametrize("method", READS + WRITES)
def test_a_viewer_may_what_is_their_own(method: str) -> None:
    assert may(asked(method, person(Role.VIEWER)), NeedsSession)


@pytest.mark.parametrize("view", [Plain, NeedsMetrics, NeedsSession])
@pytest.mark.parametrize("role", Role)
def test_a_generated_password_opens_nothing(view: Any, role: Role) -> None:
    with pytest.raises(PermissionDenied, match="password_change_required"):
        HasPermission().has_permission(asked("GET", person(role, must_change_password=True)), view())


@pytest.mark.parametrize("user", [None, person(Role.VIEWER), person(Role.ADMIN, must_change_password=True)])
@pytest.mark.parametrize("method", READS + WRITES)
def test_what_is_open_to_anybody_is(user: User | None, method: str) -> None:
    assert may(asked(method, user), Open)


@pytest.mark.parametrize(
    ("method", "needed"),
    [(method, READ_ENDPOINTS) for method in READS] + [(method, MANAGE_ENDPOINTS) for method in WRITES],
)
def test_a_key_needs_the_endpoints_permission_by_default(method: str, needed: str) -> None:
    owner = person(Role.ADMIN)
    others = [name for name in PERMISSIONS if name != needed]
    assert may(asked(method, owner, key_with(needed)))
    assert not may(asked(method, owner, key_with(*others)))


@pytest.mark.parametrize("method", READS + WRITES)
def test_a_key_needs_what_the_view_says(method: str) -> None:
    owner = person(Role.ADMIN)
    assert may(asked(method, owner, key_with("metrics.read")), NeedsMetrics)
    assert not may(asked(method, owner, key_with(READ_ENDPOINTS, MANAGE_ENDPOINTS)), NeedsMetrics)


@pytest.mark.parametrize("method", READS + WRITES)
def test_a_key_never_does_what_takes_a_session(method: str) -> None:
    with pytest.raises(PermissionDenied, match="needs a login"):
        HasPermission().has_permission(asked(method, person(Role.ADMIN), key_with(*PERMISSIONS)), NeedsSession())


def test_a_key_goes_by_its_permissions_not_by_its_owners_role() -> None:
    assert may(asked("POST", person(Role.VIEWER), key_with(MANAGE_ENDPOINTS)))
    assert not may(asked("GET", person(Role.ADMIN), key_with()))


def test_a_missing_permission_is_named(admin: User) -> None:
    answer = with_key(key_for(admin)).call("GET", "/api/endpoints").json()
    assert answer == {"error": "This API key lacks the permission endpoints.read."}


def test_a_viewer_is_told_why(as_viewer: Api) -> None:
    assert as_viewer.call("POST", "/api/endpoints", {}).json() == {"error": "Administrators only."}


def test_a_generated_password_is_told_as_the_reference_tells_it(db: None) -> None:
    api = session_of(make_admin(must_change_password=True))
    assert api.call("GET", "/api/endpoints").json() == {"error": "password_change_required"}
