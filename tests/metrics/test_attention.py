"""What needs a person: each kind alone, the worst first, and nothing where all is as it should be."""

import shutil
from collections import namedtuple
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.conf import settings

from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway import bounds, volumes
from gateway.bounds import Bound, Hits
from gateway.config import load
from gateway.livepage import LivePage
from metrics import teller as teller_module
from metrics.marks import marks
from tests.access.people import Api
from tests.metrics.records import AT, NOW, A, B, request
from tests.metrics.world import World, add_endpoint

pytestmark = pytest.mark.django_db

Disk = namedtuple("Disk", "total used free")  # as shutil has it


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Room enough, until a test says otherwise."""

    def has(total: int, free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(total, total - free, free))

    has(1 << 40, 1 << 39)
    with time_machine.travel(NOW, tick=False):
        yield has


@pytest.fixture
def restored(teller: World) -> World:
    teller.folder.seed(teller.trackers.state, "db")
    return teller


def told(client: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.call("GET", "/api/dashboard/attention").json()
    return found


def kinds(client: Api) -> list[str]:
    return [item["kind"] for item in told(client)]


def test_nothing_needs_anybody(as_viewer: Api, restored: World, endpoints: object) -> None:
    assert told(as_viewer) == []


def test_figures_that_are_not_restored_yet(as_viewer: Api, teller: World) -> None:
    assert kinds(as_viewer) == ["unrestored"]


def test_an_endpoint_that_is_offline_with_its_cause_and_what_is_lost(as_viewer: Api, restored: World) -> None:
    away = add_endpoint(A, "a", status="online")
    other = add_endpoint(B, "b", status="online")
    for endpoint, model in ((away, "both"), (away, "alone"), (other, "both")):
        EndpointModel(endpoint=endpoint, model_id=model).save(force_insert=True)
    for minutes in (3, 2):
        at = NOW - timedelta(minutes=minutes)
        Endpoint.record_check(A, success=False, latency_ms=None, error="connection refused", at=at)
    registry.reload()
    marks.refresh()
    (item,) = told(as_viewer)
    assert (item["kind"], item["severity"], item["cause"]) == ("offline", "bad", "connection refused")
    assert (item["endpoint_name"], item["since"]) == ("a", "2026-03-10T11:58:30.000Z")
    assert (item["models"], item["models_nowhere_else"]) == (2, 1)


@pytest.mark.parametrize("state", ["draining", "disabled"])
def test_what_an_operator_took_away_needs_nobody(as_viewer: Api, restored: World, state: str) -> None:
    add_endpoint(A, "a", status="offline").set_operator_state(state)
    registry.reload()
    assert told(as_viewer) == []


@pytest.mark.parametrize(("due", "severity", "cause"), [(60, "bad", "open"), (-1, "warn", "half_open")])
def test_a_circuit_breaker(as_viewer: Api, restored: World, due: int, severity: str, cause: str) -> None:
    add_endpoint(A, "a", status="online")
    teller_module.surroundings.trials = lambda: {A: int(AT) + due}
    (item,) = told(as_viewer)
    assert (item["kind"], item["severity"], item["cause"]) == ("breaker", severity, cause)


def test_the_breaker_of_an_endpoint_that_is_away_says_nothing_more(as_viewer: Api, restored: World) -> None:
    add_endpoint(A, "a", status="offline")
    teller_module.surroundings.trials = lambda: {A: int(AT) + 60}
    assert kinds(as_viewer) == ["offline"]


def test_records_that_wait(as_viewer: Api, restored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teller_module.surroundings, "writer", restored.writer)
    restored.gateway(request(ago=180))
    restored.writer.backlog.behind_since = AT - 180
    (item,) = told(as_viewer)
    assert (item["kind"], item["since"]) == ("waiting", "2026-03-10T11:57:30.000Z")


def test_requests_that_no_journal_took(as_viewer: Api, restored: World) -> None:
    teller_module.surroundings.unrecorded = lambda: 3
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
def test_a_disk_that_is_nearly_full(
    as_viewer: Api, restored: World, disk: Any, total: int, free: int, full: bool
) -> None:
    disk(total, free)
    assert kinds(as_viewer) == (["disk"] if full else [])


def test_a_disk_that_cannot_be_asked(as_viewer: Api, restored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr(shutil, "disk_usage", fails)
    assert told(as_viewer) == []


def test_a_password_that_was_generated(as_viewer: Api, restored: World) -> None:
    teller_module.surroundings.generated_passwords = lambda: [(B, "admin", NOW)]
    (item,) = told(as_viewer)
    assert (item["kind"], item["username"], item["user_id"]) == ("password", "admin", B)


def test_keys_of_endpoints_that_stand_in_plain_text(as_viewer: Api, restored: World) -> None:
    add_endpoint(A, "a", api_key_encrypted="sk-as-llmlb-left-it", status="online")
    assert [(it["kind"], it["keys"], it["severity"]) for it in told(as_viewer)] == [("clear_keys", 1, "warn")]
    html = as_viewer.get("/").content.decode()
    assert "One key of an endpoint is stored in plain text" in html
    assert "adopt --encrypt-keys" in html
    assert "sk-as-llmlb-left-it" not in html


def test_keys_that_are_sealed_need_nobody(as_viewer: Api, restored: World) -> None:
    endpoint = add_endpoint(A, "a", api_key_encrypted="sk-as-llmlb-left-it", status="online")
    endpoint.set_api_key("sk-as-llmlb-left-it")
    registry.reload()
    assert told(as_viewer) == []


@pytest.mark.parametrize(
    ("in_container", "lost", "kind"), [(True, True, ["volatile"]), (True, False, []), (False, True, [])]
)
def test_a_data_directory_that_is_lost_with_its_container(
    as_viewer: Api,
    restored: World,
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    in_container: bool,
    lost: bool,
    kind: list[str],
) -> None:
    settings.ROUTERDASH = replace(settings.ROUTERDASH, in_container=in_container)
    monkeypatch.setattr(volumes, "goes_with_the_container", lambda directory: lost)
    assert kinds(as_viewer) == kind
    assert ("No volume is mounted for the data directory" in as_viewer.get("/").content.decode()) is bool(kind)


def test_the_worst_come_first(as_viewer: Api, teller: World, disk: Any) -> None:
    add_endpoint(A, "z", status="error")
    add_endpoint(B, "y", status="offline")
    disk(1 << 40, 1)
    teller_module.surroundings.unrecorded = lambda: 1
    teller_module.surroundings.generated_passwords = lambda: [(B, "admin", NOW)]
    assert kinds(as_viewer) == ["unrecorded", "disk", "offline", "error", "unrestored", "password"]


# The page


def test_the_page_says_it_in_a_sentence_with_one_button(as_viewer: Api, restored: World) -> None:
    add_endpoint(A, "<b>a</b>", status="offline", base_url="http://a.invalid", last_error="no <i>route</i>")
    html = as_viewer.get("/").content.decode()
    assert "<b>&lt;b&gt;a&lt;/b&gt;</b> is offline: no &lt;i&gt;route&lt;/i&gt;." in html
    assert html.count('class="btn btn-small"') == 1


def test_a_part_of_the_page_is_given_alone(as_viewer: Api, restored: World) -> None:
    add_endpoint(A, "a", status="error")
    for part in ("attention", "endpoints", "marks"):
        html = as_viewer.get(f"/?part={part}").content.decode()
        assert f'data-part="{part}"' in html
        assert "<html" not in html
    assert "<html" in as_viewer.get("/?part=other").content.decode()


def test_of_very_many_the_first_are_said(as_viewer: Api, restored: World) -> None:
    for number in range(12):
        add_endpoint(f"{number:08d}-0000-4000-8000-000000000000", f"e{number:02}", status="offline")
    html = as_viewer.get("/?part=attention").content.decode()
    assert html.count('data-show="offline"') == 8
    assert "And 4 more" in html


def test_only_staff_may_change_what_staff_changes(as_admin: Api, as_viewer: Api, restored: World) -> None:
    teller_module.surroundings.generated_passwords = lambda: [(B, "admin", NOW)]
    for client, button in ((as_admin, True), (as_viewer, False)):
        assert (f"/admin/access/user/{B}/change/" in client.get("/").content.decode()) is button


def test_one_item_for_each_bound_that_was_hit_within_the_last_minute(
    as_viewer: Api, restored: World, endpoints: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, other = Bound(1, "some", "Some of all", "2", "waits"), Bound(2, "other", "Other", "3", "is refused")
    monkeypatch.setattr(bounds, "BOUNDS", (some, other))
    monkeypatch.setattr(bounds, "BY_NAME", {it.name: it for it in bounds.BOUNDS})
    monkeypatch.setattr(teller_module.surroundings, "bounds", Hits(LivePage(tmp_path / "live")))
    for _ in range(3):
        teller_module.surroundings.bounds.hit(some)
    (item,) = told(as_viewer)
    assert (item["kind"], item["severity"], item["cause"]) == ("bound", "warn", "some")
    assert item["since"] == "2026-03-10T12:00:30.000Z"
    teller_module.surroundings.bounds.hit(other)
    assert [it["cause"] for it in told(as_viewer)] == ["some", "other"]
    assert "<b>Some of all</b>" in as_viewer.get("/").content.decode()


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"ROUTERDASH_HOST": "0.0.0.0"}, ["plain_http"]),
        ({"ROUTERDASH_HOST": "192.0.2.1", "ROUTERDASH_PUBLIC_URL": "http://llm.local"}, ["plain_http"]),
        ({"ROUTERDASH_HOST": "0.0.0.0", "ROUTERDASH_PUBLIC_URL": "https://llm.example.com"}, []),
        ({"ROUTERDASH_HOST": "::1"}, []),
    ],
)
def test_passwords_that_go_over_the_network_in_the_clear(
    as_viewer: Api, restored: World, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: list[str]
) -> None:
    given = {"ROUTERDASH_DATA_DIR": str(settings.ROUTERDASH.data_dir), "ROUTERDASH_TIME_ZONE": "UTC", **environment}
    monkeypatch.setattr(settings, "ROUTERDASH", load(given))
    assert kinds(as_viewer) == found
    assert ("by plain HTTP" in as_viewer.get("/").content.decode()) == bool(found)
