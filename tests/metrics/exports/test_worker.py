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

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.test import AsyncClient

from access.models import READ_ENDPOINTS
from gateway.base.csv_cells import csv_cell
from gateway.ipc import record
from gateway.ipc.record import AttemptRecord
from gateway.routing import balancer
from metrics.costs.tables import PriceRow
from metrics.exports import downloads as downloads_module
from metrics.exports import worker
from metrics.exports.downloads import ExportFailed, Progress, downloads, job
from metrics.queries.requests.filters import RequestFilter
from metrics.queries.requests.payload import FIELDS
from metrics.queries.stored import run_sql
from metrics.storage.database import vendor
from tests.access.people import Api, key_for, make_admin, make_user, session_of, with_key
from tests.metrics.costs.pricing import add_price
from tests.metrics.records import A, B, load, request
from tests.metrics.world import World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True)]

EXPORT = "/api/requests/export"


def download(query: str = "", user: str = "kim") -> tuple[Any, bytes]:
    """Return the response and all of its bytes."""
    client = AsyncClient()
    client.force_login(make_user(user))

    async def run() -> tuple[Any, bytes]:
        response: Any = await client.get(EXPORT + query)
        assert response.status_code == 200, response.content
        try:
            return response, b"".join([part async for part in response.streaming_content])
        finally:
            await sync_to_async(lambda: connection.close())()  # of the thread in which Django responded

    return asyncio.run(run())


def test_csv_has_every_row_once(shown_world: World) -> None:
    records = [entry for entry in load(3, 60) if entry.outcome != record.REJECTED]
    shown_world.gateway(*records)
    shown_world.write()
    response, text = download()
    head, *rows = csv.reader(io.StringIO(text.decode()))
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["Content-Disposition"].endswith('.csv"')
    assert tuple(head) == (*FIELDS, "hardware_costs")
    assert sorted(row[0] for row in rows) == sorted(entry.id for entry in records)
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)


def test_json_lines_equal_the_rows_of_the_list(shown_world: World) -> None:
    shown_world.gateway(*(request(ago=second, error="x") for second in range(5)))
    shown_world.write()
    response, text = download("?format=jsonl")
    assert response["Content-Type"] == "application/x-ndjson"
    listed = with_key(key_for(make_admin("eve"), READ_ENDPOINTS)).call("GET", "/api/requests").json()["requests"]
    assert [json.loads(line) for line in text.splitlines()] == [{**row, "hardware_costs": []} for row in listed]


def test_json_lines_name_endpoints_as_the_list_does(shown_world: World, endpoints: object) -> None:
    tried = AttemptRecord(A, record.OK, 200, 5, None, 0, balancer.LEAST, ((A, 1), (B, 2)))
    shown_world.gateway(request(attempts=(tried,)))
    shown_world.write()
    (line,) = map(json.loads, download("?format=jsonl")[1].splitlines())
    assert [score["endpoint_name"] for score in line["attempts"][0]["scores"]] == ["a", "b"]


def test_costs_are_empty_without_a_price(shown_world: World, prices: list[PriceRow]) -> None:
    free, estimated, unpriced = (request(model=model, input_tokens=1000) for model in ("free", "large", "unknown"))
    add_price("free", input=0)
    shown_world.gateway(free, msgspec.structs.replace(estimated, estimated=True), unpriced)
    shown_world.write()
    fields = ("cost", "currency", "tokens_estimated")
    (id_free, id_euro) = (str(PriceRow.objects.get(pattern=pattern).pk) for pattern in ("free", "large*"))
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(download()[1].decode()))}
    assert [[rows[entry.id][name] for name in (*fields, "price_id")] for entry in (free, estimated, unpriced)] == [
        ["0", "USD", "false", id_free],
        ["0.003", "EUR", "true", id_euro],
        ["", "", "false", ""],
    ]
    lines = {row["id"]: row for row in map(json.loads, download("?format=jsonl", "lee")[1].splitlines())}
    assert [[lines[entry.id][name] for name in fields] for entry in (free, estimated, unpriced)] == [
        ["0", "USD", False],
        ["0.003", "EUR", True],
        [None, None, False],
    ]


def test_it_is_filtered(shown_world: World) -> None:
    shown_world.gateway(request(), request(record.FAILED, model="other"))
    shown_world.write()
    assert len(download("?outcome=failed&format=jsonl")[1].splitlines()) == 1


def test_an_empty_export_has_a_header(shown_world: World) -> None:
    shown_world.write()
    assert download()[1] == ",".join((*FIELDS, "hardware_costs")).encode() + b"\r\n"


def test_no_cell_is_a_formula(shown_world: World) -> None:
    firsts = [*"=+-@\t\r\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"]
    shown_world.gateway(*[request(record.FAILED, model=f"{first}cmd", request_id=f'{first}1+1"') for first in firsts])
    shown_world.write()
    rows = csv.DictReader(io.StringIO(download()[1].decode(), newline=""))
    assert {(row["model"], row["request_id"]) for row in rows} == {
        (f"'{first}cmd", f"'{first}1+1\"") for first in firsts
    }


def test_pages_follow_each_other(shown_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PAGE", 3)
    records = [request(ago=second) for second in range(8)]
    shown_world.gateway(*records)
    shown_world.write()

    pages = list(worker.pages(run_sql, vendor(), RequestFilter()))
    assert [len(rows) for rows in pages] == [3, 3, 2]
    assert [str(row[0]) for rows in pages for row in rows] == [entry.id for entry in records]


def test_numbers_are_not_written_as_text() -> None:
    assert [csv_cell(value) for value in (-1, -1.5, True, None, "a")] == [-1, -1.5, "true", None, "a"]


def test_wrong_input_is_an_error_with_a_message(script: Api, shown_world: World) -> None:
    for query in ("format=xml", "since=yesterday", "modle=x", "min_duration_ms=-1", "endpoint_id=1"):
        response = script.call("GET", f"{EXPORT}?{query}")
        assert response.status_code == 400
        assert query.partition("=")[0] in response.json()["fields"]


def test_the_number_of_concurrent_exports_is_limited(
    script: Api, shown_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "running", downloads_module.MAX_AT_ONCE)
    response = script.call("GET", EXPORT)
    assert (response.status_code, response["Retry-After"]) == (429, "10")


def test_the_number_of_concurrent_exports_per_user_is_limited(shown_world: World) -> None:
    """Exports by a session or an API key count for the same user; other users may still start exports."""
    user, other = make_user("one"), make_user("two")
    running = [downloads.take(str(user.pk)) for _ in range(downloads_module.MAX_PER_USER)]
    for api in (session_of(user), with_key(key_for(user, READ_ENDPOINTS))):
        for path in (EXPORT, "/api/dashboard/request-responses/export?format=csv"):
            response = api.call("GET", path)
            assert (response.status_code, response["Retry-After"]) == (429, "10")
            assert "You already have 3 exports running" in response.json()["error"]
    page = session_of(user).get("/requests/export?format=csv")
    assert (page.status_code, page["Retry-After"]) == (429, "10")
    assert "You already have 3 exports running" in page.content.decode()
    assert session_of(other).get(EXPORT).status_code == 200
    running.pop().release()
    assert session_of(user).get(EXPORT).status_code == 200


def test_an_export_reports_its_progress(script: Api, shown_world: World) -> None:
    name = "dddddddd-0000-4000-8000-000000000004"
    assert script.call("GET", f"{EXPORT}s/{name}").status_code == 404
    shown_world.gateway(*(request(error="two\nlines") for _ in range(5)))
    shown_world.write()
    _, text = download(f"?progress={name}")
    reported = script.call("GET", f"{EXPORT}s/{name}").json()
    assert reported == {"state": "done", "rows": 5, "bytes": len(text)}


def test_only_the_last_exports_are_remembered() -> None:
    made = downloads_module.Downloads()
    for number in range(downloads_module.PROGRESS_RECORDS + 1):
        made.follow(str(number))
    assert made.progress("0") is None
    assert made.progress("1") == Progress()


def test_exports_need_a_permission(anybody: Api) -> None:
    assert anybody.call("GET", EXPORT).status_code == 401


# The process


def test_a_disconnect_ends_the_process(shown_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shown_world.gateway(*load(5, 300))
    shown_world.write()
    wanted = job(RequestFilter(), "jsonl")
    seen: list[asyncio.subprocess.Process] = []
    bytes_of = downloads_module._read_frames

    def read_and_keep(process: asyncio.subprocess.Process, text: bytes, progress: Progress) -> AsyncIterator[bytes]:
        seen.append(process)
        return bytes_of(process, text, progress)

    monkeypatch.setattr(downloads_module, "_read_frames", read_and_keep)

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
    text = json.dumps(
        {"vendor": "sqlite", "database": {"path": "/nowhere"}, "request_filter": {}, "format": "csv"}
    ).encode()

    progress = Progress()

    async def run() -> None:
        with pytest.raises(ExportFailed):
            _ = [part async for part in downloads.read(text, progress)]

    asyncio.run(run())
    assert "the export broke off: unable to open database file" in capfd.readouterr().err
    assert progress.state == downloads_module.FAILED
    assert downloads.running == 0
