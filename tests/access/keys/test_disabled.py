"""An API key that an administrator disabled is enabled by administrators alone."""

import pytest

from access.models import ApiKey, User
from tests.access.people import Api, make_admin, make_user, session_of

pytestmark = pytest.mark.django_db
CHANGELIST = "/admin/access/apikey/"


@pytest.fixture
def owner() -> User:
    return make_user("olga")


@pytest.fixture
def administrator() -> Api:
    return session_of(make_admin("ada"))


@pytest.fixture
def row(owner: User) -> ApiKey:
    return ApiKey.issue(owner, "script", ["openai.inference"])[0]


def by_action(client: Api, row: ApiKey, action: str) -> None:
    given = client.post(CHANGELIST, {"action": action, "_selected_action": [str(row.pk)]})
    assert given.status_code == 302


def by_form(client: Api, row: ApiKey, *, enabled: bool, name: str = "script") -> None:
    fields = {"name": name, "created_by": str(row.created_by_id), "permissions": ["openai.inference"]}
    given = client.post(f"{CHANGELIST}{row.pk}/change/", {**fields, **({"enabled": "on"} if enabled else {})})
    assert given.status_code == 302, given.content.decode()


def by_page(client: Api, row: ApiKey, *, enabled: bool) -> int:
    status: int = client.post(f"/keys/{row.pk}/enabled", {"enabled": str(enabled).lower()}).status_code
    return status


def by_api(client: Api, row: ApiKey, **fields: object) -> tuple[int, dict[str, object]]:
    given = client.call("PUT", f"/api/me/api-keys/{row.pk}", {"name": "script", **fields})
    return given.status_code, given.json()


def state(row: ApiKey) -> tuple[bool | None, bool | None]:
    row.refresh_from_db()
    return row.enabled, row.disabled_by_admin


@pytest.mark.parametrize("way", ["action", "form"])
def test_its_owner_does_not_enable_it(owner: User, administrator: Api, row: ApiKey, way: str) -> None:
    if way == "action":
        by_action(administrator, row, "disable")
    else:
        by_form(administrator, row, enabled=False)
    client = session_of(owner)
    assert by_page(client, row, enabled=True) == 403
    status, body = by_api(client, row, enabled=True)
    sentence = "An administrator disabled this API key; only an administrator can enable it again."
    assert (status, body) == (403, {"error": sentence})
    assert state(row) == (False, True)
    page = client.get(f"/keys/{row.pk}").content.decode()
    assert "disabled by an administrator" in page
    assert 'value="true"' not in page
    assert sentence in client.post(f"/keys/{row.pk}/enabled", {"enabled": "true"}).content.decode()
    assert client.call("GET", "/api/me/api-keys").json()["api_keys"][0]["disabled_by_admin"] is True


def test_its_owner_may_do_all_else_with_it(owner: User, administrator: Api, row: ApiKey) -> None:
    by_action(administrator, row, "disable")
    client = session_of(owner)
    assert by_api(client, row, enabled=False, name="renamed")[0] == 200
    assert by_page(client, row, enabled=False) == 302
    assert state(row) == (False, True)
    assert client.call("DELETE", f"/api/me/api-keys/{row.pk}").status_code == 204


@pytest.mark.parametrize("way", ["action", "form"])
def test_an_administrator_enables_it(owner: User, administrator: Api, row: ApiKey, way: str) -> None:
    by_action(administrator, row, "disable")
    if way == "action":
        by_action(administrator, row, "enable")
    else:
        by_form(administrator, row, enabled=True)
    assert state(row) == (True, None)
    client = session_of(owner)
    assert by_api(client, row, enabled=False)[1]["disabled_by_admin"] is False
    assert by_api(client, row, enabled=True)[1]["enabled"] is True


def test_a_key_that_its_owner_disabled_stays_the_owners(owner: User, administrator: Api, row: ApiKey) -> None:
    client = session_of(owner)
    assert by_page(client, row, enabled=False) == 302
    by_form(administrator, row, enabled=False, name="renamed")  # which changes nothing about that
    assert state(row) == (False, None)
    assert by_page(client, row, enabled=True) == 302
    assert state(row) == (True, None)


def test_an_administrator_disables_one_that_its_owner_disabled(owner: User, administrator: Api, row: ApiKey) -> None:
    by_page(session_of(owner), row, enabled=False)
    by_action(administrator, row, "disable")
    assert state(row) == (False, True)
    assert by_page(session_of(owner), row, enabled=True) == 403


def test_administrators_enable_their_own(row: ApiKey) -> None:
    admin = make_admin("bea")
    own = ApiKey.issue(admin, "script", ["openai.inference"])[0]
    client = session_of(admin)
    for enabled in (False, True):
        assert by_api(client, own, enabled=enabled)[0] == 200
        assert state(own) == (enabled, None)
