"""Running requests of all current workers, as fresh as possible."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from access.models import INFERENCE, MANAGE_ENDPOINTS, ApiKey, User
from gateway.ipc import running_requests
from gateway.ipc.running_requests import Present, Running, Waiting
from metrics.memory.runtime import runtime
from metrics.queries import running_requests as queries_running_requests
from metrics.queries.running_requests import read_running
from tests.access.people import Api, key_for, session_of, with_key
from tests.markup import one_line
from tests.metrics.records import AT, KEY, A
from tests.metrics.world import fake_installation, without

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("endpoints", "frozen_clock")]

LIVE = "/api/live"
WriteFile = Callable[..., None]


@pytest.fixture
def write_file(settings: Any, tmp_path: Path) -> WriteFile:
    """Write the file of one of two workers. A reader is registered already, so that no read waits for a fresh file."""
    settings.ROUTERDASH = replace(settings.ROUTERDASH, data_dir=tmp_path, workers=2)
    fake_installation().watch = lambda until: int(AT) + 5

    def write(worker: int = 0, *, ago: float = 0.2, **fields: Any) -> None:
        running_requests.save(tmp_path, Present(worker, AT - ago, **fields))

    return write


def waiting(name: str, ago: float = 1.0, **fields: Any) -> Waiting:
    given = {"model": "tiny", "kind": "chat_completions", "api_key_id": None, "client_ip": "192.0.2.1", "position": 1}
    return Waiting(id=name, since=AT - ago, **{**given, **fields})


def running(name: str, ago: float = 1.0, **fields: Any) -> Running:
    given: dict[str, Any] = {"model": "tiny", "kind": "chat_completions", "api_key_id": None, "client_ip": None}
    return Running(
        id=name, since=AT - ago, **{**given, "endpoint_id": A, "streamed": True, "deltas": 3, **fields}
    )  # fmt: skip


def ids(rows: Sequence[Any]) -> list[str]:
    return [row["id"] for row in rows]


def test_all_workers_are_put_together_oldest_first(write_file: WriteFile) -> None:
    write_file(
        0, waiting=(waiting("w1", 1), waiting("w2", 5)), waiting_total=2, running=(running("r1"),), running_total=1
    )
    write_file(1, waiting=(waiting("w3", 3),), waiting_total=300)
    listing = read_running()
    assert (ids(listing["waiting"]), ids(listing["running"])) == (["w2", "w3", "w1"], ["r1"])
    assert (listing["waiting_total"], listing["running_total"]) == (302, 1)
    assert (listing["workers"], listing["workers_told"]) == (2, 2)


@pytest.mark.parametrize(("total", "cut"), [(1, False), (2, True)])
def test_the_list_reports_whether_there_are_more(write_file: WriteFile, total: int, cut: bool) -> None:
    write_file(0, running=(running("r"),), running_total=total, waiting=(waiting("w"),), waiting_total=1)
    write_file(1, running=(running("s"),), running_total=1)
    assert (
        read_running()["running_is_cut"],
        read_running()["waiting_is_cut"],
    ) == (
        cut,
        False,
    )


@pytest.mark.parametrize(("total", "hidden"), [(1, True), (2, False)])
def test_the_page_without_scripts_reports_whether_there_are_more(
    as_viewer: Api, write_file: WriteFile, total: int, hidden: bool
) -> None:
    write_file(0, running=(running("r"),), running_total=total)
    running_panel, waiting_panel = as_viewer.get("/live").content.decode().split('data-kind="waiting"')
    assert ("data-more hidden" in running_panel, "data-more hidden" in waiting_panel) == (hidden, True)


def test_a_request_is_shown_with_all_names(write_file: WriteFile, admin: User) -> None:
    key_for(admin, name="notebook")
    key = str(ApiKey.objects.get().pk)
    write_file(1, running=(running("r", 2.5, api_key_id=key),), running_total=1)
    assert read_running()["running"] == [
        {
            "id": "r", "worker": 1, "model": "tiny", "kind": "chat_completions", "api_key_id": key,
            "api_key_name": "notebook", "client_ip": None, "since": "2026-03-10T12:00:27.500Z", "age_ms": 2500.0,
            "endpoint_id": A, "endpoint_name": "a", "streamed": True, "deltas": 3, "phase": "stream",
            "first_token_ms": None, "queue_class": "interactive",
        }
    ]  # fmt: skip


def test_a_waiting_request_has_its_position(write_file: WriteFile) -> None:
    write_file(0, waiting=(waiting("w", position=4, api_key_id=KEY, queue_class="bulk"),), waiting_total=9)
    (row,) = read_running()["waiting"]
    assert (row["position"], row["api_key_name"], row["client_ip"]) == (4, None, "192.0.2.1")
    assert row["queue_class"] == "bulk"


@pytest.mark.parametrize(("ago", "shown"), [(2.9, 1), (3.0, 0), (-2.9, 1), (-10.0, 0)])
def test_outdated_files_are_ignored(write_file: WriteFile, ago: float, shown: int) -> None:
    write_file(0, ago=ago, running=(running("r"),), running_total=1)
    assert read_running()["workers_told"] == read_running()["running_total"] == shown


def test_workers_that_drain_since_an_earlier_start_are_included(write_file: WriteFile) -> None:
    for worker in range(3):
        write_file(worker, running=(running(str(worker)),), running_total=1)
    listing = read_running()
    assert (listing["running_total"], listing["workers"], listing["workers_told"]) == (3, 3, 3)


def test_without_files_the_list_is_empty(write_file: WriteFile) -> None:
    assert (
        read_running()["waiting"],
        read_running()["workers_told"],
    ) == ([], 0)


def test_workers_notice_a_reader(write_file: WriteFile) -> None:
    noticed: list[int] = []

    def watch(until: int) -> int:
        noticed.append(until)
        return until

    fake_installation().watch = watch
    read_running()
    assert noticed == [int(AT) + 10]


def test_the_first_reader_waits_for_a_fresh_file(write_file: WriteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_installation().watch = lambda until: 0
    write_file(0, ago=2, running=(running("old"),), running_total=1)

    def sleep(seconds: float) -> None:
        write_file(0, ago=0, running=(running("new"),), running_total=1)
        write_file(1, ago=0)

    monkeypatch.setattr(
        queries_running_requests, "time", SimpleNamespace(time=lambda: AT, monotonic=lambda: AT, sleep=sleep)
    )
    assert ids(read_running()["running"]) == ["new"]


def test_the_wait_for_a_silent_worker_is_at_most_a_second(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_installation().watch = lambda until: 0
    slept: list[float] = []
    clock = SimpleNamespace(time=lambda: AT, monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr(queries_running_requests, "time", clock)
    write_file(0, ago=2, running=(running("old"),), running_total=1)
    assert ids(read_running()["running"]) == ["old"]
    assert sum(slept) == pytest.approx(
        queries_running_requests.FIRST_WAIT_SECONDS, abs=queries_running_requests.STEP_SECONDS
    )


def test_running_requests_are_available_by_the_api(script: Api, write_file: WriteFile) -> None:
    write_file(0, running=(running("r"),), running_total=1)
    assert ids(script.call("GET", LIVE).json()["running"]) == ["r"]


def test_reading_needs_a_permission(anybody: Api, as_viewer: Api, admin: User, write_file: WriteFile) -> None:
    weak = with_key(key_for(admin, INFERENCE))
    assert [api.call("GET", LIVE).status_code for api in (anybody, weak, as_viewer)] == [401, 403, 200]


@pytest.mark.django_db(transaction=True)
def test_without_the_database_only_names_are_missing(as_viewer: Api, write_file: WriteFile) -> None:
    write_file(0, running=(running("r", api_key_id=KEY),), running_total=1)
    as_viewer.call("GET", LIVE)
    with without("api_keys"):
        (row,) = as_viewer.call("GET", LIVE).json()["running"]
    assert (row["id"], row["api_key_name"], row["endpoint_name"]) == ("r", None, "a")


# Details of running requests, and cancelling


@pytest.mark.parametrize(
    ("fields", "phase"),
    [
        ({"deltas": 0}, "first_token"),
        ({"deltas": 1, "first_token": AT - 0.5}, "stream"),
        ({"streamed": False, "deltas": 0}, "answer"),
    ],
)
def test_the_state_of_a_running_request(write_file: WriteFile, fields: dict[str, Any], phase: str) -> None:
    write_file(0, running=(running("r", **fields),), running_total=1)
    (row,) = read_running()["running"]
    assert (row["phase"], row["first_token_ms"]) == (phase, 500.0 if phase == "stream" else None)


def test_a_waiting_request_is_in_the_queue(write_file: WriteFile) -> None:
    write_file(0, waiting=(waiting("w"),), waiting_total=1)
    assert read_running()["waiting"][0]["phase"] == "queue"


def test_a_read_without_patience_does_not_wait(write_file: WriteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_installation().watch = lambda until: 0
    monkeypatch.setattr(queries_running_requests, "time", SimpleNamespace(time=lambda: AT))  # which cannot sleep
    assert read_running(wait=False)["workers_told"] == 0


@pytest.fixture
def cancelled_ids(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The IDs of the requests that workers had to cancel."""
    request_ids: list[str] = []
    monkeypatch.setattr(runtime.installation, "cancel", request_ids.append)
    monkeypatch.setattr(runtime.installation, "cancelled", lambda: request_ids)
    return request_ids


RUNS, WAITS, GONE = (f"0192a000-0000-7000-8000-00000000000{number}" for number in (1, 2, 3))


@pytest.fixture
def two_here(write_file: WriteFile) -> None:
    write_file(0, running=(running(RUNS),), running_total=1)
    write_file(1, waiting=(waiting(WAITS),), waiting_total=1)


def cancel(api: Api, request_id: str = RUNS) -> Any:
    return api.call("POST", f"{LIVE}/{request_id}/cancel")


@pytest.mark.parametrize("request_id", [RUNS, WAITS])
def test_an_administrator_cancels_a_request(
    as_admin: Api, two_here: None, cancelled_ids: list[str], request_id: str
) -> None:
    response = cancel(as_admin, request_id)
    assert (response.status_code, response.json()) == (202, {"id": request_id, "cancelled": True})
    assert cancelled_ids == [request_id]


@pytest.mark.parametrize("fields", [{"running_total": 9}, {"waiting_total": 9}])
def test_requests_beyond_the_shown_ones_can_be_cancelled(
    as_admin: Api, write_file: WriteFile, cancelled_ids: list[str], fields: dict[str, int]
) -> None:
    write_file(0, **fields)
    assert cancel(as_admin, GONE).status_code == 202
    assert cancelled_ids == [GONE]


def test_cancelling_twice_changes_nothing(
    as_admin: Api, two_here: None, cancelled_ids: list[str], write_file: WriteFile
) -> None:
    cancel(as_admin)
    write_file(0)  # it is gone
    assert cancel(as_admin).status_code == 202
    assert cancelled_ids == [RUNS]


def test_an_unknown_request_cannot_be_cancelled(as_admin: Api, two_here: None, cancelled_ids: list[str]) -> None:
    assert cancel(as_admin, GONE).status_code == 404
    assert as_admin.call("POST", f"{LIVE}/{RUNS[:-1]}/cancel").status_code == 404
    assert cancelled_ids == []


def test_cancelling_needs_a_permission(
    anybody: Api, as_viewer: Api, script: Api, admin: User, two_here: None, cancelled_ids: list[str]
) -> None:
    managing = with_key(key_for(admin, MANAGE_ENDPOINTS, name="manages"))
    given = [cancel(api).status_code for api in (anybody, as_viewer, script, managing)]
    assert given == [401, 403, 403, 202]


def test_cancelling_with_a_session_needs_a_csrf_token(admin: User, two_here: None, cancelled_ids: list[str]) -> None:
    assert cancel(session_of(admin, enforce_csrf_checks=True)).status_code == 403
    assert cancelled_ids == []


# The page


def page(client: Api) -> str:
    response = client.get("/live")
    assert response.status_code == 200
    return one_line(response.content.decode())


def test_the_page_agrees_with_the_api(as_admin: Api, two_here: None) -> None:
    html = page(as_admin)
    assert f'data-request="{RUNS}"' in html
    assert f'data-request="{WAITS}"' in html
    assert html.count("Streaming") == 2  # the row's and the script's


@pytest.mark.parametrize("workers", [1, 2])
def test_the_page_shows_no_count_until_all_workers_have_reported(
    as_viewer: Api, write_file: WriteFile, workers: int
) -> None:
    for worker in range(workers):
        write_file(worker)
    html = page(as_viewer)
    assert re.findall(r"data-total>(.)<", html) == (["0", "0"] if workers == 2 else ["—", "—"])
    assert html.count("data-none hidden") == (0 if workers == 2 else 2)


def test_only_administrators_see_the_cancel_button(as_admin: Api, as_viewer: Api, two_here: None) -> None:
    assert ["data-cancel" in page(api) for api in (as_admin, as_viewer)] == [True, False]


def test_model_names_of_clients_are_escaped(as_viewer: Api, write_file: WriteFile) -> None:
    write_file(0, running=(running("r", model="<b>x"),), running_total=1)
    assert "&lt;b&gt;x" in page(as_viewer)


@pytest.mark.parametrize("rows", [1, 60])
def test_the_page_queries_only_names_of_keys(
    as_viewer: Api, write_file: WriteFile, django_assert_num_queries: Any, rows: int
) -> None:
    write_file(0, running=tuple(running(str(number), api_key_id=KEY) for number in range(rows)), running_total=rows)
    page(as_viewer)
    with django_assert_num_queries(1):
        page(as_viewer)


def test_the_page_needs_a_login(anybody: Api) -> None:
    assert anybody.get("/live")["Location"] == "/login?next=/live"
