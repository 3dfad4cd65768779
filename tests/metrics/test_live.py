"""The requests that are here now: of the workers that there are, as fresh as can be."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine

from access.models import INFERENCE, MANAGE_ENDPOINTS, ApiKey, User
from endpoints.models import Endpoint
from gateway import present
from gateway.present import Present, Running, Waiting
from metrics import live
from metrics import teller as teller_module
from tests.access.people import Api, key_for, session_of, with_key
from tests.metrics.records import AT, KEY, NOW, A
from tests.metrics.world import without

pytestmark = pytest.mark.django_db

LIVE = "/api/live"
Tell = Callable[..., None]


@pytest.fixture(autouse=True)
def _now(endpoints: tuple[Endpoint, Endpoint]) -> Any:
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def tell(settings: Any, tmp_path: Path) -> Tell:
    """Have a worker, of two, write its file. Somebody looks already, so nobody waits for a fresh one."""
    settings.ROUTERDASH = replace(settings.ROUTERDASH, data_dir=tmp_path, workers=2)
    teller_module.surroundings.watch = lambda until: int(AT) + 5

    def write(worker: int = 0, *, ago: float = 0.2, **fields: Any) -> None:
        present.save(tmp_path, Present(worker, AT - ago, **fields))

    return write


def waiting(name: str, ago: float = 1.0, **fields: Any) -> Waiting:
    given = {"model": "tiny", "kind": "chat_completions", "api_key_id": None, "client_ip": "192.0.2.1", "position": 1}
    return Waiting(id=name, since=AT - ago, **{**given, **fields})


def running(name: str, ago: float = 1.0, **fields: Any) -> Running:
    given: dict[str, Any] = {"model": "tiny", "kind": "chat_completions", "api_key_id": None, "client_ip": None}
    return Running(
        id=name, since=AT - ago, **{**given, "endpoint_id": A, "streamed": True, "deltas": 3, **fields}
    )  # fmt: skip


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def test_all_workers_are_put_together_oldest_first(tell: Tell) -> None:
    tell(0, waiting=(waiting("w1", 1), waiting("w2", 5)), waiting_total=2, running=(running("r1"),), running_total=1)
    tell(1, waiting=(waiting("w3", 3),), waiting_total=300)
    found = live.look()
    assert (ids(found["waiting"]), ids(found["running"])) == (["w2", "w3", "w1"], ["r1"])
    assert (found["waiting_total"], found["running_total"]) == (302, 1)
    assert (found["workers"], found["workers_told"]) == (2, 2)


@pytest.mark.parametrize(("total", "cut"), [(1, False), (2, True)])
def test_it_says_whether_there_are_more(tell: Tell, total: int, cut: bool) -> None:
    tell(0, running=(running("r"),), running_total=total, waiting=(waiting("w"),), waiting_total=1)
    tell(1, running=(running("s"),), running_total=1)
    assert (live.look()["running_is_cut"], live.look()["waiting_is_cut"]) == (cut, False)


@pytest.mark.parametrize(("total", "hidden"), [(1, True), (2, False)])
def test_so_does_the_page_without_a_script(as_viewer: Api, tell: Tell, total: int, hidden: bool) -> None:
    tell(0, running=(running("r"),), running_total=total)
    running_panel, waiting_panel = as_viewer.get("/live").content.decode().split('data-kind="waiting"')
    assert ("data-more hidden" in running_panel, "data-more hidden" in waiting_panel) == (hidden, True)


def test_a_request_is_told_with_all_names(tell: Tell, admin: User) -> None:
    key_for(admin, name="notebook")
    key = str(ApiKey.objects.get().pk)
    tell(1, running=(running("r", 2.5, api_key_id=key),), running_total=1)
    assert live.look()["running"] == [
        {
            "id": "r", "worker": 1, "model": "tiny", "kind": "chat_completions", "api_key_id": key,
            "api_key_name": "notebook", "client_ip": None, "since": "2026-03-10T12:00:27.500Z", "age_ms": 2500.0,
            "endpoint_id": A, "endpoint_name": "a", "streamed": True, "deltas": 3, "phase": "stream",
            "first_token_ms": None,
        }
    ]  # fmt: skip


def test_a_waiting_request_has_its_place(tell: Tell) -> None:
    tell(0, waiting=(waiting("w", position=4, api_key_id=KEY),), waiting_total=9)
    (row,) = live.look()["waiting"]
    assert (row["position"], row["api_key_name"], row["client_ip"]) == (4, None, "192.0.2.1")


@pytest.mark.parametrize(("ago", "told"), [(2.9, 1), (3.0, 0), (-2.9, 1), (-10.0, 0)])
def test_what_is_not_fresh_is_not_told(tell: Tell, ago: float, told: int) -> None:
    tell(0, ago=ago, running=(running("r"),), running_total=1)
    assert live.look()["workers_told"] == live.look()["running_total"] == told


def test_workers_of_former_settings_are_not_told(tell: Tell) -> None:
    tell(2, running=(running("r"),), running_total=1)
    assert live.look()["running_total"] == 0


def test_without_anything_there_is_nothing(tell: Tell) -> None:
    assert (live.look()["waiting"], live.look()["workers_told"]) == ([], 0)


def test_workers_hear_that_somebody_looks(tell: Tell) -> None:
    heard: list[int] = []

    def watch(until: int) -> int:
        heard.append(until)
        return until

    teller_module.surroundings.watch = watch
    live.look()
    assert heard == [int(AT) + 10]


def test_where_nobody_looked_before_a_fresh_one_is_waited_for(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    teller_module.surroundings.watch = lambda until: 0
    tell(0, ago=2, running=(running("old"),), running_total=1)

    def sleep(seconds: float) -> None:
        tell(0, ago=0, running=(running("new"),), running_total=1)
        tell(1, ago=0)

    monkeypatch.setattr(live, "time", SimpleNamespace(time=lambda: AT, monotonic=lambda: AT, sleep=sleep))
    assert ids(live.look()["running"]) == ["new"]


def test_a_worker_that_does_not_tell_is_waited_for_no_longer_than_a_second(
    tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    teller_module.surroundings.watch = lambda until: 0
    slept: list[float] = []
    clock = SimpleNamespace(time=lambda: AT, monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr(live, "time", clock)
    tell(0, ago=2, running=(running("old"),), running_total=1)
    assert ids(live.look()["running"]) == ["old"]
    assert sum(slept) == pytest.approx(live.FIRST_LOOK_SECONDS, abs=live.STEP_SECONDS)


def test_it_is_told_to_who_asks(script: Api, tell: Tell) -> None:
    tell(0, running=(running("r"),), running_total=1)
    assert ids(script.call("GET", LIVE).json()["running"]) == ["r"]


def test_who_may_read(anybody: Api, as_viewer: Api, admin: User, tell: Tell) -> None:
    weak = with_key(key_for(admin, INFERENCE))
    assert [api.call("GET", LIVE).status_code for api in (anybody, weak, as_viewer)] == [401, 403, 200]


@pytest.mark.django_db(transaction=True)
def test_without_the_database_only_names_are_missing(as_viewer: Api, tell: Tell) -> None:
    tell(0, running=(running("r", api_key_id=KEY),), running_total=1)
    as_viewer.call("GET", LIVE)
    with without("api_keys"):
        (row,) = as_viewer.call("GET", LIVE).json()["running"]
    assert (row["id"], row["api_key_name"], row["endpoint_name"]) == ("r", None, "a")


# What they do, and ending it


@pytest.mark.parametrize(
    ("fields", "phase"),
    [
        ({"deltas": 0}, "first_token"),
        ({"deltas": 1, "first_token": AT - 0.5}, "stream"),
        ({"streamed": False, "deltas": 0}, "answer"),
    ],
)
def test_what_a_running_request_does(tell: Tell, fields: dict[str, Any], phase: str) -> None:
    tell(0, running=(running("r", **fields),), running_total=1)
    (row,) = live.look()["running"]
    assert (row["phase"], row["first_token_ms"]) == (phase, 500.0 if phase == "stream" else None)


def test_what_waits_is_in_the_queue(tell: Tell) -> None:
    tell(0, waiting=(waiting("w"),), waiting_total=1)
    assert live.look()["waiting"][0]["phase"] == "queue"


def test_who_is_not_patient_waits_for_nobody(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    teller_module.surroundings.watch = lambda until: 0
    monkeypatch.setattr(live, "time", SimpleNamespace(time=lambda: AT))  # which cannot sleep
    assert live.look(patient=False)["workers_told"] == 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that workers were to end."""
    found: list[str] = []
    monkeypatch.setattr(teller_module.surroundings, "cancel", found.append)
    monkeypatch.setattr(teller_module.surroundings, "cancelled", lambda: found)
    return found


RUNS, WAITS, GONE = (f"0192a000-0000-7000-8000-00000000000{number}" for number in (1, 2, 3))


@pytest.fixture
def two_here(tell: Tell) -> None:
    tell(0, running=(running(RUNS),), running_total=1)
    tell(1, waiting=(waiting(WAITS),), waiting_total=1)


def cancel(api: Api, request_id: str = RUNS) -> Any:
    return api.call("POST", f"{LIVE}/{request_id}/cancel")


@pytest.mark.parametrize("request_id", [RUNS, WAITS])
def test_an_administrator_ends_a_request(as_admin: Api, two_here: None, asked: list[str], request_id: str) -> None:
    response = cancel(as_admin, request_id)
    assert (response.status_code, response.json()) == (202, {"id": request_id, "cancelled": True})
    assert asked == [request_id]


@pytest.mark.parametrize("fields", [{"running_total": 9}, {"waiting_total": 9}])
def test_of_more_than_are_told_any_can_be_ended(
    as_admin: Api, tell: Tell, asked: list[str], fields: dict[str, int]
) -> None:
    tell(0, **fields)
    assert cancel(as_admin, GONE).status_code == 202
    assert asked == [GONE]


def test_once_more_changes_nothing(as_admin: Api, two_here: None, asked: list[str], tell: Tell) -> None:
    cancel(as_admin)
    tell(0)  # it is gone
    assert cancel(as_admin).status_code == 202
    assert asked == [RUNS]


def test_what_is_not_here_cannot_be_ended(as_admin: Api, two_here: None, asked: list[str]) -> None:
    assert cancel(as_admin, GONE).status_code == 404
    assert as_admin.call("POST", f"{LIVE}/{RUNS[:-1]}/cancel").status_code == 404
    assert asked == []


def test_who_may_end_requests(
    anybody: Api, as_viewer: Api, script: Api, admin: User, two_here: None, asked: list[str]
) -> None:
    managing = with_key(key_for(admin, MANAGE_ENDPOINTS, name="manages"))
    given = [cancel(api).status_code for api in (anybody, as_viewer, script, managing)]
    assert given == [401, 403, 403, 202]


def test_a_session_needs_the_pages_token(admin: User, two_here: None, asked: list[str]) -> None:
    assert cancel(session_of(admin, enforce_csrf_checks=True)).status_code == 403
    assert asked == []


# The page


def page(client: Api) -> str:
    response = client.get("/live")
    assert response.status_code == 200
    text: str = response.content.decode()
    return text


def test_the_page_has_what_is_told(as_admin: Api, two_here: None) -> None:
    html = page(as_admin)
    assert f'data-request="{RUNS}"' in html
    assert f'data-request="{WAITS}"' in html
    assert html.count("Streaming") == 2  # the row's and the script's


@pytest.mark.parametrize("workers", [1, 2])
def test_the_page_counts_nothing_until_all_have_told(as_viewer: Api, tell: Tell, workers: int) -> None:
    for worker in range(workers):
        tell(worker)
    html = page(as_viewer)
    assert re.findall(r"data-total>(.)<", html) == (["0", "0"] if workers == 2 else ["—", "—"])
    assert html.count("data-none hidden") == (0 if workers == 2 else 2)


def test_only_administrators_are_offered_to_end_them(as_admin: Api, as_viewer: Api, two_here: None) -> None:
    assert ["data-cancel" in page(api) for api in (as_admin, as_viewer)] == [True, False]


def test_what_clients_call_their_models_is_escaped(as_viewer: Api, tell: Tell) -> None:
    tell(0, running=(running("r", model="<b>x"),), running_total=1)
    assert "&lt;b&gt;x" in page(as_viewer)


@pytest.mark.parametrize("rows", [1, 60])
def test_the_page_asks_for_names_of_keys_alone(
    as_viewer: Api, tell: Tell, django_assert_num_queries: Any, rows: int
) -> None:
    tell(0, running=tuple(running(str(number)) for number in range(rows)), running_total=rows)
    page(as_viewer)
    with django_assert_num_queries(1):
        page(as_viewer)


def test_the_page_needs_a_login(anybody: Api) -> None:
    assert anybody.get("/live")["Location"] == "/login?next=/live"
