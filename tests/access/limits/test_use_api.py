"""`/api/limits/…/use`: limits and budgets with their present use, and who may read them."""

import pytest

from access.models import ApiKey, User
from gateway.ipc.counters.limit_use import LimitUse
from gateway.limits.spent_now import SpentNow
from gateway.registry.limits import Subject
from metrics.memory.runtime import runtime
from tests.access.limits.made import EVERYONE, budget, limit
from tests.access.people import Api, key_for, with_key

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]
NOBODY = "0a1b2c3d-4e5f-4071-8a9b-0c1d2e3f4a5b"


def path_of(subject: Subject) -> str:
    return "/api/limits/" + "/".join(part for part in (*subject, "use") if part)


def key_of(owner: User, name: str) -> Subject:
    key_for(owner, name=name)
    return "key", str(ApiKey.objects.get(name=name).pk)


@pytest.fixture(autouse=True)
def use(monkeypatch: pytest.MonkeyPatch) -> None:
    amounts = {("money", "day"): 5 * 10**8}
    monkeypatch.setattr(SpentNow, "spent", lambda now, subject, *budget: amounts.get(budget))
    monkeypatch.setattr(SpentNow, "end_of", lambda now, period: 86_400.0 if period == "day" else None)
    monkeypatch.setattr(runtime.installation, "limit_use", lambda level, subject_id: LimitUse(1, 7, 300))


def test_an_administrator_reads_the_use_of_any_subject(as_admin: Api, viewer: User) -> None:
    subject = key_of(viewer, "script")
    limit(subject, concurrency=2, tokens=500, waiting=["tokens"])
    budget(subject, 10**9, "money")
    budget(subject, 9, period="total")
    limit_use = as_admin.call("GET", path_of(subject)).json()
    assert (limit_use["level"], limit_use["subject"], limit_use["name"]) == (*subject, "script")
    assert limit_use["limits"] == [
        {"limit": "concurrency", "amount": 2, "used": 1, "waits": False},
        {"limit": "tokens", "amount": 500, "used": 300, "waits": True},
    ]
    money, tokens = limit_use["budgets"]
    assert (money["amount"], money["spent"], money["currency"]) == ("1", "0.5", "USD")
    assert (money["unit"], money["period"], money["resets_at"]) == ("money", "day", "1970-01-02T00:00:00Z")
    assert (tokens["amount"], tokens["spent"], tokens["currency"], tokens["resets_at"]) == (9, None, None, None)
    for other in (("user", str(viewer.pk)), EVERYONE):
        assert as_admin.call("GET", path_of(other)).json()["limits"] == []
    assert as_admin.call("GET", path_of(("key", NOBODY))).status_code == 404


def test_viewers_read_their_own(as_viewer: Api, viewer: User, admin: User, anybody: Api) -> None:
    own, of_others = key_of(viewer, "own"), key_of(admin, "other")
    subjects = [own, ("user", str(viewer.pk)), EVERYONE, of_others, ("user", str(admin.pk))]
    assert [as_viewer.call("GET", path_of(subject)).status_code for subject in subjects] == [200, 200, 200, 404, 404]
    assert {anybody.call("GET", path_of(subject)).status_code for subject in subjects} == {401}


def test_an_api_key_needs_the_permission_of_the_level(admin: User) -> None:
    subjects = [key_of(admin, "limited"), ("user", str(admin.pk)), EVERYONE]
    for permission, codes in (("api_keys.manage", [200, 403, 200]), ("users.manage", [403, 200, 403])):
        api = with_key(key_for(admin, permission, name=permission))
        assert [api.call("GET", path_of(subject)).status_code for subject in subjects] == codes
