"""Whether limits and budgets would let in a request: `limits` of /api/route."""

from typing import Any

import pytest

from access.limits.tables import LimitRow
from access.models import INFERENCE, READ_ENDPOINTS, ApiKey, User
from gateway.base.request_kinds import CHAT, COUNT_TOKENS
from gateway.ipc.counters.limit_use import LimitUse
from gateway.limits.spent_now import SpentNow
from gateway.registry.limits import DAY, EVERYONE_LEVEL, KEY_LEVEL, MONEY, MONTH, TOKENS, USER_LEVEL, Budget, LimitFacts
from metrics.spending.admission import admission_now
from tests.access.limits.made import budget, limit
from tests.access.people import Api, key_for, with_key
from tests.metrics.queries.routing.test_routing_preview import endpoint, routes
from tests.metrics.records import KEY, A
from tests.metrics.world import World, fake_installation

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


class Limited:
    """Limits and their use."""

    def __init__(self) -> None:
        self.limits: dict[tuple[str, str], LimitFacts] = {}
        self.use: dict[tuple[str, str], LimitUse] = {}
        self.spent: dict[tuple[str, str, str, str], int] = {}


@pytest.fixture
def limited(shown_world: World, monkeypatch: pytest.MonkeyPatch) -> Limited:
    limits, state = Limited(), fake_installation()
    state.limit_use = lambda level, subject_id: limits.use.get((level, subject_id), LimitUse())
    monkeypatch.setattr(SpentNow, "used", lambda now, subject, unit, period: limits.spent.get((*subject, unit, period)))
    return limits


def decision(
    limited: Limited, kind: str = CHAT, tokens: int = 10, key: str | None = KEY
) -> tuple[str, list[tuple[str, str]]]:
    result = admission_now(key, kind, tokens, lambda subjects: limited.limits)
    return result["decision"], [(excess["level"], excess["limit"]) for excess in result["exceeded"]]


def test_without_limits_all_are_admitted(limited: Limited) -> None:
    assert decision(limited) == decision(limited, key=None) == ("admitted", [])


@pytest.mark.parametrize(
    ("facts", "use", "expected"),
    [
        (LimitFacts(concurrency=2), LimitUse(1, 0, 0), "admitted"),
        (LimitFacts(concurrency=2), LimitUse(2, 0, 0), "waits"),
        (LimitFacts(concurrency=2, waiting=()), LimitUse(2, 0, 0), "refused"),
        (LimitFacts(requests=5), LimitUse(0, 4, 0), "admitted"),
        (LimitFacts(requests=5), LimitUse(0, 5, 0), "refused"),
        (LimitFacts(requests=5, waiting=("requests",)), LimitUse(0, 5, 0), "waits"),
        (LimitFacts(tokens=100), LimitUse(0, 0, 90), "admitted"),
        (LimitFacts(tokens=100), LimitUse(0, 0, 91), "refused"),
        (LimitFacts(tokens=9, waiting=("tokens",)), LimitUse(), "refused"),  # it can never fit
    ],
)
def test_limits(limited: Limited, facts: LimitFacts, use: LimitUse, expected: str) -> None:
    limited.limits[KEY_LEVEL, KEY], limited.use[KEY_LEVEL, KEY] = facts, use
    assert decision(limited)[0] == expected


def test_the_first_limit_decides_and_all_are_listed(limited: Limited, admin: User) -> None:
    key, _ = ApiKey.issue(admin, "script", (INFERENCE,))
    of_key, of_user = (KEY_LEVEL, str(key.pk)), (USER_LEVEL, str(admin.pk))
    limited.limits = {of_key: LimitFacts(concurrency=1), of_user: LimitFacts(requests=1)}
    limited.limits[EVERYONE_LEVEL, ""] = LimitFacts(tokens=5)
    limited.use = {of_key: LimitUse(1, 1, 1), of_user: LimitUse(1, 1, 1)}
    exceeded = [("key", "concurrency"), ("user", "requests"), ("everyone", "tokens")]
    assert decision(limited, key=str(key.pk)) == ("waits", exceeded)
    assert decision(limited, key=None) == ("refused", [("everyone", "tokens")])


def test_requests_that_need_no_slot_count_as_requests_only(limited: Limited) -> None:
    limited.limits[KEY_LEVEL, KEY] = LimitFacts(1, 5, 5, ("requests",), (Budget("b", TOKENS, DAY, 5),))
    limited.use[KEY_LEVEL, KEY] = LimitUse(1, 4, 5)
    assert decision(limited, COUNT_TOKENS) == ("admitted", [])
    limited.use[KEY_LEVEL, KEY] = LimitUse(1, 5, 5)
    assert decision(limited, COUNT_TOKENS) == ("refused", [("key", "requests")])


def test_budgets(limited: Limited) -> None:
    tokens, money = Budget("a", TOKENS, DAY, 100), Budget("b", MONEY, MONTH, 10**9)
    limited.limits[KEY_LEVEL, KEY] = LimitFacts(budgets=(tokens, money))
    limited.spent = {(KEY_LEVEL, KEY, TOKENS, DAY): 90, (KEY_LEVEL, KEY, MONEY, MONTH): 10**9 - 1}
    assert decision(limited) == ("admitted", [])
    assert decision(limited, tokens=11) == ("refused", [("key", "tokens")])
    limited.spent[KEY_LEVEL, KEY, MONEY, MONTH] = 10**9
    assert decision(limited) == ("refused", [("key", "money")])
    other = Budget("b", MONEY, MONTH, 10**9, instead="small")
    limited.limits[KEY_LEVEL, KEY] = LimitFacts(budgets=(other,))
    admission = admission_now(KEY, CHAT, 10, lambda subjects: limited.limits)
    assert (admission["decision"], admission["instead"]) == ("admitted", "small")


def test_the_api_says_it_for_the_key_that_asks(limited: Limited, admin: User, as_admin: Api, as_viewer: Api) -> None:
    state = fake_installation()
    state.is_serving = lambda: True
    state.routes = lambda model: routes([endpoint(A)], model)
    script = with_key(key_for(admin, READ_ENDPOINTS, INFERENCE, name="script"))
    own = str(ApiKey.objects.get(name="script").pk)
    budget((KEY_LEVEL, own), 2_500_000_000, MONEY)
    limited.spent[KEY_LEVEL, own, MONEY, DAY] = 2_500_000_001
    exceeded = {
        "level": "key", "limit": "money", "period": "day", "amount": "2.5", "used": "2.500000001", "requested": "0",
        "waits": False,
    }  # fmt: skip
    refused = {"decision": "refused", "exceeded": [exceeded], "instead": None}

    def limits(response: Any) -> Any:
        assert response.status_code == 200, response.content
        return response.json()["limits"]

    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
    assert limits(script.call("GET", "/api/route?model=tiny")) == refused
    assert limits(script.call("POST", "/api/route", body)) == refused
    assert limits(as_admin.call("POST", f"/api/route?api_key_id={own}", body)) == refused
    assert limits(as_viewer.call("GET", "/api/route?model=tiny")) == {**refused, "decision": "admitted", "exceeded": []}


def test_a_bulk_request_may_use_a_part(limited: Limited) -> None:
    limited.limits[KEY_LEVEL, KEY] = LimitFacts(requests=5)
    limited.use[KEY_LEVEL, KEY] = LimitUse(0, 4, 0)

    def decision_of(**of_class: bool) -> str:
        return admission_now(KEY, CHAT, 10, lambda subjects: limited.limits, **of_class)["decision"]

    assert decision_of() == "admitted"
    assert decision_of(is_bulk=True) == "refused"
    assert decision_of(is_bulk=True, has_bulk_only=True) == "admitted"
    limited.limits = {(EVERYONE_LEVEL, ""): LimitFacts(tokens=100, waiting=("tokens",))}
    assert admission_now(None, CHAT, 90, lambda subjects: limited.limits, is_bulk=True)["decision"] == "waits"


def test_the_api_knows_the_class_and_the_choices_of_a_request(limited: Limited, admin: User) -> None:
    state = fake_installation()
    state.is_serving = lambda: True
    state.routes = lambda model: routes([endpoint(A)], model)
    script = with_key(key_for(admin, READ_ENDPOINTS, INFERENCE, name="script"))
    own = KEY_LEVEL, str(ApiKey.objects.get(name="script").pk)
    body = {"model": "tiny", "messages": [], "max_tokens": 300}

    def exceeded(**fields: Any) -> dict[str, tuple[int, int]]:
        given = script.call("POST", "/api/route", {**body, **fields}).json()["limits"]["exceeded"]
        return {excess["limit"]: (int(excess["amount"]), int(excess["requested"])) for excess in given}

    limit(own, tokens=1)
    one, two, four = (exceeded(n=number)["tokens"][1] for number in (1, 2, 4))
    assert two > one
    assert four - one == 3 * (two - one)
    LimitRow.objects.update(tokens=None, requests=5)
    limited.use[own] = LimitUse(0, 4, 0)
    assert exceeded() == {}
    assert exceeded(service_tier="flex") == {"requests": (4, 1)}
    ApiKey.objects.update(bulk=True)
    assert exceeded() == {}
    limit(requests=5)
    limited.use[EVERYONE_LEVEL, ""] = LimitUse(0, 4, 0)
    assert exceeded() == {"requests": (4, 1)}
