"""Replays in processes of their own, by API and page: only administrators start them, and few at a time."""

import io
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import time_machine

from access.models import MANAGE_ENDPOINTS, READ_ENDPOINTS
from endpoints.models import Endpoint
from metrics.exports.downloads import database_parameters
from metrics.queries.stored import run_sql
from metrics.replay import api as api_views
from metrics.replay import jobs, worker
from metrics.replay import pages as page_module
from metrics.replay import serializers as api_serializers
from metrics.replay.ask import ReplayQuestion, answer
from metrics.replay.installation import offered_endpoints, replay_scope
from metrics.replay.jobs import DONE, FAILED, Replay, Replays
from metrics.replay.payload import answer_payload
from metrics.replay.prediction import Question
from metrics.replay.worker import ReplayJob, ReplayMessage
from metrics.storage.database import vendor
from tests.access.people import Api, key_for, make_admin, make_user, session_of, with_key
from tests.markup import one_line
from tests.metrics.records import AT, NOW
from tests.metrics.replay.traffic import chats, happened, records
from tests.metrics.world import World

pytestmark = pytest.mark.django_db(transaction=True)

SPAN = NOW - timedelta(days=1), NOW
WAIT_SECONDS = 100
ADAPTIVE = ReplayQuestion(Question("adaptive"))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Replays:
    """Replays of this test alone."""
    made = Replays()
    for module in (api_serializers, api_views, page_module):
        monkeypatch.setattr(module, "replays", made)
    return made


def write(world: World, count: int) -> None:
    world.gateway(*records(happened(chats(count)), AT - 60))
    world.write()


def ended(one: Replay | None) -> Replay:
    assert one is not None
    assert one.ended.wait(WAIT_SECONDS)
    return one


def script(text: str) -> Replays:
    """Return replays whose process runs this program."""
    return Replays((sys.executable, "-c", text))


def test_a_process_refuses_too_few_requests(shown_world: World, endpoints: tuple[Endpoint, ...], own: Replays) -> None:
    write(shown_world, 10)
    key = with_key(key_for(make_admin(), MANAGE_ENDPOINTS, READ_ENDPOINTS))
    since, until = (moment.isoformat() for moment in SPAN)
    started = key.call("POST", "/api/replays", {"since": since, "until": until})
    assert started.status_code == 202
    name = started.json()["id"]
    assert ended(own.get(name)).state == DONE
    replay = key.call("GET", f"/api/replays/{name}").json()
    assert replay["answer"]["refusal"]["code"] == "too_few_requests"
    assert replay["answer"]["sentences"][0].startswith("Cannot tell: there are ")


def test_the_program_of_a_replay_answers(
    shown_world: World, endpoints: tuple[Endpoint, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(shown_world, 120)
    job = ReplayJob(vendor(), database_parameters(), replay_scope(*SPAN), offered_endpoints(), ADAPTIVE)
    out = io.BytesIO()
    monkeypatch.setattr(worker, "run_when_idle", lambda: None)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(msgspec.json.encode(job))))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out))
    worker.main()
    messages = [msgspec.json.decode(line, type=ReplayMessage) for line in out.getvalue().splitlines()]
    shares = [message.progress for message in messages]
    assert shares == sorted(shares)
    answer = messages[-1].answer
    assert answer is not None
    assert answer["per_token_gain"] is not None
    assert answer["per_token_gain"]["low"] > 1.0
    assert answer["headroom"] is not None


def test_an_endpoint_without_requests_is_named(
    shown_world: World, endpoints: tuple[Endpoint, ...], own: Replays
) -> None:
    write(shown_world, 10)
    question = ReplayQuestion(Question("adaptive", removed=("nowhere",)))
    one = ended(own.start(question, *SPAN))
    assert (one.state, one.unknown_endpoint) == (FAILED, "nowhere")
    html = page(session_of(make_admin()), f"/replay?id={one.id}")
    assert "nowhere had next to no requests" in html


def test_a_process_that_fails_is_shown_as_failed(db: None) -> None:
    one = ended(script("import sys; sys.exit('no database')").start(ADAPTIVE, *SPAN))
    assert (one.state, one.answer) == (FAILED, None)


def test_what_is_no_message_ends_the_replay(db: None) -> None:
    assert ended(script("print('nonsense', flush=True); input()").start(ADAPTIVE, *SPAN)).state == FAILED


def waiting(made: Replays) -> list[Replay]:
    return [made.start(ADAPTIVE, *SPAN) for _ in range(jobs.MAX_AT_ONCE)]


ENDLESS = "import signal; signal.pause()"


def test_few_run_at_a_time_and_can_be_stopped(monkeypatch: pytest.MonkeyPatch, own: Replays) -> None:
    own._command = (sys.executable, "-c", ENDLESS)
    running = waiting(own)
    admin = session_of(make_admin())
    refused = admin.call("POST", "/api/replays", {})
    assert (refused.status_code, refused["Retry-After"]) == (429, "10")
    form = admin.post("/replay", {"policy": "adaptive", "factor": "2", "seconds": "2"})
    assert form.status_code == 422
    assert "2 replays are running" in form.content.decode()
    for one in running:
        assert admin.call("DELETE", f"/api/replays/{one.id}").status_code == 204
        assert ended(one).state == FAILED


def test_the_oldest_answers_are_forgotten(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "KEPT", 2)
    made = script("")
    names = [ended(made.start(ADAPTIVE, *SPAN)).id for _ in range(3)]
    assert [replay.id for replay in made.latest()] == names[:0:-1]
    assert made.get(names[0]) is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"policy": "best"}, "policy"),
        ({"since": "2026-03-10T12:00:00Z", "until": "2026-03-10T11:00:00Z"}, "since"),
        ({"slower": [{"endpoint_name": "a", "factor": 0}]}, "slower"),
        ({"first_token_ms": 0}, "first_token_ms"),
    ],
)
def test_a_question_without_sense_is_refused(db: None, body: dict[str, Any], field: str) -> None:
    response = session_of(make_admin()).call("POST", "/api/replays", body)
    assert response.status_code == 400
    assert field in json.dumps(response.json())


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_replay_is_not_found(db: None, method: str) -> None:
    path = "/api/replays/00000000-0000-4000-8000-000000000000"
    assert session_of(make_admin()).call(method, path).status_code == 404


@pytest.mark.parametrize(
    "client",
    [lambda: session_of(make_user()), lambda: with_key(key_for(make_admin(), READ_ENDPOINTS))],
)
def test_only_administrators_start_replays(db: None, client: Callable[[], Api]) -> None:
    assert client().call("POST", "/api/replays", {}).status_code == 403


def page(client: Api, path: str, status: int = 200) -> str:
    response = client.get(path)
    assert response.status_code == status
    return one_line(response.content.decode())


def test_the_page_starts_a_replay_and_shows_it(
    shown_world: World, endpoints: tuple[Endpoint, ...], own: Replays
) -> None:
    write(shown_world, 10)
    with time_machine.travel(AT, tick=False):
        admin = session_of(make_admin())
        form = {"hours": "24", "policy": "adaptive", "slower": "a", "factor": "2", "seconds": "1.5"}
        started = admin.post("/replay", form)
        assert started.status_code == 302
        one = ended(own.latest()[0])
        html = page(admin, started["Location"])
    assert one.until == datetime.fromtimestamp(AT, UTC)
    assert "Cannot tell: there are" in html
    assert "adaptive, a takes 2 times as long" in html
    assert '<option value="a" selected>' in html


def test_an_answer_is_shown_in_sentences(shown_world: World, endpoints: tuple[Endpoint, ...], own: Replays) -> None:
    write(shown_world, 120)
    one = Replay("00000000-0000-4000-8000-000000000001", ADAPTIVE, *SPAN, state=DONE)
    one.answer = answer_payload(answer(run_sql, vendor(), replay_scope(*SPAN), offered_endpoints(), ADAPTIVE))
    own._replays[one.id] = one
    html = page(session_of(make_admin()), f"/replay?id={one.id}")
    assert "times shorter" in html
    assert "times today&#x27;s users" in html
    assert "Time per output token" in html
    assert 'data-state="done"' in html
    japanese = page(session_of(make_admin("kenji"), headers={"Accept-Language": "ja"}), f"/replay?id={one.id}")
    assert "短縮" in japanese


def test_viewers_have_no_page(db: None) -> None:
    viewer = session_of(make_user())
    page(viewer, "/replay", 403)
    assert 'href="/replay"' not in page(viewer, "/")
    assert 'href="/replay"' in page(session_of(make_admin()), "/")


def test_a_form_without_sense_is_shown_again(db: None) -> None:
    response = session_of(make_admin()).post("/replay", {"policy": "best", "seconds": "x"})
    assert response.status_code == 422
    assert "policy" in response.content.decode()


def test_an_unknown_replay_has_no_page(db: None) -> None:
    page(session_of(make_admin()), "/replay?id=none", 404)
