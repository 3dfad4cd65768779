from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from access.models import PERMISSIONS, VIEWER_PERMISSIONS, ApiKey, User
from access.serializers import ApiKeyChangeSerializer, ApiKeyCreateSerializer, ApiKeySerializer
from tests.access.people import key_for, make_user

pytestmark = pytest.mark.django_db


def new(owner: User, **data: Any) -> ApiKeyCreateSerializer:
    given = ApiKeyCreateSerializer(data={"name": "script", **data}, context={"owner": owner})
    given.is_valid()
    return given


def errors(owner: User, **data: Any) -> list[str]:
    return list(new(owner, **data).errors)


def test_a_key_is_serialized_without_its_hash(admin: User) -> None:
    key = key_for(admin, "endpoints.read", expires_at=datetime(2027, 1, 1, tzinfo=UTC))
    row = ApiKey.objects.get()
    data = ApiKeySerializer(row).data
    assert data == {
        "id": str(row.pk),
        "key_prefix": key[:10],
        "name": "script",
        "created_by": str(admin.pk),
        "created_at": data["created_at"],
        "expires_at": "2027-01-01T00:00:00Z",
        "permissions": ["endpoints.read"],
        "external": False,
        "enabled": True,
        "disabled_by_admin": False,
        "queue_class": "interactive",
        "rules": None,
        "replaced_until": None,
        "last_used_at": None,
        "refused": [],
    }


def test_permissions_that_are_not_a_list_are_serialized_as_empty(admin: User) -> None:
    row = ApiKey(created_by=admin, name="script", permissions="openai.inference", key_hash="x")
    assert ApiKeySerializer(row).data["permissions"] == []


def test_an_administrator_names_permissions(admin: User) -> None:
    given = new(admin, permissions=list(PERMISSIONS))
    assert given.validated_data["permissions"] == list(PERMISSIONS)


@pytest.mark.parametrize("nothing", [{}, {"permissions": []}])
def test_an_administrator_must_name_permissions(admin: User, nothing: dict[str, Any]) -> None:
    assert errors(admin, **nothing) == ["permissions"]


@pytest.mark.parametrize("nothing", [{}, {"permissions": []}])
def test_a_viewers_key_gets_the_two_client_permissions(viewer: User, nothing: dict[str, Any]) -> None:
    assert new(viewer, **nothing).validated_data["permissions"] == VIEWER_PERMISSIONS


def test_a_viewer_may_not_choose_permissions(viewer: User) -> None:
    assert errors(viewer, permissions=["openai.inference"]) == ["permissions"]


@pytest.mark.parametrize("wrong", ["endpoints.read", ["nothing.read"], [None], {}, None, [["endpoints.read"]]])
def test_unknown_permissions_are_refused(admin: User, wrong: Any) -> None:
    assert errors(admin, permissions=wrong) == ["permissions"]


@pytest.mark.parametrize("scopes", [["api"], [], None, "api"])
def test_scopes_are_refused(admin: User, scopes: Any) -> None:
    assert errors(admin, permissions=["endpoints.read"], scopes=scopes) == ["scopes"]


@pytest.mark.parametrize("wrong", ["", "  ", None, "x" * 201, "a\0b", ["a"]])
def test_a_name_is_one_line_of_text(viewer: User, wrong: Any) -> None:
    assert errors(viewer, name=wrong) == ["name"]


def test_two_owners_may_use_the_same_name(admin: User, viewer: User) -> None:
    key_for(admin)
    assert errors(viewer) == []
    assert errors(admin, permissions=["endpoints.read"]) == ["name"]


def test_the_name_of_the_bootstrap_key_is_reserved(viewer: User) -> None:
    assert "reserved for ROUTERDASH_BOOTSTRAP_API_KEY" in str(new(viewer, name="bootstrap").errors["name"])
    assert errors(viewer, name=" bootstrap ") == ["name"]


@pytest.mark.parametrize("wrong", ["tomorrow", "", 7, "2020-01-01T00:00:00Z"])
def test_an_expiry_is_in_the_future(viewer: User, wrong: Any) -> None:
    assert errors(viewer, expires_at=wrong) == ["expires_at"]


@pytest.mark.parametrize("right", [None, "2999-01-01T00:00:00Z", "2999-01-01T00:00:00.123456+09:00"])
def test_an_expiry_is_optional(viewer: User, right: str | None) -> None:
    assert errors(viewer, expires_at=right) == []


def test_a_change_may_keep_its_own_name(viewer: User) -> None:
    key_for(viewer, name="mine")
    key_for(viewer, name="other")
    row = ApiKey.objects.get(name="mine")
    for name, right in (("mine", True), ("new", True), ("other", False), ("bootstrap", False)):
        given = ApiKeyChangeSerializer(row, data={"name": name}, context={"owner": viewer})
        assert given.is_valid() is right


def test_the_bootstrap_key_may_keep_its_name(admin: User) -> None:
    key_for(admin, name="bootstrap")
    expires = (timezone.now() + timedelta(days=1)).isoformat()
    data = {"name": "bootstrap", "expires_at": expires}
    assert ApiKeyChangeSerializer(ApiKey.objects.get(), data=data, context={"owner": admin}).is_valid()


def test_names_differ_by_case(viewer: User) -> None:
    key_for(viewer, name="script")
    assert errors(viewer, name="Script") == []
    assert errors(make_user("other"), name="script") == []
