"""Lists of the admin: their number of queries does not grow with rows, and facts are read-only."""

import csv
import io
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin import site as registered
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from access.models import ApiKey, User
from endpoints import admin_base
from endpoints.models import Endpoint, EndpointModel, HealthCheck, Status
from endpoints.registry import registry
from metrics.models import (
    AllClientsRollUp,
    ClientDayRollUp,
    ClientHourRollUp,
    DailyStat,
    DayRollUp,
    MinuteRollUp,
    MonthRollUp,
    RequestHistory,
)
from tests.access.people import Api, make_user
from tests.metrics.records import A
from tests.metrics.world import add_endpoint

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("_alone")]


@pytest.fixture
def _alone(empty_caches: None) -> None:
    """Clear caches of other tests."""


def url(model: Any, page: str = "changelist") -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}")


def fill(user: User, rows: int, prefix: str) -> None:
    """Add rows of each kind."""
    endpoints = [Endpoint(name=f"{prefix}{n}", base_url=f"http://{prefix}{n}.invalid") for n in range(rows)]
    Endpoint.objects.bulk_create(endpoints)
    one = endpoints[0]
    EndpointModel.objects.bulk_create(
        EndpointModel(endpoint=endpoint, model_id=f"org/model-{endpoint.name}") for endpoint in endpoints
    )
    HealthCheck.objects.bulk_create(check(endpoint) for endpoint in endpoints)
    DailyStat.objects.bulk_create(
        DailyStat(endpoint_id=one.pk, model_id=endpoint.name, date="2026-11-24") for endpoint in endpoints
    )
    fill_rollups(one.pk, [endpoint.name for endpoint in endpoints])
    ApiKey.objects.bulk_create(
        ApiKey(name=endpoint.name, key_hash=endpoint.name, created_by=user) for endpoint in endpoints
    )
    kind = ContentType.objects.get_for_model(Endpoint)
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=user.pk, content_type=kind, object_id=endpoint.pk, object_repr=endpoint.name, action_flag=CHANGE
        )
        for endpoint in endpoints
    )
    registry.reload()


def fill_rollups(endpoint_id: Any, names: list[str]) -> None:
    clients: dict[str, Any] = dict.fromkeys(CLIENT_SUMS, 1)
    sums: dict[str, Any] = {**clients, "attempts_ok": 1, "attempts_failed": 0, "ok_duration_us": 1000}
    cells = [
        {"endpoint_id": endpoint_id, "model": name, "kind": "embeddings", "api_key_id": "", **sums} for name in names
    ]
    MinuteRollUp.objects.bulk_create(MinuteRollUp(minute=29_900_000, **cell) for cell in cells)
    DayRollUp.objects.bulk_create(DayRollUp(date="2026-11-24", **cell) for cell in cells)
    MonthRollUp.objects.bulk_create(MonthRollUp(month="2026-11", **cell) for cell in cells)
    ClientHourRollUp.objects.bulk_create(ClientHourRollUp(hour=498_000, client_ip=name, **clients) for name in names)
    last = AllClientsRollUp.objects.order_by("hour").last()
    first = 498_000 if last is None else last.hour + 1
    AllClientsRollUp.objects.bulk_create(
        AllClientsRollUp(hour=first + number, clients=1, **clients) for number in range(len(names))
    )
    ClientDayRollUp.objects.bulk_create(
        ClientDayRollUp(day=20_750, client_ip=name, api_key_id="", model="m", **clients) for name in names
    )


CLIENT_SUMS = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")


def check(endpoint: Endpoint, before: str = Status.ONLINE, after: str = Status.ONLINE) -> HealthCheck:
    return HealthCheck(
        endpoint=endpoint, checked_at=timezone.now(), success=True, status_before=before, status_after=after
    )


MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)
FACTS = [model for model in MODELS if isinstance(admin.site.get_model_admin(model), admin_base.FactsAdmin)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_number_of_queries_of_a_list_does_not_grow_with_rows(as_admin: Api, admin: User, model: Any) -> None:
    fill(admin, 2, "few")
    as_admin.get(url(model))
    with CaptureQueriesContext(
        connection,
    ) as few:
        assert as_admin.get(url(model)).status_code == 200
    fill(admin, 60, "many")
    with CaptureQueriesContext(connection) as many:
        response = as_admin.get(url(model))
    assert len(many) == len(few) <= 8
    assert len(response.context["cl"].result_list) <= 50


@pytest.mark.parametrize("model", [*FACTS, RequestHistory], ids=lambda model: model._meta.label)
def test_no_list_counts_all_facts(as_admin: Api, admin: User, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_base, "MAX_PAGED_ROWS", 55)
    fill(admin, 60, "many")
    with CaptureQueriesContext(connection) as queries:
        response = as_admin.get(url(model))
    counts = [query["sql"] for query in queries if "COUNT(" in query["sql"]]
    assert [sql for sql in counts if "LIMIT 55" not in sql] == []
    assert response.context["cl"].result_count <= 55
    assert as_admin.get(f"{url(model)}?p=99").status_code in (200, 302)


@pytest.mark.parametrize("model", FACTS, ids=lambda model: model._meta.label)
def test_facts_are_read_only(as_admin: Api, admin: User, model: Any) -> None:
    fill(admin, 1, "one")
    row = model._default_manager.first()
    for page in ("add/", f"{row.pk}/change/", f"{row.pk}/delete/", f"{row.pk}/history/"):
        assert as_admin.get(url(model) + page).status_code == 404
    html = as_admin.get(url(model)).content.decode()
    assert 'name="action"' not in html
    assert "addlink" not in html.split('id="content"')[1]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_lists_need_an_administrator(as_viewer: Api, model: Any) -> None:
    assert as_viewer.get(url(model)).status_code == 302


@pytest.mark.parametrize("model", [EndpointModel, HealthCheck, DailyStat, MinuteRollUp, DayRollUp, MonthRollUp])
def test_facts_of_one_endpoint(as_admin: Api, admin: User, model: Any) -> None:
    fill(admin, 3, "gpu-")
    one = model._default_manager.first()
    listed = as_admin.get(url(model), {"endpoint": str(one.endpoint_id)}).context["cl"].result_list
    assert {row.endpoint_id for row in listed} == {one.endpoint_id}
    for odd in ("nonsense", "0" * 32, "'"):
        assert list(as_admin.get(url(model), {"endpoint": odd}).context["cl"].result_list) == []


def test_changes_of_status_are_read_from_their_own_index(as_admin: Api) -> None:
    endpoint = add_endpoint(A)
    HealthCheck.objects.bulk_create([check(endpoint), check(endpoint, after=Status.ERROR), check(endpoint)])
    with CaptureQueriesContext(connection) as queries:
        response = as_admin.get(url(HealthCheck), {"changes": "only"})
    assert len(response.context["cl"].result_list) == 1
    listed = next(query["sql"] for query in queries if "ORDER BY" in query["sql"] and "checked_at" in query["sql"])
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {listed}")
            assert any("checks_changes" in row[3] for row in cursor.fetchall())


def test_facts_are_escaped(as_admin: Api) -> None:
    endpoint = add_endpoint(A, "<script>alert(1)</script>")
    EndpointModel(endpoint=endpoint, model_id="<script>alert(2)</script>").save(force_insert=True)
    failed = check(endpoint, after=Status.ERROR)
    failed.error_message = "<script>alert(3)</script>"
    failed.save()
    registry.reload()
    DailyStat.objects.create(endpoint_id=endpoint.pk, model_id="<script>alert(4)</script>", date="2026-11-24")
    for model in FACTS:
        html = as_admin.get(url(model)).content.decode()
        assert "<script>alert(" not in html, model


def test_the_log_shows_author_and_change(as_admin: Api, admin: User) -> None:
    endpoint = add_endpoint(A, "gpu-box")
    as_admin.post(url(Endpoint), {"action": "enable", "_selected_action": [str(endpoint.pk)]})
    html = as_admin.get(url(LogEntry)).content.decode()
    for shown in ("ada", "gpu-box", "Enabled"):
        assert shown in html


# Exports


def exported(api: Api, model: Any, *rows: Any) -> list[dict[str, str]]:
    response = api.post(url(model), {"action": "export_csv", "_selected_action": [str(row.pk) for row in rows]})
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(response.content.decode())))


def test_selected_endpoints_are_exported_without_secrets(as_admin: Api) -> None:
    endpoint = add_endpoint(A, "東京")
    Endpoint.objects.update(notes="=HYPERLINK(1)")
    endpoint.set_api_key("sk-secret")
    endpoint.set_options(max_concurrency=4)
    (row,) = exported(as_admin, Endpoint, endpoint)
    assert (row["name"], row["max_concurrency"], row["operator_state"]) == ("東京", "4", "enabled")
    assert row["notes"] == "'=HYPERLINK(1)"  # nothing for a spreadsheet to run
    assert not any("sk-secret" in value or value.startswith("gAAAA") for value in row.values())


def test_selected_keys_are_exported_without_hashes(as_admin: Api, admin: User) -> None:
    row, key = ApiKey.issue(admin, "notebook", ["endpoints.read"])
    (exported_row,) = exported(as_admin, ApiKey, row)
    assert (exported_row["name"], exported_row["created_by"], exported_row["permissions"]) == (
        "notebook",
        "ada",
        "endpoints.read",
    )
    assert not {key, row.key_hash} & set(exported_row.values())


def test_selected_users_are_exported_without_passwords(as_admin: Api, admin: User) -> None:
    (exported_row,) = exported(as_admin, User, admin)
    assert exported_row["username"] == "ada"
    assert not any("$2b$" in value for value in exported_row.values())


# Users and keys


def test_an_owner_is_found_by_typing(as_admin: Api, admin: User) -> None:
    make_user("vera")
    parameters = {"app_label": "access", "model_name": "apikey", "field_name": "created_by", "term": "ver"}
    owners = as_admin.get(reverse("admin:autocomplete"), parameters).json()["results"]
    assert [owner["text"] for owner in owners] == ["vera"]


@pytest.mark.parametrize(("expiry", "names"), [("valid", {"new", "never"}), ("expired", {"old"}), ("odd", None)])
def test_keys_are_filtered_by_expiry(as_admin: Api, admin: User, expiry: str, names: set[str] | None) -> None:
    ApiKey.issue(admin, "never", [])
    ApiKey.issue(admin, "new", [], timezone.now() + timedelta(days=1))
    ApiKey.issue(admin, "old", [], timezone.now() - timedelta(days=1))
    keys = as_admin.get(url(ApiKey), {"expiry": expiry}).context["cl"].result_list
    assert {row.name for row in keys} == (names or {"never", "new", "old"})


def test_disabling_from_a_list_needs_a_confirmation(as_admin: Api) -> None:
    endpoint = add_endpoint(A)
    sent = {"action": "disable", "_selected_action": [str(endpoint.pk)]}
    assert "In flight" in as_admin.post(url(Endpoint), sent).content.decode()
    assert Endpoint.objects.get().options_or_default.operator_state == "enabled"
    as_admin.post(url(Endpoint), {**sent, "confirmed": "yes"})
    assert Endpoint.objects.get().options_or_default.operator_state == "disabled"


def test_a_button_of_a_page_disables_at_once(as_admin: Api) -> None:
    endpoint = add_endpoint(A)
    sent = {"action": "disable", "_selected_action": [str(endpoint.pk)], "next": f"/endpoints/{A}"}
    assert as_admin.post(url(Endpoint), sent)["Location"] == f"/endpoints/{A}"
    assert Endpoint.objects.get().options_or_default.operator_state == "disabled"


# Panels next to forms


def test_panels_are_limited_and_link_to_all_rows(as_admin: Api, admin: User) -> None:
    endpoint = add_endpoint(A)
    EndpointModel.objects.bulk_create(EndpointModel(endpoint=endpoint, model_id=f"m{n:03}") for n in range(60))
    HealthCheck.objects.bulk_create(check(endpoint) for _ in range(60))
    DailyStat.objects.bulk_create(
        DailyStat(endpoint_id=endpoint.pk, model_id=f"m{n}", date="2026-11-24") for n in range(60)
    )
    html = as_admin.get(url(Endpoint) + f"{endpoint.pk}/change/").content.decode()
    assert (html.count(">m049<"), html.count(">m050<")) == (1, 0)
    for model, shown in ((EndpointModel, 50), (HealthCheck, 15), (DailyStat, 56)):
        panel = html.split(f"{url(model)}?endpoint={A}")[0].rsplit("<tbody>", 1)[1]
        assert panel.count("<tr>") == shown


def test_a_request_links_to_the_accesses_to_its_bodies(as_admin: Api) -> None:
    row = RequestHistory.objects.create(
        id=A, timestamp=timezone.now(), completed_at=timezone.now(), request_type="chat", model="m", endpoint_id=A,
        endpoint_name="a", endpoint_ip="", request_body={"model": "m", "messages": []}, duration_ms=1, status="success",
    )  # fmt: skip
    history = url(RequestHistory) + f"{row.pk}/history/"
    assert history in as_admin.get(url(RequestHistory) + f"{row.pk}/change/").content.decode()
    assert "Looked at the bodies." in as_admin.get(history).content.decode()


@pytest.mark.parametrize("model", [Endpoint, User, ApiKey])
def test_an_edited_object_links_to_its_history(as_admin: Api, admin: User, model: Any) -> None:
    fill(admin, 1, "one")
    row = model._default_manager.first()
    history = url(model) + f"{row.pk}/history/"
    assert history in as_admin.get(url(model) + f"{row.pk}/change/").content.decode()
    assert as_admin.get(history).status_code == 200


@pytest.mark.parametrize(
    "model", [model for model in MODELS if model not in FACTS], ids=lambda model: model._meta.label
)
def test_no_form_offers_all_rows_of_another_table(admin: User, model: Any, rf: Any) -> None:
    page = registered.get_model_admin(model)
    request = rf.get("/")
    request.user = admin
    choices = [name for name, field in page.get_form(request)().fields.items() if hasattr(field, "queryset")]
    assert set(choices) <= set(page.get_autocomplete_fields(request))
