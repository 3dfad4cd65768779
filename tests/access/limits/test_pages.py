"""Pages of limits: gauges of a key, the list, and the forms of administrators."""

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from access.limits.gauges import LimitGauge, panel_of
from access.limits.reading import read_limits
from access.limits.tables import BudgetRow, LimitRow
from access.models import ApiKey, User
from gateway.ipc.counters.limit_use import LimitUse
from gateway.registry.limits import Budget, LimitFacts
from metrics.memory.runtime import runtime
from tests.access.limits.made import EVERYONE, budget, limit
from tests.access.people import Api, key_for

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]
NOBODY = "0a1b2c3d-4e5f-4071-8a9b-0c1d2e3f4a5b"


def key_of(owner: User, name: str = "script") -> tuple[str, str]:
    key_for(owner, name=name)
    return "key", str(ApiKey.objects.get(name=name).pk)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], LimitUse]:
    """The use of limits by subject, as the counters have it."""
    uses: dict[tuple[str, str], LimitUse] = {}
    monkeypatch.setattr(runtime.installation, "limit_use", lambda *subject: uses.get(subject, LimitUse()))
    return uses


def sent(*budgets: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the fields of the form as a browser sends them."""
    rows = [*budgets, {}]
    form = {"budgets-TOTAL_FORMS": len(rows), "budgets-INITIAL_FORMS": len(budgets), **fields}
    for number, row in enumerate(rows):
        shown = {"unit": "tokens", "period": "day", "amount": "", "instead": "", **row}
        form |= {f"budgets-{number}-{name}": value for name, value in shown.items()}
    return form


# Gauges


def test_a_gauge_is_full_at_its_limit() -> None:
    gauges = [LimitGauge("x", used, 4, waits=True, for_bulk=3) for used in (0, 1, 4, 9)]
    assert [(gauge.percent, gauge.is_full) for gauge in gauges] == [(0, False), (25, False), (100, True), (100, True)]


def test_the_page_of_a_key_has_all_limits_of_its_requests(
    as_viewer: Api, viewer: User, used: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, user = key_of(viewer), ("user", str(viewer.pk))
    limit(key, concurrency=4, requests=60)
    limit(user, tokens=1000)
    limit(requests=6000)
    budget(key, 25_500_000_000, "money", "month")
    monkeypatch.setattr("gateway.limits.spent_now._open_file", lambda path: None)  # no gateway has run yet
    used |= {key: LimitUse(3, 59, 0), user: LimitUse(0, 0, 998), EVERYONE: LimitUse(0, 5999, 0)}
    page = as_viewer.get(f"/keys/{key[1]}").content.decode()
    outputs = [int(text.replace(",", "")) for text in re.findall(r"<output>([\d,]+)</output>", page)]
    assert outputs == [3, 59, 998, 5999]
    assert "25.5 USD" in page
    assert "limits/key" not in page  # viewers change nothing


def test_the_page_of_a_key_has_the_part_of_its_limits_for_bulk_requests(as_viewer: Api, viewer: User) -> None:
    key = key_of(viewer)
    limit(key, concurrency=1, requests=60)
    limit(("user", str(viewer.pk)), tokens=1000)

    def parts() -> list[str]:
        return re.findall(r"for bulk requests ([\d,]+)", as_viewer.get(f"/keys/{key[1]}").content.decode())

    assert parts() == ["48", "800"]
    ApiKey.objects.filter(pk=key[1]).update(bulk=True)
    assert parts() == ["800"], "the key has no other requests"


def test_without_limits_the_page_says_so(as_admin: Api, admin: User) -> None:
    key = key_of(admin)
    page = as_admin.get(f"/keys/{key[1]}").content.decode()
    assert "There are no limits." in page
    assert f"/limits/key/{key[1]}" in page


def test_the_list_has_all_subjects(as_admin: Api, admin: User, used: Any) -> None:
    key = key_of(admin)
    limit(key, concurrency=4)
    limit(("user", str(admin.pk)), requests=60)
    budget()
    limit(("key", NOBODY), concurrency=4)  # of a key that another program has deleted
    used[key] = LimitUse(3, 0, 0)
    page = as_admin.get("/limits").content.decode()
    assert re.findall(r"<output>(\d+)</output>", page) == ["3", "0"]
    for url in (f"/limits/key/{key[1]}", f"/limits/user/{admin.pk}", "/limits/everyone"):
        assert f'href="{url}"' in page
    assert NOBODY not in page


def test_a_long_list_has_pages(as_admin: Api, admin: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The links to them failed, and so did the list of more than a hundred subjects."""
    monkeypatch.setattr("access.limits.pages.PAGE", 1)
    keys = sorted(key_of(admin, name) for name in ("one", "two", "three"))
    for key in keys:
        limit(key, requests=60)
    pages = [as_admin.get(f"/limits?page={number}").content.decode() for number in (1, 2, 3)]
    listed = [re.findall(r'href="/limits/key/([^"]+)"', page) for page in pages]
    assert listed == [[key] for _level, key in keys]
    assert all(f'href="?page={number}"' in pages[1] for number in (1, 3))


@pytest.mark.parametrize("path", ["", "/everyone", "/keys?ids=", f"/key/{NOBODY}", f"/user/{NOBODY}"])
def test_viewers_have_no_pages_of_limits(as_viewer: Api, path: str) -> None:
    assert as_viewer.get(f"/limits{path}").status_code == 403


@pytest.mark.parametrize("path", [f"/key/{NOBODY}", f"/user/{NOBODY}"])
def test_an_unknown_subject_is_404(as_admin: Api, path: str) -> None:
    assert as_admin.get(f"/limits{path}").status_code == 404


@pytest.mark.parametrize("query", ["", "?ids=a,b", f"?ids={NOBODY}"])
def test_without_keys_there_is_no_form(as_admin: Api, query: str) -> None:
    assert as_admin.get(f"/limits/keys{query}")["Location"] == "/limits"


def test_a_budget_line_shows_the_spent_amount() -> None:
    facts = LimitFacts(budgets=(Budget("", "money", "month", 4_000_000_000), Budget("", "tokens", "day", 1000)))
    amounts = {(EVERYONE, "money", "month"): 1_500_000_000, (EVERYONE, "tokens", "day"): 2000}
    lines = panel_of(EVERYONE, facts, lambda level, subject_id: LimitUse(), lambda *budget: amounts[budget]).budgets
    assert [(line.spent, line.amount, line.percent, line.is_full) for line in lines] == [
        ("1.5 USD", "4 USD", 37, False),
        ("2,000 tokens", "1,000 tokens", 100, True),
    ]
    (unknown, _tokens) = panel_of(EVERYONE, facts, lambda level, subject_id: LimitUse(), lambda *budget: None).budgets
    assert (unknown.spent, unknown.is_full) == ("—", False)


# Forms


@pytest.mark.parametrize("level", ["key", "user", "everyone"])
def test_limits_are_entered_and_shown_again(as_admin: Api, admin: User, level: str) -> None:
    subject = {"key": key_of(admin), "user": ("user", str(admin.pk)), "everyone": EVERYONE}[level]
    path = "/limits/everyone" if level == "everyone" else f"/limits/{level}/{subject[1]}"
    form = sent({"unit": "money", "period": "month", "amount": "25.5"}, requests="60", waiting=["requests"])
    assert as_admin.post(path, form).status_code == 302
    facts = read_limits([subject])[subject]
    assert (facts.requests, facts.waiting, [stored_budget.amount for stored_budget in facts.budgets]) == (
        60,
        ("requests",),
        [25_500_000_000],
    )
    page = as_admin.get(path).content.decode()
    assert 'value="60"' in page
    assert 'value="25.5"' in page
    assert LogEntry.objects.count() == 1


def test_empty_fields_delete_limits(as_admin: Api) -> None:
    limit(requests=60)
    budget()
    as_admin.post("/limits/everyone", sent({"amount": ""}))
    assert not LimitRow.objects.exists()
    assert not BudgetRow.objects.exists()


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (sent(requests="0"), "from 1 to 10,000,000"),
        (sent(requests="many"), "whole number"),
        (sent({"amount": "many"}), "whole number"),
        (sent({"amount": "5", "instead": "nothing"}), "no model nothing"),
        (sent({"amount": "5"}, {"amount": "6"}), "one budget for each unit and period"),
        (sent({"amount": "5", "refuses_unpriced": "on"}), "Only a budget of money"),
        (sent(waiting=["cars"]), "Nothing was saved"),
        ({"requests": "60"}, "Nothing was saved"),
    ],
)
def test_wrong_input_is_refused_at_its_field(as_admin: Api, form: dict[str, Any], text: str) -> None:
    response = as_admin.post("/limits/everyone", form)
    assert response.status_code == 200
    assert text in response.content.decode()
    assert not LimitRow.objects.exists()


def test_limits_of_several_keys_are_changed_at_once(as_admin: Api, admin: User) -> None:
    keys = [key_of(admin, name) for name in ("one", "two", "three")]
    path = f"/limits/keys?ids={keys[0][1]},{keys[1][1]},{NOBODY}"
    assert as_admin.post(path, sent(requests="60")).status_code == 302
    assert read_limits(keys) == {key: LimitFacts(requests=60, waiting=()) for key in keys[:2]}
    assert {entry.object_repr for entry in LogEntry.objects.all()} == {"one", "two"}


def test_limits_are_copied_from_another_key(as_admin: Api, admin: User) -> None:
    source, target = key_of(admin, "source"), key_of(admin, "target")
    limit(source, concurrency=7)
    page = as_admin.get(f"/limits/keys?ids={target[1]},{source[1]}").content.decode()
    assert f'<option value="{source[1]}"' in page
    page = as_admin.get(f"/limits/keys?ids={target[1]}&from={source[1]}").content.decode()
    assert re.search(r'name="concurrency" value="7"', page)


# Admin


def test_the_admin_leads_to_the_limits_of_chosen_keys(as_admin: Api, admin: User) -> None:
    keys = [key_of(admin, name) for name in ("one", "two")]
    response = as_admin.post(
        "/admin/access/apikey/", {"action": "change_limits", "_selected_action": [key[1] for key in keys]}
    )
    assert response.status_code == 302
    assert {*response["Location"].partition("ids=")[2].split(",")} == {key[1] for key in keys}


def test_the_admin_filters_keys_with_limits(as_admin: Api, admin: User) -> None:
    limited, budgeted = key_of(admin, "limited"), key_of(admin, "budgeted")
    key_of(admin, "unlimited")
    limit(limited, requests=60)
    budget(budgeted)
    for value, names in (("yes", ["limited", "budgeted"]), ("no", ["unlimited"])):
        page = as_admin.get(f"/admin/access/apikey/?limits={value}").content.decode()
        assert {name for name in ("unlimited", "limited", "budgeted") if f">{name}</a>" in page} == set(names)


def test_forms_of_the_admin_link_limits(as_admin: Api, admin: User) -> None:
    key = key_of(admin)
    assert f"/limits/key/{key[1]}" in as_admin.get(f"/admin/access/apikey/{key[1]}/change/").content.decode()
    assert f"/limits/user/{admin.pk}" in as_admin.get(f"/admin/access/user/{admin.pk}/change/").content.decode()
