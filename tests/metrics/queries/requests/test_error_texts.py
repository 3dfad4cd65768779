"""Error texts of endpoints may contain prompts: they are shown only where bodies are shown."""

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from access.models import READ_ENDPOINTS, User
from gateway.ipc import record
from gateway.ipc.record import AttemptRecord
from metrics.queries.requests import bodies
from tests.access.people import Api, key_for, with_key
from tests.metrics.api.test_llmlb import download as reference_export
from tests.metrics.exports.test_worker import download as export
from tests.metrics.records import A, B, request
from tests.metrics.world import World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

PROMPT = "ALICE SECRET PROMPT"
SENTENCE = f"1 validation error: {{'input': {{'content': '{PROMPT}'}}}}"
SUMMARY = "HTTP 400 (invalid_request_error)"


def failed(*, said: str | None, error: str, **fields: Any) -> record.RequestRecord:
    first = AttemptRecord(B, record.FAILED, 500, 5, error if said is None else "HTTP 500", said=said)
    last = AttemptRecord(A, record.REFUSED, 400, 5, error, said=said)
    return request(record.REFUSED, attempts=(first, last), error=error, status=400, **fields)


def written(shown_world: World, entry: record.RequestRecord) -> str:
    shown_world.gateway(entry)
    shown_world.write()
    return entry.id


# Rows of this release with bodies, and rows of earlier releases
ROWS = [{"said": SENTENCE, "error": SUMMARY}, {"said": None, "error": SENTENCE}]
rows = pytest.mark.parametrize("row", ROWS, ids=["kept", "of an earlier release"])


def paths(one: str) -> list[str]:
    """All paths that show errors of requests."""
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


def text_of(response: Any) -> str:
    return str(response.content.decode())


@rows
def test_viewers_cannot_read_error_texts_of_endpoints(
    as_viewer: Api, viewer: User, shown_world: World, row: dict[str, Any]
) -> None:
    one = written(shown_world, failed(**row))
    script = with_key(key_for(viewer, READ_ENDPOINTS))
    for path in paths(one):
        response = as_viewer.get(path)
        assert response.status_code in (200, 302, 404), path
        assert PROMPT not in text_of(response), path
        if path.startswith("/api/"):
            assert PROMPT not in text_of(script.get(path)), path
    reported = as_viewer.get(f"/api/requests/{one}").json()
    assert reported["error"] == (SUMMARY if row["said"] else "HTTP 400")
    assert [attempt["error"] for attempt in reported["attempts"]] == ["HTTP 500", reported["error"]]


@rows
@pytest.mark.parametrize(
    ("download", "form"), [(export, "csv"), (export, "jsonl"), (reference_export, "csv"), (reference_export, "json")]
)
@pytest.mark.django_db(transaction=True)
def test_exports_have_no_error_texts_of_endpoints(
    shown_world: World, row: dict[str, Any], download: Any, form: str
) -> None:
    one = written(shown_world, failed(**row))
    _, text = download(f"?format={form}")
    assert one.encode() in text
    assert PROMPT.encode() not in text


@rows
@pytest.mark.django_db(transaction=True)
def test_error_texts_are_shown_with_the_bodies_and_the_access_is_logged(
    as_viewer: Api, viewer: User, shown_world: World, row: dict[str, Any]
) -> None:
    one = written(shown_world, failed(**row))
    assert as_viewer.get(f"/api/requests/{one}/bodies").status_code == 403
    viewer.view_bodies = True
    viewer.save()
    reported = as_viewer.get(f"/api/requests/{one}/bodies").json()
    assert reported["endpoint_errors"] == [{"attempt": 1, "message": SENTENCE}, {"attempt": 2, "message": SENTENCE}]
    assert "Show the bodies" in text_of(as_viewer.get(f"/requests/{one}"))
    html = text_of(as_viewer.get(f"/requests/{one}/bodies"))
    assert PROMPT in html
    assert "Attempt 2" in html
    assert LogEntry.objects.filter(object_id=one, action_flag=bodies.VIEWED).count() == 2


@rows
def test_an_access_in_the_admin_is_logged_too(as_admin: Api, shown_world: World, row: dict[str, Any]) -> None:
    one = written(shown_world, failed(**row))
    html = text_of(as_admin.get(f"/admin/metrics/requesthistory/{one}/change/"))
    assert html.count(PROMPT) == 2  # in the panel, for each attempt
    assert LogEntry.objects.filter(object_id=one, action_flag=bodies.VIEWED).count() == 1


def test_a_row_of_llmlb_shows_no_error_text(as_admin: Api, as_viewer: Api, shown_world: World) -> None:
    from metrics.models import RequestHistory

    one = written(shown_world, request(record.FAILED, error="timed out"))
    RequestHistory.objects.filter(pk=one).update(
        outcome=None, status_code=None, attempts=None, error_message=f"{SENTENCE} Bearer abc_0123456789"
    )
    assert PROMPT not in text_of(as_viewer.get(f"/api/requests/{one}"))
    reported = as_admin.get(f"/api/requests/{one}/bodies").json()["endpoint_errors"]
    assert reported == [{"attempt": None, "message": f"{SENTENCE} Bearer [redacted]"}]


def test_our_own_error_texts_are_not_content(as_admin: Api, shown_world: World) -> None:
    one = written(shown_world, request(record.FAILED, error="timed out"))
    assert as_admin.get(f"/api/requests/{one}/bodies").json()["endpoint_errors"] == []
    assert as_admin.get(f"/api/requests/{one}").json()["error"] == "timed out"
    assert not LogEntry.objects.filter(object_id=one).exists()


def test_an_error_text_that_the_database_cannot_store_is_stored_cleaned(as_admin: Api, shown_world: World) -> None:
    one = written(shown_world, failed(said='nul \0 and "quotes"', error=SUMMARY))
    (reported, _) = as_admin.get(f"/api/requests/{one}/bodies").json()["endpoint_errors"]
    assert reported["message"].startswith("nul ")
    assert json.dumps(reported["message"])
