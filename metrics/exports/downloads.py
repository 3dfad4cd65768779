"""Exports as downloads: control passes on the bytes of a process that reads the history (metrics.exports.worker)."""

import asyncio
import os
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.conf import settings
from django.db import connection
from django.http.response import HttpResponseBase

from endpoints.registry import registry
from gateway.base import bounds
from gateway.base.bounds import Bound
from gateway.base.config import for_a_child
from metrics.costs.price_cache import price_cache
from metrics.exports.long_response import LongLivedResponse, UserSlot, UserSlots
from metrics.exports.worker import FRAME, Format, Job
from metrics.memory.runtime import runtime
from metrics.queries.requests.filters import RequestFilter
from metrics.queries.requests.lookups import request_page
from metrics.queries.stored import flushed
from metrics.storage import database
from metrics.storage.database import vendor

MAX_AT_ONCE = 10
MAX_PER_USER = 3  # of one user
RETRY_SECONDS = 10
CHUNK = 1 << 16
PROGRESS_RECORDS = 100  # exports whose progress is available, also after their end
RUNNING, DONE, FAILED = STATES = ("running", "done", "failed")
# It lowers its priority before it loads anything: ten that start at once would slow down everything else.
COMMAND = (sys.executable, "-c", f"import os; os.nice(19); from {Job.__module__} import main; main()")


class ExportBoundReached(Exception):
    """The bound of running exports is reached: of all users, or of one."""

    def __init__(self, bound: Bound) -> None:
        super().__init__(bound.title)
        self.bound = bound


class ExportFailed(Exception):
    """An export ended early. Its process has written the reason to the standard error that both share."""


@dataclass(slots=True)
class Progress:
    """Progress of an export: rows and bytes that were passed on to its reader."""

    state: str = RUNNING
    rows: int = 0
    bytes: int = 0


class Downloads:
    """Running exports, and the progress of the last ones by the ids that their readers chose."""

    def __init__(self) -> None:
        self.running = 0
        self.slots = UserSlots(MAX_PER_USER)
        self._progress: OrderedDict[str, Progress] = OrderedDict()

    def progress(self, name: str) -> Progress | None:
        return self._progress.get(name)

    def follow(self, name: str) -> Progress:
        """Return the progress of a new export."""
        progress = self._progress[name] = Progress()
        self._progress.move_to_end(name)
        while len(self._progress) > PROGRESS_RECORDS:
            self._progress.popitem(last=False)
        return progress

    def take(self, user_id: str) -> UserSlot:
        """Return a slot for an export of this user. Raises ExportBoundReached."""
        slot = self.slots.take(user_id) if self.running < MAX_AT_ONCE else None
        if slot is None:
            bound = bounds.EXPORTS if self.running >= MAX_AT_ONCE else bounds.USER_EXPORTS
            runtime.installation.bound_hits.hit(bound)
            raise ExportBoundReached(bound)
        return slot

    async def read(
        self, job: bytes, progress: Progress | None = None, slot: UserSlot | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes of an export that holds a slot. Raises ExportFailed. The process ends with this iterator."""
        self.running += 1
        progress = progress or Progress()
        try:
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=CHUNK,
                cwd=settings.BASE_DIR,
                env=worker_environment(),
            )
            try:
                async for chunk in _read_frames(process, job, progress):
                    yield chunk
                progress.state = DONE
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        finally:
            self.running -= 1
            if slot is not None:
                slot.release()
            if progress.state == RUNNING:
                progress.state = FAILED


async def _read_frames(process: asyncio.subprocess.Process, job: bytes, progress: Progress) -> AsyncIterator[bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(job)
    process.stdin.close()
    while head := await process.stdout.read(FRAME.size):
        try:
            remaining, rows = FRAME.unpack(head + await process.stdout.readexactly(FRAME.size - len(head)))
            while remaining:
                chunk = await process.stdout.read(min(remaining, CHUNK))
                if not chunk:
                    raise asyncio.IncompleteReadError(b"", remaining)
                remaining -= len(chunk)
                yield chunk
                progress.bytes += len(chunk)
            progress.rows += rows
        except asyncio.IncompleteReadError:
            break  # it ended early: its exit code is not 0
    else:
        if not await process.wait():
            return
    raise ExportFailed(f"code {await process.wait()}")


def worker_environment() -> dict[str, str]:
    """Return the environment without settings of RouterDash, which the process does not need."""
    environment = for_a_child(os.environ, settings.ROUTERDASH, secrets=())
    return {name: value for name, value in environment.items() if not name.startswith("ROUTERDASH_")}


def job(request_filter: RequestFilter, form: Format) -> bytes:
    """Return the job of the process. It has the database's password, so it goes through a pipe."""
    names = {entry.id: entry.name for entry in registry.all()}
    return msgspec.json.encode(
        Job(
            vendor=vendor(),
            database=database_parameters(),
            request_filter=request_filter,
            format=form,
            names=names,
            hardware=price_cache.hardware().all(),
        )
    )


def database_parameters() -> dict[str, Any]:
    """Return the connection's parameters: the path of SQLite, or psycopg's."""
    if connection.vendor == "sqlite":
        return {"path": database.path(connection)}
    settings_dict = connection.settings_dict
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    return {**settings_dict["OPTIONS"], **{names[name]: settings_dict[name] for name in names if settings_dict[name]}}


downloads = Downloads()


TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "records-csv": "text/csv; charset=utf-8",
    "records-json": "application/json",
}


def export_response(
    request_filter: RequestFilter, form: Format, user_id: object, name: str | None = None, file: str | None = None
) -> HttpResponseBase:
    """Return an export of all requests that match, as a file to save. Its progress is found by `name`.

    Raises ExportBoundReached if this user, or all users together, are at the bound.
    """
    slot = downloads.take(str(user_id))
    flushed()
    request_page(request_filter, None, 1)  # without a database this fails here, instead of an empty download
    progress = None if name is None else downloads.follow(name)
    response = LongLivedResponse(downloads.read(job(request_filter, form), progress, slot), content_type=TYPES[form])
    file = file or f"requests-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{form}"
    response.headers["Content-Disposition"] = f'attachment; filename="{file}"'
    response.headers["Cache-Control"] = "no-store"
    return response
