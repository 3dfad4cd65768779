"""Items that need attention: each kind alone, the worst first, and none if all is well."""

import re
import shutil
import uuid
from collections import namedtuple
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.conf import settings

from endpoints import clouds
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway.base import bounds, volumes
from gateway.base.bounds import Bound
from gateway.base.config import load
from gateway.ipc.bound_hits import Hits
from gateway.ipc.live_page import LivePage
from gateway.routing.set_aside import AsideNote
from metrics.learning.current_slowdowns import SlowModel, slowdowns
from metrics.learning.slowdown import Slowdown
from metrics.memory.endpoint_events import endpoint_events
from metrics.memory.installation import InteractiveWaits
from metrics.memory.runtime import runtime
from metrics.queries import figures, overview
from metrics.queries.figures import Moment
from metrics.spending.used_budgets import UsedBudget, used_budgets
from metrics.times import json_time
from tests.access.people import Api
from tests.metrics.records import AT, NOW, A, B, request
from tests.metrics.world import World, add_endpoint, fake_installation

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

Disk = namedtuple("Disk", "total used free")  # the order of shutil


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Free space that a test can set."""

    def has(total: int, free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(total, total - free, free))

    has(1 << 40, 1 << 39)
    with time_machine.travel(NOW, tick=False):
        yield has


@pytest.fixture
def restored(shown_world: World) -> World:
    shown_world.follower.seed(shown_world.trackers.state, "db")
    return shown_world


def items(client: Api) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = client.call("GET", "/api/dashboard/attention").json()
    return listed


def kinds(client: Api) -> list[str]:
    return [item["kind"] for item in items(client)]


def test_a_healthy_installation_has_no_items(as_viewer: Api, restored: World, endpoints: object) -> None:
    assert items(as_viewer) == []


def test_figures_that_are_not_restored_yet(as_viewer: Api, shown_world: World) -> None:
    assert kinds(as_viewer) == ["unrestored"]


def test_an_offline_endpoint_is_listed_with_cause_and_lost_models(as_viewer: Api, restored: World) -> None:
    away = add_endpoint(A, "a", status="online")
    other = add_endpoint(B, "b", status="online")
    for endpoint, model in ((away, "both"), (away, "alone"), (other, "both")):
        EndpointModel(endpoint=endpoint, model_id=model).save(force_insert=True)
    for minutes in (3, 2):
        moment = NOW - timedelta(minutes=minutes)
        Endpoint.record_check(A, success=False, latency_ms=None, error="connection refused", checked_at=moment)
    registry.reload()
    endpoint_events.refresh()
    (item,) = items(as_viewer)
    assert (item["kind"], item["severity"], item["cause"]) == ("offline", "bad", "connection refused")
    assert (item["endpoint_name"], item["since"]) == ("a", "2026-03-10T11:58:30.000Z")
    assert (item["models"], item["models_nowhere_else"]) == (2, 1)


@pytest.mark.parametrize("cause", clouds.REMARKS)
def test_a_cloud_that_refuses_the_account_is_online_and_listed(as_viewer: Api, restored: World, cause: str) -> None:
    add_endpoint(A, "a", status="online")
    Endpoint.record_check(A, success=True, latency_ms=1, error=None, checked_at=NOW, remark=cause)
    registry.reload()
    (item,) = items(as_viewer)
    assert (item["kind"], item["severity"], item["cause"], item["endpoint_name"]) == ("account", "bad", cause, "a")


@pytest.mark.parametrize(
    ("cause", "shown"), [("money", [clouds.NO_CREDIT]), ("key_refused", [clouds.KEY_REFUSED]), ("limited", [])]
)
def test_a_pause_is_listed_if_an_administrator_must_act(
    as_viewer: Api, restored: World, cause: str, shown: list[str]
) -> None:
    add_endpoint(A, "a", status="online")
    fake_installation().aside = lambda: {A: AsideNote(int(AT) + 60, cause, ())}
    assert [(item["kind"], item["severity"], item["cause"]) for item in items(as_viewer)] == [
        ("account", "bad", text) for text in shown
    ]


def test_a_remark_and_a_pause_are_one_item(as_viewer: Api, restored: World) -> None:
    add_endpoint(A, "a", status="online")
    Endpoint.record_check(A, success=True, latency_ms=1, error=None, checked_at=NOW, remark=clouds.NOT_PERMITTED)
    registry.reload()
    fake_installation().aside = lambda: {A: AsideNote(int(AT) + 60, "key_refused", ())}
    assert [item["cause"] for item in items(as_viewer)] == [clouds.NOT_PERMITTED]


def test_a_paused_endpoint_that_is_offline_is_one_item(as_viewer: Api, restored: World) -> None:
    add_endpoint(A, "a", status="offline")
    fake_installation().aside = lambda: {A: AsideNote(int(AT) + 60, "money", ())}
    assert kinds(as_viewer) == ["offline"]


@pytest.mark.parametrize("state", ["draining", "disabled"])
def test_endpoints_disabled_by_an_administrator_are_not_listed(as_viewer: Api, restored: World, state: str) -> None:
    add_endpoint(A, "a", status="offline").set_operator_state(state)
    registry.reload()
    assert items(as_viewer) == []


@pytest.mark.parametrize(("due", "severity", "cause"), [(60, "bad", "open"), (-1, "warn", "half_open")])
def test_a_circuit_breaker(as_viewer: Api, restored: World, due: int, severity: str, cause: str) -> None:
    add_endpoint(A, "a", status="online")
    fake_installation().trials = lambda: {A: int(AT) + due}
    (item,) = items(as_viewer)
    assert (item["kind"], item["severity"], item["cause"]) == ("breaker", severity, cause)


def test_the_breaker_of_an_offline_endpoint_is_not_listed_too(as_viewer: Api, restored: World) -> None:
    add_endpoint(A, "a", status="offline")
    fake_installation().trials = lambda: {A: int(AT) + 60}
    assert kinds(as_viewer) == ["offline"]


@pytest.mark.parametrize("most", [0, 1, 2, 3, 4, 5, 6])
def test_the_first_items_are_those_of_the_whole_list(restored: World, most: int) -> None:
    for number, status in enumerate(("error", "offline", "online", "error", "offline")):
        add_endpoint(str(uuid.UUID(int=number + 1)), f"server {5 - number}", status=status)
    fake_installation().trials = lambda: {str(uuid.UUID(int=3)): int(AT) + 60}
    moment = Moment.now()
    every = overview.attention(moment, figures.stats(moment))
    assert [item["kind"] for item in every] == ["offline", "offline", "error", "error", "breaker"]
    assert overview.first_attention(moment, figures.stats(moment), most) == (every[:most], 5)


def test_a_backlog_of_records(as_viewer: Api, restored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.installation, "writer", restored.writer)
    restored.gateway(request(ago=180))
    restored.writer.backlog.behind_since = AT - 180
    (item,) = items(as_viewer)
    assert (item["kind"], item["since"]) == ("waiting", "2026-03-10T11:57:30.000Z")


def test_unrecorded_requests(as_viewer: Api, restored: World) -> None:
    fake_installation().unrecorded = lambda: 3
    assert kinds(as_viewer) == ["unrecorded"]


@pytest.mark.parametrize(
    ("total", "free", "full"),
    [
        (1 << 40, 1 << 30, True),
        (1 << 40, 21 << 30, False),
        (100 << 30, 2 << 30, True),
        (100 << 30, 4 << 30, False),
        (8 << 30, (1 << 30) - 1, True),
    ],
)
def test_a_nearly_full_disk(as_viewer: Api, restored: World, disk: Any, total: int, free: int, full: bool) -> None:
    disk(total, free)
    assert kinds(as_viewer) == (["disk"] if full else [])


def test_a_disk_whose_free_space_cannot_be_read(
    as_viewer: Api, restored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr(shutil, "disk_usage", fails)
    assert items(as_viewer) == []


def test_a_generated_password(as_viewer: Api, restored: World) -> None:
    fake_installation().generated_passwords = lambda: [(B, "admin", NOW)]
    (item,) = items(as_viewer)
    assert (item["kind"], item["username"], item["user_id"]) == ("password", "admin", B)


def test_changes_that_cannot_be_published(as_viewer: Api, restored: World) -> None:
    fake_installation().publication_failure = lambda: "disk full"
    (item,) = items(as_viewer)
    assert (item["kind"], item["severity"], item["cause"]) == ("unpublished", "bad", "disk full")
    assert "which continue without them: disk full" in as_viewer.get("/").content.decode()
    health = as_viewer.get("/health").json()
    assert health["reasons"] == ["changes of endpoints and keys cannot be published to the gateways, see the log"]


def test_a_difference_between_database_and_gateways_is_shown_for_a_day(as_viewer: Api, restored: World) -> None:
    fake_installation().drifted_at = lambda: AT - 60
    (item,) = items(as_viewer)
    assert (item["kind"], item["severity"], item["since"]) == ("drift", "warn", json_time(NOW - timedelta(minutes=1)))
    assert "differed between the database and the gateways" in as_viewer.get("/").content.decode()
    fake_installation().drifted_at = lambda: AT - 86_400
    assert items(as_viewer) == []


def test_plain_text_keys_of_endpoints(as_viewer: Api, restored: World) -> None:
    add_endpoint(A, "a", api_key_encrypted="sk-as-llmlb-left-it", status="online")
    assert [(item["kind"], item["keys"], item["severity"]) for item in items(as_viewer)] == [("clear_keys", 1, "warn")]
    html = as_viewer.get("/").content.decode()
    assert "1 API key of an endpoint is stored in plain text" in html
    assert "adopt --encrypt-keys" in html
    assert "sk-as-llmlb-left-it" not in html


def test_sealed_keys_are_not_listed(as_viewer: Api, restored: World) -> None:
    endpoint = add_endpoint(A, "a", api_key_encrypted="sk-as-llmlb-left-it", status="online")
    endpoint.set_api_key("sk-as-llmlb-left-it")
    registry.reload()
    assert items(as_viewer) == []


@pytest.mark.parametrize(
    ("in_container", "lost", "kind"), [(True, True, ["volatile"]), (True, False, []), (False, True, [])]
)
def test_a_data_directory_inside_the_container(
    as_viewer: Api,
    restored: World,
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    in_container: bool,
    lost: bool,
    kind: list[str],
) -> None:
    settings.ROUTERDASH = replace(settings.ROUTERDASH, in_container=in_container)
    monkeypatch.setattr(volumes, "is_lost_with_container", lambda directory: lost)
    assert kinds(as_viewer) == kind
    assert ("No volume is mounted for the data directory" in as_viewer.get("/").content.decode()) is bool(kind)


def test_the_worst_endpoints_come_first(as_viewer: Api, shown_world: World, disk: Any) -> None:
    add_endpoint(A, "z", status="error")
    add_endpoint(B, "y", status="offline")
    disk(1 << 40, 1)
    fake_installation().unrecorded = lambda: 1
    fake_installation().generated_passwords = lambda: [(B, "admin", NOW)]
    assert kinds(as_viewer) == ["unrecorded", "disk", "offline", "error", "unrestored", "password"]


# The page


def test_the_page_shows_an_item_as_a_sentence_with_one_button(as_viewer: Api, restored: World) -> None:
    add_endpoint(A, "<b>a</b>", status="offline", base_url="http://a.invalid", last_error="no <i>route</i>")
    html = as_viewer.get("/").content.decode()
    assert "<b>&lt;b&gt;a&lt;/b&gt;</b> is offline: no &lt;i&gt;route&lt;/i&gt;" in html
    assert html.count('class="btn btn-small"') == 1


def test_the_part_of_the_page_can_be_requested_alone(as_viewer: Api, restored: World) -> None:
    add_endpoint(A, "a", status="error")
    for part in ("attention", "endpoints", "marks"):
        html = as_viewer.get(f"/?part={part}").content.decode()
        assert f'data-part="{part}"' in html
        assert "<html" not in html
    assert "<html" in as_viewer.get("/?part=other").content.decode()


def test_only_the_first_items_of_many_are_shown(as_viewer: Api, restored: World) -> None:
    for number in range(12):
        add_endpoint(f"{number:08d}-0000-4000-8000-000000000000", f"e{number:02}", status="offline")
    html = as_viewer.get("/?part=attention").content.decode()
    assert html.count('data-show="offline"') == 8
    assert "lists 4 more." in html


def test_buttons_for_administrators_are_shown_to_them_only(as_admin: Api, as_viewer: Api, restored: World) -> None:
    fake_installation().generated_passwords = lambda: [(B, "admin", NOW)]
    for client, button in ((as_admin, True), (as_viewer, False)):
        assert (f"/admin/access/user/{B}/change/" in client.get("/").content.decode()) is button


def test_each_limit_hit_within_the_last_minute_is_one_item(
    as_viewer: Api, restored: World, endpoints: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, other = Bound(1, "some", "Some of all", "2", "waits"), Bound(2, "other", "Other", "3", "is refused")
    monkeypatch.setattr(bounds, "BY_NAME", {bound.name: bound for bound in (some, other)})
    monkeypatch.setattr("gateway.ipc.bound_hits.BOUNDS", (some, other))
    monkeypatch.setattr(runtime.installation, "bound_hits", Hits(LivePage(tmp_path / "live")))
    for _ in range(3):
        runtime.installation.bound_hits.hit(some)
    (item,) = items(as_viewer)
    assert (item["kind"], item["severity"], item["cause"]) == ("bound", "warn", "some")
    assert item["since"] == "2026-03-10T12:00:30.000Z"
    runtime.installation.bound_hits.hit(other)
    assert [listed["cause"] for listed in items(as_viewer)] == ["some", "other"]
    assert "<b>Some of all</b>" in as_viewer.get("/").content.decode()


@pytest.mark.parametrize(
    ("environment", "expected_kinds"),
    [
        ({"ROUTERDASH_HOST": "0.0.0.0"}, ["plain_http"]),
        ({"ROUTERDASH_HOST": "192.0.2.1", "ROUTERDASH_PUBLIC_URL": "http://llm.local"}, ["plain_http"]),
        ({"ROUTERDASH_HOST": "0.0.0.0", "ROUTERDASH_PUBLIC_URL": "https://llm.example.com"}, []),
        ({"ROUTERDASH_HOST": "::1"}, []),
    ],
)
def test_passwords_sent_without_encryption(
    as_viewer: Api,
    restored: World,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    expected_kinds: list[str],
) -> None:
    given = {"ROUTERDASH_DATA_DIR": str(settings.ROUTERDASH.data_dir), "ROUTERDASH_TIME_ZONE": "UTC", **environment}
    monkeypatch.setattr(settings, "ROUTERDASH", load(given))
    assert kinds(as_viewer) == expected_kinds
    assert ("accepts plain HTTP" in as_viewer.get("/").content.decode()) == bool(expected_kinds)


def used_budget(spent: int, *, instead: str | None = None, period: str = "month", level: str = "key") -> UsedBudget:
    subject = "" if level == "everyone" else A
    name = None if level == "everyone" else "<i>a key</i>"
    resets_at = None if period == "total" else AT + 3600
    return UsedBudget(level, subject, name, "tokens", period, 1000, spent, resets_at, instead)


def test_budgets_of_which_most_is_spent(as_admin: Api, as_viewer: Api, restored: World, endpoints: object) -> None:
    spent, other = used_budget(1000), used_budget(1005, instead="small", level="user")
    used_budgets.note([other, spent, used_budget(999), used_budget(800, level="everyone"), used_budget(799)], 4)
    listed = items(as_viewer)
    assert [(item["kind"], item["severity"], item["percent"], item["level"]) for item in listed] == [
        ("budget_spent", "bad", 100, "key"),
        ("budget_spent", "warn", 100, "user"),
        ("budget", "warn", 99, "key"),
        ("budget", "warn", 80, "everyone"),
    ]
    assert [(item["subject_id"], item["until"], item["model"]) for item in listed[:2]] == [
        (A, json_time(NOW + timedelta(hours=1)), None),
        (A, json_time(NOW + timedelta(hours=1)), "small"),
    ]
    html = as_admin.get("/").content.decode()
    key = "<b>&lt;i&gt;a key&lt;/i&gt;</b>"
    for text in (
        f"The budget of {key} (API key, tokens, month) is spent: requests are refused until 2026-03-10 13:00:30.",
        f"The budget of {key} (user, tokens, month) is spent: requests go to <b>small</b>.",
        f"The budget of {key} (API key, tokens, month) is 99 % spent.",
        "The budget of <b>everyone</b> (tokens, month) is 80 % spent.",
    ):
        assert text in html
    for path in (f"/limits/key/{A}", f"/limits/user/{A}", "/limits/everyone"):
        assert f'href="{path}"' in html
        assert f'href="{path}"' not in as_viewer.get("/").content.decode()


def test_a_budget_without_an_end_is_refused_for_good(as_viewer: Api, restored: World, endpoints: object) -> None:
    used_budgets.note([used_budget(2000, period="total")], 1)
    assert [(item["until"], item["percent"]) for item in items(as_viewer)] == [(None, 200)]
    assert "in total) is spent: requests are refused.\n" in as_viewer.get("/").content.decode()


def test_the_period_of_a_budget_ends(as_viewer: Api, restored: World, endpoints: object) -> None:
    used_budgets.note([used_budget(2000)], 1)
    with time_machine.travel(NOW + timedelta(hours=1), tick=False):
        assert items(as_viewer) == []


def test_only_the_fullest_budgets_have_an_item_each(as_admin: Api, restored: World, endpoints: object) -> None:
    used_budgets.note([used_budget(990 - number) for number in range(50)], 70)
    listed = items(as_admin)
    assert [item["percent"] for item in listed] == [99, 98, 98, 98, 98, None]
    assert [(item["kind"], item["budgets"]) for item in listed[-1:]] == [("more_budgets", 65)]
    html = as_admin.get("/").content.decode()
    assert "65 more budgets are spent, or nearly so." in html
    assert 'btn-small" href="/limits"' in html


def test_models_for_which_budgets_of_money_count_nothing(
    as_admin: Api, as_viewer: Api, restored: World, endpoints: object
) -> None:
    used_budgets.unpriced = ["a/<b>", *"bcdef"]
    (item,) = items(as_viewer)
    assert (item["kind"], item["severity"], item["model"], item["models"]) == ("unpriced", "warn", "a/<b>", 6)
    assert item["cause"] == "a/<b>, b, c, d, e, …"
    html = as_admin.get("/").content.decode()
    assert "Budgets of money count nothing for 6 models" in html
    assert "<b>a/&lt;b&gt;, b, c, d, e, …</b>" in html
    (form,) = re.findall(r'href="(/admin/metrics/pricerow/add/[^"]+)"', html)
    assert 'value="a/&lt;b&gt;"' in as_admin.get(form).content.decode()
    assert 'btn-small" href="/prices"' in as_viewer.get("/").content.decode()
    used_budgets.unpriced = ["llama"]
    assert "<b>llama</b>: this model has no price" in as_viewer.get("/").content.decode()


def slow_model(model: str, factor: float) -> SlowModel:
    now_us = round(AT * 1e6)
    return SlowModel(A, model, "chat_completions", Slowdown(now_us - 3_600_000_000, factor, 50, now_us))


def test_a_slow_endpoint(as_viewer: Api, restored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    add_endpoint(A, "a", status="online")
    registry.reload()
    slow_models = {("x", model, ""): slow_model(model, factor) for model, factor in (("one", 1.62), ("two", 2.04))}
    monkeypatch.setattr(slowdowns, "_slow_models", slow_models)
    (item,) = items(as_viewer)
    assert (item["kind"], item["severity"], item["since"]) == ("slow", "warn", "2026-03-10T11:00:30.000Z")
    assert (item["endpoint_name"], item["model"], item["factor"], item["models"]) == ("a", "two", 2.04, 2)
    page = " ".join(as_viewer.get("/").content.decode().split())
    assert "<b>a</b> takes about 2.0 × as long for <b>two</b> as before" in page
    assert "2 of its models have become slower." in page


@pytest.mark.parametrize(("status", "state"), [("offline", "enabled"), ("online", "draining")])
def test_a_slow_endpoint_without_requests(
    as_viewer: Api, restored: World, monkeypatch: pytest.MonkeyPatch, status: str, state: str
) -> None:
    add_endpoint(A, "a", status=status).set_operator_state(state)
    registry.reload()
    monkeypatch.setattr(slowdowns, "_slow_models", {("x", "one", ""): slow_model("one", 2.0)})
    assert "slow" not in kinds(as_viewer)


def assumed(endpoint_id: str, name: str, slots: int, **options: Any) -> None:
    add_endpoint(endpoint_id, name, status="online").set_options(assumed_slots=slots, **options)


def test_requests_wait_for_an_assumed_limit(as_viewer: Api, restored: World) -> None:
    """Not for one that administrators have entered, nor at an endpoint with a free slot."""
    assumed(A, "a", 4)
    assumed(B, "b", 4, learned_slots=2)
    registry.reload()
    installation = fake_installation()
    assert kinds(as_viewer) == []
    installation.waiting_interactive = lambda: InteractiveWaits(1, frozenset((A, B)))
    installation.in_flight = lambda: {A: 3, B: 9}
    assert kinds(as_viewer) == []
    installation.in_flight = lambda: {A: 4, B: 9}
    (item,) = items(as_viewer)
    shown = item["kind"], item["severity"], item["endpoint_id"], item["endpoint_name"], item["slots"]
    assert shown == ("assumed_slots", "warn", A, "a", 4)
    page = " ".join(as_viewer.get("/").content.decode().split())
    assert "Requests wait for <b>a</b>, for which 4 requests at a time are assumed." in page
    installation.waiting_interactive = InteractiveWaits
    assert kinds(as_viewer) == []
