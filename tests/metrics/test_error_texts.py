"""What endpoints say of their errors quotes prompts: it is shown where bodies are, and nowhere else."""

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from access.models import READ_ENDPOINTS, User
from gateway import record
from gateway.record import Attempt
from metrics import bodies
from tests.access.people import Api, key_for, with_key
from tests.metrics.records import A, B, request
from tests.metrics.test_export import download as export
from tests.metrics.test_reference_api import download as reference_export
from tests.metrics.world import World

pytestmark = pytest.mark.django_db

PROMPT = "ALICE SECRET PROMPT"
SENTENCE = f"1 validation error: {{'input': {{'content': '{PROMPT}'}}}}"
SUMMARY = "HTTP 400 (invalid_request_error)"


def failed(*, said: str | None, error: str, **fields: Any) -> record.RequestRecord:
    first = Attempt(B, record.FAILED, 500, 5, error if said is None else "HTTP 500", said=said)
    last = Attempt(A, record.REFUSED, 400, 5, error, said=said)
    return request(record.REFUSED, attempts=(first, last), error=error, status=400, **fields)


def written(teller: World, entry: record.RequestRecord) -> str:
    teller.gateway(entry)
    teller.write()
    return entry.id


# As this release records them where bodies are kept, and as earlier ones recorded them
ROWS = [{"said": SENTENCE, "error": SUMMARY}, {"said": None, "error": SENTENCE}]
rows = pytest.mark.parametrize("row", ROWS, ids=["kept", "of an earlier release"])


def paths(one: str) -> list[str]:
    """Everything that tells errors of requests."""
    return [
        f"/requests/{one}",
        f"/requests?id={one}",
        "/requests",
        "/requests?outcome=error",
        f"/endpoints/{A}",
        f"/endpoints/{B}",
        "/",
        "/search?q=" + one,
        f"/api/requests/{one}",
        "/api/requests",
        f"/api/endpoints/{A}/failures",
        f"/api/endpoints/{B}/failures",
        "/api/dashboard/request-responses",
        f"/api/dashboard/request-responses/{one}",
        "/api/dashboard/overview",
        f"/api/search?q={one}",
    ]


def text_of(answer: Any) -> str:
    return str(answer.content.decode())


@rows
def test_no_viewer_reads_what_an_endpoint_said(
    as_viewer: Api, viewer: User, teller: World, row: dict[str, Any]
) -> None:
    one = written(teller, failed(**row))
    script = with_key(key_for(viewer, READ_ENDPOINTS))
    for path in paths(one):
        answer = as_viewer.get(path)
        assert answer.status_code in (200, 302, 404), path
        assert PROMPT not in text_of(answer), path
        if path.startswith("/api/"):
            assert PROMPT not in text_of(script.get(path)), path
    told = as_viewer.get(f"/api/requests/{one}").json()
    assert told["error"] == (SUMMARY if row["said"] else "HTTP 400")
    assert [it["error"] for it in told["attempts"]] == ["HTTP 500", told["error"]]


@rows
@pytest.mark.parametrize(
    ("download", "form"), [(export, "csv"), (export, "jsonl"), (reference_export, "csv"), (reference_export, "json")]
)
@pytest.mark.django_db(transaction=True)
def test_no_export_has_what_an_endpoint_said(teller: World, row: dict[str, Any], download: Any, form: str) -> None:
    one = written(teller, failed(**row))
    _, text = download(f"?format={form}")
    assert one.encode() in text
    assert PROMPT.encode() not in text


@rows
@pytest.mark.django_db(transaction=True)
def test_who_may_see_bodies_reads_it_there_and_the_look_is_noted(
    as_viewer: Api, viewer: User, teller: World, row: dict[str, Any]
) -> None:
    one = written(teller, failed(**row))
    assert as_viewer.get(f"/api/requests/{one}/bodies").status_code == 403
    viewer.view_bodies = True
    viewer.save()
    told = as_viewer.get(f"/api/requests/{one}/bodies").json()
    assert told["endpoint_errors"] == [{"attempt": 1, "message": SENTENCE}, {"attempt": 2, "message": SENTENCE}]
    assert "Show the bodies" in text_of(as_viewer.get(f"/requests/{one}"))
    html = text_of(as_viewer.get(f"/requests/{one}/bodies"))
    assert PROMPT in html
    assert "Attempt 2" in html
    assert LogEntry.objects.filter(object_id=one, action_flag=bodies.LOOKED).count() == 2


@rows
def test_a_look_in_the_admin_is_noted_too(as_admin: Api, teller: World, row: dict[str, Any]) -> None:
    one = written(teller, failed(**row))
    html = text_of(as_admin.get(f"/admin/metrics/requesthistory/{one}/change/"))
    assert html.count(PROMPT) == 2  # in the panel, for each attempt
    assert LogEntry.objects.filter(object_id=one, action_flag=bodies.LOOKED).count() == 1


def test_a_row_of_the_reference_shows_no_sentence(as_admin: Api, as_viewer: Api, teller: World) -> None:
    from metrics.models import RequestHistory

    one = written(teller, request(record.FAILED, error="timed out"))
    RequestHistory.objects.filter(pk=one).update(
        outcome=None, status_code=None, attempts=None, error_message=f"{SENTENCE} Bearer abc_0123456789"
    )
    assert PROMPT not in text_of(as_viewer.get(f"/api/requests/{one}"))
    told = as_admin.get(f"/api/requests/{one}/bodies").json()["endpoint_errors"]
    assert told == [{"attempt": None, "message": f"{SENTENCE} Bearer [redacted]"}]


def test_a_failure_in_words_of_ours_is_no_content(as_admin: Api, teller: World) -> None:
    one = written(teller, request(record.FAILED, error="timed out"))
    assert as_admin.get(f"/api/requests/{one}/bodies").json()["endpoint_errors"] == []
    assert as_admin.get(f"/api/requests/{one}").json()["error"] == "timed out"
    assert not LogEntry.objects.filter(object_id=one).exists()


def test_a_sentence_that_no_database_takes_as_it_is_is_stored_all_the_same(as_admin: Api, teller: World) -> None:
    one = written(teller, failed(said='nul \0 and "quotes"', error=SUMMARY))
    (told, _) = as_admin.get(f"/api/requests/{one}/bodies").json()["endpoint_errors"]
    assert told["message"].startswith("nul ")
    assert json.dumps(told["message"])
