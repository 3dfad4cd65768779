"""`/api/limits`: reading, changing and deleting limits, and by whom."""

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from access.limits.reading import MAX_REQUESTS, limit_changes, read_limits
from access.limits.tables import BudgetRow, LimitRow
from access.models import PERMISSIONS, ApiKey, User
from endpoints.models import EndpointModel
from endpoints.registry import registry
from tests.access.limits.made import EVERYONE, budget, limit
from tests.access.people import Api, key_for, make_user, with_key
from tests.endpoints.model_names.made import make_name
from tests.metrics.records import A
from tests.metrics.world import add_endpoint

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]
LIST, ALL = "/api/limits", "/api/limits/everyone"
NOBODY = "0a1b2c3d-4e5f-4071-8a9b-0c1d2e3f4a5b"
MONTHLY = {"unit": "money", "period": "month", "amount": "25.5"}
DAILY = {"unit": "tokens", "period": "day", "amount": 5000}


def key_of(owner: User, name: str = "script") -> tuple[str, str]:
    """Make a key, and return it as a subject."""
    key_for(owner, name=name)
    return "key", str(ApiKey.objects.get(name=name).pk)


def path_of(subject: tuple[str, str]) -> str:
    return f"{LIST}/{'/'.join(subject)}".rstrip("/")


def test_without_limits_everything_is_null(as_admin: Api, admin: User) -> None:
    subject = key_of(admin)
    assert as_admin.call("GET", path_of(subject)).json() == {
        **{"level": "key", "subject": subject[1], "name": "script", "concurrency": None, "requests": None},
        **{"tokens": None, "waiting": ["concurrency"], "budgets": []},
    }


@pytest.mark.parametrize("level", ["key", "user", "everyone"])
def test_limits_are_stored_and_read(as_admin: Api, admin: User, level: str) -> None:
    subject = {"key": key_of(admin), "user": ("user", str(admin.pk)), "everyone": EVERYONE}[level]
    make_name("small", "tiny")
    sent = {
        **{"concurrency": 4, "requests": 60, "tokens": 1000, "waiting": ["requests"]},
        "budgets": [
            {**MONTHLY, "hard": True, "refuses_unpriced": True, "instead": "small"},
            DAILY,
        ],
    }
    response = as_admin.call("PUT", path_of(subject), sent)
    assert response.status_code == 200
    document = response.json()
    assert as_admin.call("GET", path_of(subject)).json() == document
    assert {name: document[name] for name in ("concurrency", "requests", "tokens", "waiting")} == {
        **{"concurrency": 4, "requests": 60, "tokens": 1000, "waiting": ["requests"]}
    }
    money, tokens = document["budgets"]
    assert (money["amount"], money["currency"], money["hard"], money["instead"]) == ("25.5", "USD", True, "small")
    assert (tokens["amount"], tokens["currency"], tokens["hard"], tokens["instead"]) == (5000, None, False, None)
    facts = read_limits([subject])[subject]
    assert [stored_budget.amount for stored_budget in facts.budgets] == [25_500_000_000, 5000]


def test_put_replaces_the_document_and_keeps_the_ids_of_budgets(as_admin: Api) -> None:
    as_admin.call("PUT", ALL, {"concurrency": 4, "budgets": [MONTHLY, {**MONTHLY, "period": "day"}]})
    ids = {row.period: row.pk for row in BudgetRow.objects.all()}
    as_admin.call("PUT", ALL, {"requests": 60, "budgets": [{**MONTHLY, "amount": 30}]})
    facts = read_limits([EVERYONE])[EVERYONE]
    assert (facts.concurrency, facts.requests) == (None, 60)
    assert [(stored_budget.id, stored_budget.amount) for stored_budget in facts.budgets] == [
        (str(ids["month"]), 30_000_000_000)
    ]


@pytest.mark.parametrize("change", [("DELETE", None), ("PUT", {})])
def test_deleted_limits_leave_no_row(as_admin: Api, change: tuple[str, Any]) -> None:
    as_admin.call("PUT", ALL, {"concurrency": 4, "budgets": [MONTHLY]})
    assert as_admin.call(change[0], ALL, change[1]).status_code in (200, 204)
    assert not LimitRow.objects.exists()
    assert not BudgetRow.objects.exists()


@pytest.mark.parametrize(
    ("document", "place", "text"),
    [
        ({"concurrency": 0}, "concurrency", "from 1 to 100,000"),
        ({"requests": -1}, "requests", "whole number"),
        ({"requests": MAX_REQUESTS + 1}, "requests", "10,000,000"),
        ({"tokens": "many"}, "tokens", "integer"),
        ({"tokens": 1.5}, "tokens", "integer"),
        ({"waiting": ["cars"]}, "waiting", "cars"),
        ({"budgets": [{**MONTHLY, "unit": "hours"}]}, "budgets[0].unit", "hours"),
        ({"budgets": [{**MONTHLY, "period": "year"}]}, "budgets[0].period", "year"),
        ({"budgets": [MONTHLY, MONTHLY]}, "budgets[1].period", "one budget"),
        ({"budgets": [{**MONTHLY, "amount": 0}]}, "budgets[0].amount", "above 0"),
        ({"budgets": [{**MONTHLY, "amount": "1000000000.1"}]}, "budgets[0].amount", "above 0"),
        ({"budgets": [{**MONTHLY, "amount": "0.0000000001"}]}, "budgets[0].amount", "nine decimal places"),
        ({"budgets": [{**MONTHLY, "amount": "1e999999"}]}, "budgets[0].amount", "number"),
        ({"budgets": [{**MONTHLY, "amount": "1e-999999"}]}, "budgets[0].amount", "nine decimal places"),
        ({"budgets": [{**MONTHLY, "amount": "NaN"}]}, "budgets[0].amount", "number"),
        ({"budgets": [{**MONTHLY, "amount": True}]}, "budgets[0].amount", "number"),
        ({"budgets": [{**MONTHLY, "unit": "tokens"}]}, "budgets[0].amount", "whole number"),
        ({"budgets": [{**MONTHLY, "currency": "JPY"}]}, "budgets[0].currency", "USD"),
        ({"budgets": [{**MONTHLY, "instead": "nothing"}]}, "budgets[0].instead", "no model nothing"),
        (
            {"budgets": [{**DAILY, "refuses_unpriced": True}]},
            "budgets[0].refuses_unpriced",
            "money",
        ),
        (
            {"budgets": [{"unit": "tokens", "period": "day", "amount": 5, "currency": "USD"}]},
            "budgets[0].currency",
            "no",
        ),
        ({"budgets": [{}]}, "budgets[0].unit", "required"),
        ({"budgets": {}}, "budgets", "list"),
        ([], "", "dictionary"),
    ],
)
def test_a_wrong_document_is_refused_with_the_place(as_admin: Api, document: Any, place: str, text: str) -> None:
    limit(concurrency=7)
    response = as_admin.call("PUT", ALL, document)
    assert response.status_code == 400
    assert text in json.dumps(response.json())
    assert place in json.dumps(response.json())
    assert LimitRow.objects.get().concurrency == 7


def test_a_change_is_announced_and_logged(
    as_admin: Api, admin: User, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    announced: list[Any] = []
    monkeypatch.setattr(limit_changes, "_listeners", [announced.append])
    subject = key_of(admin)
    with django_capture_on_commit_callbacks(execute=True):
        as_admin.call("PUT", path_of(subject), {"requests": 60, "budgets": [MONTHLY]})
    assert [facts.requests for change in announced for facts in change.values()] == [60]
    entry = LogEntry.objects.get()
    assert entry.content_type is not None
    assert (entry.object_id, entry.object_repr, entry.content_type.model) == (subject[1], "script", "apikey")
    assert "limits: requests" in entry.get_change_message()
    assert json.loads(entry.change_message)[0]["values"] == {"requests": [None, 60], "money/month": [None, "25.5"]}
    as_admin.call("PUT", path_of(subject), {"requests": 60, "budgets": [MONTHLY]})
    assert LogEntry.objects.count() == 1


def test_the_list_has_parts_and_a_filter(as_admin: Api, admin: User) -> None:
    for number in range(5):
        limit(key_of(admin, f"key {number}"), requests=60 + number)
    budget(("user", str(admin.pk)))
    limit(requests=9)
    response = as_admin.call("GET", f"{LIST}?level=key&limit=2&offset=1")
    assert response["X-Total-Count"] == "5"
    assert [row["level"] for row in response.json()["limits"]] == ["key", "key"]
    rows = as_admin.call("GET", LIST).json()["limits"]
    assert [row["level"] for row in rows] == ["everyone", *5 * ["key"], "user"]
    assert {row["name"] for row in rows} == {None, *(f"key {number}" for number in range(5)), "ada"}
    assert as_admin.call("GET", f"{LIST}?level=team").status_code == 400


# Access

ROUTES = [("GET", LIST), *((method, ALL) for method in ("GET", "PUT", "DELETE"))]


@pytest.mark.parametrize("route", ROUTES)
def test_anonymous_requests_get_401(anybody: Api, route: tuple[str, str]) -> None:
    assert anybody.call(*route, {}).status_code == 401


@pytest.mark.parametrize("level", ["key", "user"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_unknown_subject_is_404(as_admin: Api, level: str, method: str) -> None:
    assert as_admin.call(method, f"{LIST}/{level}/{NOBODY}", {}).status_code == 404


def test_viewers_read_their_own_limits_and_change_none(as_viewer: Api, viewer: User, admin: User) -> None:
    own, of_others = key_of(viewer, "own"), key_of(admin, "other")
    mine = [own, ("user", str(viewer.pk)), EVERYONE]
    for subject in (*mine, of_others, ("user", str(admin.pk))):
        limit(subject, requests=60)
    assert [as_viewer.call("GET", path_of(subject)).status_code for subject in mine] == [200, 200, 200]
    assert [
        as_viewer.call("GET", path_of(subject)).status_code for subject in (of_others, ("user", str(admin.pk)))
    ] == [404, 404]
    rows = as_viewer.call("GET", LIST).json()["limits"]
    assert {(row["level"], row["subject"]) for row in rows} == set(mine)
    assert [row["level"] for row in as_viewer.call("GET", f"{LIST}?level=key").json()["limits"]] == ["key"]
    for subject in mine:
        assert as_viewer.call("PUT", path_of(subject), {}).status_code == 403
        assert as_viewer.call("DELETE", path_of(subject)).status_code == 403
    assert LimitRow.objects.count() == 5


def test_an_api_key_needs_the_permission_of_the_level(admin: User) -> None:
    of_key, of_user = key_of(admin, "limited"), ("user", str(admin.pk))
    for permission, allowed in (("api_keys.manage", of_key), ("users.manage", of_user)):
        api = with_key(key_for(admin, permission, name=permission))
        codes = {
            subject: api.call("PUT", path_of(subject), {"requests": 60}).status_code for subject in (of_key, of_user)
        }
        assert codes == {subject: 200 if subject == allowed else 403 for subject in (of_key, of_user)}


def test_the_key_of_a_viewer_changes_nothing(viewer: User) -> None:
    api = with_key(key_for(viewer, *PERMISSIONS))
    assert api.call("PUT", ALL, {"requests": 60}).status_code == 403
    assert make_user("other").pk != viewer.pk


def test_a_model_of_an_endpoint_may_be_used_instead(as_admin: Api) -> None:
    EndpointModel(endpoint=add_endpoint(A, "a"), model_id="tiny").save(force_insert=True)
    registry.reload()
    response = as_admin.call("PUT", ALL, {"budgets": [{**MONTHLY, "instead": "tiny"}]})
    assert response.status_code == 200
