from typing import Any

import pytest
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from access.directory import KeyEntry
from access.models import MANAGE_ENDPOINTS, PERMISSIONS, READ_ENDPOINTS, Role, User
from access.permissions import PUBLIC, SESSION, HasPermission
from tests.access.people import Api, key_for, make_admin, session_of, with_key

READS, WRITES = ("GET", "HEAD", "OPTIONS"), ("POST", "PUT", "PATCH", "DELETE")


class Plain:
    """A view that declares no permission."""


class NeedsMetrics:
    permission_needed = "metrics.read"


class NeedsSession:
    permission_needed = SESSION


class Open:
    permission_needed = PUBLIC


def make_request(method: str, user: User | None, key: KeyEntry | None = None) -> Request:
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
def test_anonymous_requests_have_no_permission(view: Any, method: str) -> None:
    assert not may(make_request(method, None), view)


@pytest.mark.parametrize("view", [Plain, NeedsMetrics, NeedsSession, Open])
@pytest.mark.parametrize("method", READS + WRITES)
def test_an_administrator_has_all_permissions(view: Any, method: str) -> None:
    assert may(make_request(method, person(Role.ADMIN)), view)


@pytest.mark.parametrize("view", [Plain, NeedsMetrics])
def test_a_viewer_can_read(view: Any) -> None:
    assert all(may(make_request(method, person(Role.VIEWER)), view) for method in READS)
    assert not any(may(make_request(method, person(Role.VIEWER)), view) for method in WRITES)


@pytest.mark.parametrize("method", READS + WRITES)
def test_a_viewer_can_change_their_own_objects(method: str) -> None:
    assert may(make_request(method, person(Role.VIEWER)), NeedsSession)


@pytest.mark.parametrize("view", [Plain, NeedsMetrics, NeedsSession])
@pytest.mark.parametrize("role", Role)
def test_a_generated_password_gives_no_access(view: Any, role: Role) -> None:
    with pytest.raises(PermissionDenied, match="password_change_required"):
        HasPermission().has_permission(make_request("GET", person(role, must_change_password=True)), view())


@pytest.mark.parametrize("user", [None, person(Role.VIEWER), person(Role.ADMIN, must_change_password=True)])
@pytest.mark.parametrize("method", READS + WRITES)
def test_open_views_need_no_permission(user: User | None, method: str) -> None:
    assert may(make_request(method, user), Open)


@pytest.mark.parametrize(
    ("method", "needed"),
    [(method, READ_ENDPOINTS) for method in READS] + [(method, MANAGE_ENDPOINTS) for method in WRITES],
)
def test_a_key_needs_the_endpoints_permission_by_default(method: str, needed: str) -> None:
    owner = person(Role.ADMIN)
    others = [name for name in PERMISSIONS if name != needed]
    assert may(make_request(method, owner, key_with(needed)))
    assert not may(make_request(method, owner, key_with(*others)))


@pytest.mark.parametrize("method", READS + WRITES)
def test_a_key_needs_the_permission_of_the_view(method: str) -> None:
    owner = person(Role.ADMIN)
    assert may(make_request(method, owner, key_with("metrics.read")), NeedsMetrics)
    assert not may(make_request(method, owner, key_with(READ_ENDPOINTS, MANAGE_ENDPOINTS)), NeedsMetrics)


@pytest.mark.parametrize("method", READS + WRITES)
def test_a_key_cannot_use_views_that_need_a_session(method: str) -> None:
    with pytest.raises(PermissionDenied, match="requires a login"):
        HasPermission().has_permission(make_request(method, person(Role.ADMIN), key_with(*PERMISSIONS)), NeedsSession())


def test_a_key_has_its_own_permissions_and_not_those_of_its_owner() -> None:
    assert may(make_request("POST", person(Role.VIEWER), key_with(MANAGE_ENDPOINTS)))
    assert not may(make_request("GET", person(Role.ADMIN), key_with()))


def test_a_missing_permission_is_named(admin: User) -> None:
    response = with_key(key_for(admin)).call("GET", "/api/endpoints").json()
    assert response == {"error": "This API key lacks the permission endpoints.read."}


def test_a_refused_viewer_gets_the_reason(as_viewer: Api) -> None:
    assert as_viewer.call("POST", "/api/endpoints", {}).json() == {"error": "Administrators only."}


def test_a_generated_password_is_reported_like_in_llmlb(db: None) -> None:
    api = session_of(make_admin(must_change_password=True))
    assert api.call("GET", "/api/endpoints").json() == {"error": "password_change_required"}
