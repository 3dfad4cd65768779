"""Restrictions of API keys: their column, the JSON API, the admin and the pages; and keys that were disabled."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from access.bootstrap import BOOTSTRAP_ID
from access.directory import access, read_key_entries
from access.keys.rules import NOTHING_ALLOWED, check_rules, read_rules
from access.models import ApiKey, User, hash_key
from gateway.registry.key_rules import KeyRules
from tests.access.people import Api, key_for
from tests.access.test_pages import shown_key
from tests.metrics.records import A
from tests.metrics.world import add_endpoint

pytestmark = pytest.mark.django_db

OWN = "/api/me/api-keys"


@pytest.fixture(autouse=True)
def _clean_state(empty_caches: None) -> None:
    """Run `empty_caches` in every test of this package."""


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (None, None),
        ({}, None),
        ({"models": ["a*"], "networks": ["10.0.0.0/8"]}, KeyRules(models=("a*",), networks=("10.0.0.0/8",))),
        ({"models": None}, KeyRules()),
        ([], NOTHING_ALLOWED),
        ("*", NOTHING_ALLOWED),
        ({"models": "a"}, NOTHING_ALLOWED),
        ({"models": [1]}, NOTHING_ALLOWED),
        ({"networks": ["everywhere"]}, NOTHING_ALLOWED),
        ({"of a later release": ["x"]}, NOTHING_ALLOWED),
    ],
)
def test_damaged_restrictions_allow_nothing(column: object, expected: object) -> None:
    assert read_rules(column) == expected


def test_restrictions_are_stored_in_one_form() -> None:
    add_endpoint()
    given = {
        "models": [" gpt-* ", "gpt-*", ""],
        "endpoints": [A.upper()],
        "tags": ["Rack A", "rack a"],
        "kinds": ["embeddings"],
        "networks": ["10.1.2.3/8", "::1"],
        "forbidden_models": [],
    }
    assert check_rules(given) == {
        "models": ["gpt-*"],
        "endpoints": [A],
        "tags": ["Rack A"],
        "kinds": ["embeddings"],
        "networks": ["10.0.0.0/8", "::1/128"],
    }
    assert check_rules({"models": [" "]}) is None


@pytest.mark.parametrize(
    ("field", "entry"),
    [
        ("endpoints", "not an id"),
        ("endpoints", str(uuid.UUID(int=5))),
        ("kinds", "telepathy"),
        ("networks", "10.0.0.0/99"),
        ("models", "a\u202eb"),
        ("models", "x" * 257),
    ],
)
def test_wrong_restrictions_are_errors_of_their_field(field: str, entry: str) -> None:
    with pytest.raises(ValidationError) as error:
        check_rules({field: [entry]})
    assert list(error.value.message_dict) == [field]


# The JSON API


def created(api: Api, name: str = "script", **fields: Any) -> Any:
    response = api.post(OWN, {"name": name, "permissions": ["openai.inference"], **fields}, "application/json")
    assert response.status_code == 201, response.content
    return response.json()


def changed(api: Api, key: Any, **fields: Any) -> Any:
    return api.put(f"{OWN}/{key['id']}", {"name": key["name"], **fields}, "application/json")


def test_an_administrator_restricts_a_key(as_admin: Api) -> None:
    key = created(as_admin, rules={"models": ["gpt-*"]}, queue_class="bulk")
    empty: dict[str, list[str]] = {"forbidden_models": [], "endpoints": [], "tags": [], "kinds": [], "networks": []}
    assert (key["rules"], key["queue_class"], key["enabled"]) == ({"models": ["gpt-*"], **empty}, "bulk", True)
    (entry,) = read_key_entries(access.users())
    assert (entry.rules, entry.bulk) == (KeyRules(models=("gpt-*",)), True)
    assert changed(as_admin, key).json()["rules"] == key["rules"]  # missing fields stay
    assert changed(as_admin, key, rules=None, queue_class="interactive").json()["rules"] is None
    refused = changed(as_admin, key, rules={"networks": ["nowhere"]})
    assert refused.status_code == 400
    assert "nowhere" in refused.content.decode()


def test_viewers_disable_their_keys_but_do_not_lift_restrictions(as_viewer: Api, viewer: User) -> None:
    row, _ = ApiKey.issue(viewer, "mine", ["openai.inference"], rules={"models": ["a"]}, bulk=True)
    key = {"id": row.pk, "name": "mine"}
    assert changed(as_viewer, key, rules=None).status_code == 400
    assert changed(as_viewer, key, queue_class="interactive").status_code == 400
    assert changed(as_viewer, key, rules={"models": ["a"]}, queue_class="bulk", enabled=False).status_code == 200
    row.refresh_from_db()
    assert (row.enabled, row.rules, row.bulk) == (False, {"models": ["a"]}, True)


def test_a_rotated_key_is_the_same_key(as_admin: Api) -> None:
    key = created(as_admin)
    rotated = as_admin.post(f"{OWN}/{key['id']}/rotate", {"overlap_secs": 60}, "application/json").json()
    assert (rotated["id"], rotated["name"]) == (key["id"], key["name"])
    assert rotated["key"] != key["key"]
    row = ApiKey.objects.get()
    assert (row.key_hash, row.replaced_hash) == (hash_key(rotated["key"]), hash_key(key["key"]))
    assert row.replaced_until is not None
    assert timedelta(seconds=50) < row.replaced_until - timezone.now() < timedelta(seconds=61)
    for value in (key["key"], rotated["key"]):  # whichever of the two is read again, both are published
        (entry,) = read_key_entries(access.users(), hashes=[hash_key(value)])
        assert (entry.hash, entry.replaced) == (row.key_hash, row.replaced_hash)


@pytest.mark.parametrize("overlap", [-1, 10**9, "soon"])
def test_an_overlap_has_bounds(as_admin: Api, overlap: object) -> None:
    key = created(as_admin)
    response = as_admin.post(f"{OWN}/{key['id']}/rotate", {"overlap_secs": overlap}, "application/json")
    assert (response.status_code, ApiKey.objects.get().replaced_hash) == (400, None)


def test_the_key_of_the_settings_is_not_rotated(as_admin: Api, admin: User) -> None:
    ApiKey.issue(admin, "bootstrap", ["openai.inference"], id=BOOTSTRAP_ID)
    response = as_admin.post(f"{OWN}/{BOOTSTRAP_ID}/rotate", {}, "application/json")
    assert response.status_code == 400
    assert "ROUTERDASH_BOOTSTRAP_API_KEY" in response.content.decode()


def test_another_users_key_is_not_rotated(as_viewer: Api, admin: User) -> None:
    row, _ = ApiKey.issue(admin, "other", ["openai.inference"])
    assert as_viewer.post(f"{OWN}/{row.pk}/rotate", {}, "application/json").status_code == 404


# Keys that control refuses


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"enabled": False}, 401),
        ({"rules": {"networks": ["192.0.2.0/24"]}}, 403),
        ({"rules": {"networks": ["127.0.0.0/8"]}}, 200),
        ({"rules": {"models": ["a"]}}, 200),
    ],
)
def test_the_json_api_refuses_disabled_keys_and_other_networks(
    anybody: Api, admin: User, fields: dict[str, Any], status: int
) -> None:
    key = key_for(admin, "endpoints.read")
    ApiKey.objects.update(**fields)
    assert anybody.get("/api/endpoints", HTTP_X_API_KEY=key).status_code == status


# The admin


def form_of(row: ApiKey, **fields: Any) -> dict[str, Any]:
    given = {"name": row.name, "created_by": row.created_by_id, "permissions": row.granted, "enabled": "on"}
    return {**given, "expires_at_0": "", "expires_at_1": "", **fields}


def test_the_admin_changes_restrictions(as_admin: Api, admin: User) -> None:
    add_endpoint(name="rack")
    row, _ = ApiKey.issue(admin, "guest", ["openai.inference"])
    page = f"/admin/access/apikey/{row.pk}/change/"
    fields = {
        "models": "gpt-*\nqwen",
        "endpoints": [A],
        "kinds": ["embeddings"],
        "networks": "10.0.0.0/8",
    }
    assert as_admin.post(page, form_of(row, **fields, bulk="on")).status_code == 302
    row.refresh_from_db()
    expected = {"models": ["gpt-*", "qwen"], "endpoints": [A], "kinds": ["embeddings"], "networks": ["10.0.0.0/8"]}
    assert (row.rules, row.bulk, row.enabled) == (expected, True, True)
    html = as_admin.get(page).content.decode()
    assert "gpt-*\nqwen</textarea>" in html
    assert f'<option value="{A}" selected>rack</option>' in html
    refused = as_admin.post(page, form_of(row, networks="nowhere"))
    assert refused.status_code == 200
    assert "nowhere is no network" in refused.content.decode()


def test_the_admin_disables_several_keys(as_admin: Api, admin: User) -> None:
    rows = [ApiKey.issue(admin, name, ["openai.inference"])[0] for name in ("a", "b")]
    chosen = {"action": "disable", "_selected_action": [str(row.pk) for row in rows]}
    as_admin.post("/admin/access/apikey/", chosen)
    assert not ApiKey.objects.exclude(enabled=False).exists()
    as_admin.post("/admin/access/apikey/", {**chosen, "action": "enable"})
    assert not ApiKey.objects.exclude(enabled=True).exists()


# The pages of own keys


def test_a_key_has_a_page(as_viewer: Api, viewer: User) -> None:
    add_endpoint(name="rack")
    rules = {"models": ["gpt-*"], "endpoints": [A]}
    row, _ = ApiKey.issue(viewer, "mine", ["openai.inference"], rules=rules, bulk=True)
    html = as_viewer.get(f"/keys/{row.pk}").content.decode()
    for text in ("gpt-*", "rack", "bulk requests"):
        assert text in html
    as_viewer.post(f"/keys/{row.pk}/enabled", {"enabled": "false"})
    assert "disabled" in as_viewer.get(f"/keys/{row.pk}").content.decode()
    as_viewer.post(f"/keys/{row.pk}/enabled", {"enabled": "true"})
    row.refresh_from_db()
    assert row.enabled is True


def test_a_key_is_rotated_on_a_page(as_viewer: Api, viewer: User) -> None:
    row, old = ApiKey.issue(viewer, "mine", ["openai.inference"])
    page = f"/keys/{row.pk}/rotate"
    assert old[:10] in as_viewer.get(page).content.decode()
    assert as_viewer.post(page, {"overlap": "12"}).status_code == 200  # not offered
    response = as_viewer.post(page, {"overlap": "3600"})
    row.refresh_from_db()
    assert row.key_hash == hash_key(shown_key(response.content.decode()))
    assert row.replaced_hash == hash_key(old)
    assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize("path", ["", "/rotate"])
def test_another_users_key_has_no_page(as_viewer: Api, admin: User, path: str) -> None:
    row, _ = ApiKey.issue(admin, "other", ["openai.inference"])
    assert as_viewer.get(f"/keys/{row.pk}{path}").status_code == 404
