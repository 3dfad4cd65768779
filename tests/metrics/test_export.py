"""Exports: every row once, as CSV that no spreadsheet computes or as JSON lines, in processes that end with their
readers.
"""

import asyncio
import csv
import io
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.test import AsyncClient

from access.models import READ_ENDPOINTS
from gateway import balancer, record
from gateway.record import Attempt
from metrics import downloads as downloads_module
from metrics import export, history
from metrics.downloads import BrokenOff, Progress, downloads, job
from metrics.history import Wanted
from tests.access.people import Api, key_for, make_admin, make_user, session_of, with_key
from tests.metrics.records import A, B, load, request
from tests.metrics.world import World

pytestmark = pytest.mark.django_db(transaction=True)

EXPORT = "/api/requests/export"


def download(query: str = "") -> tuple[Any, bytes]:
    """The answer and all of its bytes."""
    client = AsyncClient()
    client.force_login(make_user())

    async def run() -> tuple[Any, bytes]:
        response: Any = await client.get(EXPORT + query)
        assert response.status_code == 200, response.content
        try:
            return response, b"".join([part async for part in response.streaming_content])
        finally:
            await sync_to_async(lambda: connection.close())()  # of the thread in which Django answered

    return asyncio.run(run())


def test_csv_has_every_row_once(teller: World) -> None:
    records = [it for it in load(3, 60) if it.outcome != record.REJECTED]
    teller.gateway(*records)
    teller.write()
    response, text = download()
    head, *rows = csv.reader(io.StringIO(text.decode()))
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["Content-Disposition"].endswith('.csv"')
    assert tuple(head) == history.FIELDS
    assert sorted(row[0] for row in rows) == sorted(it.id for it in records)
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)


def test_json_lines_are_rows_as_the_list_tells_them(teller: World) -> None:
    teller.gateway(*(request(ago=second, error="x") for second in range(5)))
    teller.write()
    response, text = download("?format=jsonl")
    assert response["Content-Type"] == "application/x-ndjson"
    listed = with_key(key_for(make_admin("eve"), READ_ENDPOINTS)).call("GET", "/api/requests").json()["requests"]
    assert [json.loads(line) for line in text.splitlines()] == listed


def test_json_lines_name_endpoints_as_the_list_does(teller: World, endpoints: object) -> None:
    tried = Attempt(A, record.OK, 200, 5, None, 0, balancer.LEAST, ((A, 1), (B, 2)))
    teller.gateway(request(attempts=(tried,)))
    teller.write()
    (line,) = map(json.loads, download("?format=jsonl")[1].splitlines())
    assert [it["endpoint_name"] for it in line["attempts"][0]["scores"]] == ["a", "b"]


def test_it_is_filtered(teller: World) -> None:
    teller.gateway(request(), request(record.FAILED, model="other"))
    teller.write()
    assert len(download("?outcome=failed&format=jsonl")[1].splitlines()) == 1


def test_an_export_of_nothing_has_a_head(teller: World) -> None:
    teller.write()
    assert download()[1] == ",".join(history.FIELDS).encode() + b"\r\n"


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(teller: World, first: str) -> None:
    teller.gateway(request(record.FAILED, model=f"{first}cmd", request_id=f'{first}1+1"'))
    teller.write()
    (row,) = csv.DictReader(io.StringIO(download()[1].decode(), newline=""))
    assert (row["model"], row["request_id"]) == (f"'{first}cmd", f"'{first}1+1\"")


def test_pages_follow_each_other(teller: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PAGE", 3)
    records = [request(ago=second) for second in range(8)]
    teller.gateway(*records)
    teller.write()
    from metrics import queries

    pages = list(export.pages(queries._run, queries.vendor_name(), Wanted()))
    assert [len(rows) for rows in pages] == [3, 3, 2]
    assert [str(row[0]) for rows in pages for row in rows] == [it.id for it in records]


def test_numbers_are_no_text() -> None:
    assert [export.cell(value) for value in (-1, -1.5, True, None, "a")] == [-1, -1.5, "true", None, "a"]


def test_wrong_input_is_an_error_in_words(script: Api, teller: World) -> None:
    for query in ("format=xml", "since=yesterday", "modle=x", "min_duration_ms=-1", "endpoint_id=1"):
        answer = script.call("GET", f"{EXPORT}?{query}")
        assert answer.status_code == 400
        assert query.partition("=")[0] in answer.json()["fields"]


def test_only_so_many_run_at_once(script: Api, teller: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "running", downloads_module.MOST_AT_ONCE)
    answer = script.call("GET", EXPORT)
    assert (answer.status_code, answer["Retry-After"]) == (429, "10")


def test_one_user_runs_only_so_many(teller: World) -> None:
    """By a session, or by a key of the same user; others may still begin."""
    user, other = make_user("one"), make_user("two")
    running = [downloads.take(str(user.pk)) for _ in range(downloads_module.MOST_OF_ONE)]
    for api in (session_of(user), with_key(key_for(user, READ_ENDPOINTS))):
        for path in (EXPORT, "/api/dashboard/request-responses/export?format=csv"):
            answer = api.call("GET", path)
            assert (answer.status_code, answer["Retry-After"]) == (429, "10")
            assert "3 exports of yours" in answer.json()["error"]
    page = session_of(user).get("/requests/export?format=csv")
    assert (page.status_code, page["Retry-After"]) == (429, "10")
    assert "3 exports of yours run already" in page.content.decode()
    assert session_of(other).get(EXPORT).status_code == 200
    running.pop().leave()
    assert session_of(user).get(EXPORT).status_code == 200


def test_it_says_how_far_it_is(script: Api, teller: World) -> None:
    name = "dddddddd-0000-4000-8000-000000000004"
    assert script.call("GET", f"{EXPORT}s/{name}").status_code == 404
    teller.gateway(*(request(error="two\nlines") for _ in range(5)))
    teller.write()
    _, text = download(f"?progress={name}")
    told = script.call("GET", f"{EXPORT}s/{name}").json()
    assert told == {"state": "done", "rows": 5, "bytes": len(text)}


def test_only_the_last_exports_are_remembered() -> None:
    made = downloads_module.Downloads()
    for number in range(downloads_module.REMEMBERED + 1):
        made.follow(str(number))
    assert made.progress("0") is None
    assert made.progress("1") == Progress()


def test_who_may_not_read_exports_nothing(anybody: Api) -> None:
    assert anybody.call("GET", EXPORT).status_code == 401


# The process


def test_a_reader_that_leaves_ends_the_process(teller: World, monkeypatch: pytest.MonkeyPatch) -> None:
    teller.gateway(*load(5, 300))
    teller.write()
    wanted = job(Wanted(), "jsonl")
    seen: list[asyncio.subprocess.Process] = []
    bytes_of = downloads_module._bytes_of

    def noted(process: asyncio.subprocess.Process, text: bytes, progress: Progress) -> AsyncIterator[bytes]:
        seen.append(process)
        return bytes_of(process, text, progress)

    monkeypatch.setattr(downloads_module, "_bytes_of", noted)

    async def run() -> None:
        stream = downloads.read(wanted)
        await anext(stream)
        assert downloads.running == 1
        await stream.aclose()  # type: ignore[attr-defined]
        assert downloads.running == 0
        assert seen[0].returncode is not None
        with pytest.raises(ProcessLookupError):
            os.kill(seen[0].pid, 0)

    asyncio.run(run())


def test_an_export_that_fails_breaks_off(capfd: pytest.CaptureFixture[str]) -> None:
    text = json.dumps({"vendor": "sqlite", "database": {"path": "/nowhere"}, "wanted": {}, "format": "csv"}).encode()

    progress = Progress()

    async def run() -> None:
        with pytest.raises(BrokenOff):
            _ = [part async for part in downloads.read(text, progress)]

    asyncio.run(run())
    assert "the export broke off: unable to open database file" in capfd.readouterr().err
    assert progress.state == downloads_module.FAILED
    assert downloads.running == 0
