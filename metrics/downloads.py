"""Exports as control hands them on: the bytes of a process that reads the history (metrics.export)."""

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
from gateway import bounds
from gateway.bounds import Bound
from gateway.config import for_a_child
from metrics import database, queries
from metrics.export import FRAME, Format, Job
from metrics.history import Wanted
from metrics.queries import vendor_name
from metrics.streams import LastingResponse, Place, Places
from metrics.teller import surroundings

MOST_AT_ONCE = 10
MOST_OF_ONE = 3  # user
RETRY_SECONDS = 10
CHUNK = 1 << 16
REMEMBERED = 100  # exports whose progress can be asked for, also behind their end
RUNNING, DONE, FAILED = STATES = ("running", "done", "failed")
# It yields before it loads anything: ten that begin at once would take the machine for a while.
COMMAND = (sys.executable, "-c", "import os; os.nice(19); from metrics.export import main; main()")


class Full(Exception):
    """As many exports run as may, of all users or of this one. `bound` says which."""

    def __init__(self, bound: Bound) -> None:
        super().__init__(bound.title)
        self.bound = bound


class BrokenOff(Exception):
    """An export ended before its end. Its process has said why, on the standard error that it shares with this one."""


@dataclass(slots=True)
class Progress:
    """How far an export is: what has been handed on to whoever reads it."""

    state: str = RUNNING
    rows: int = 0
    bytes: int = 0


class Downloads:
    """Those that run now, and how far they are, by the ids that their readers gave them."""

    def __init__(self) -> None:
        self.running = 0
        self.places = Places(MOST_OF_ONE)
        self._progress: OrderedDict[str, Progress] = OrderedDict()

    def progress(self, name: str) -> Progress | None:
        return self._progress.get(name)

    def follow(self, name: str) -> Progress:
        """Of a new one."""
        made = self._progress[name] = Progress()
        self._progress.move_to_end(name)
        while len(self._progress) > REMEMBERED:
            self._progress.popitem(last=False)
        return made

    def take(self, user_id: str) -> Place:
        """A place for an export of this user's. Raises Full."""
        place = self.places.take(user_id) if self.running < MOST_AT_ONCE else None
        if place is None:
            bound = bounds.EXPORTS if self.running >= MOST_AT_ONCE else bounds.USER_EXPORTS
            surroundings.bounds.hit(bound)
            raise Full(bound)
        return place

    async def read(
        self, job: bytes, progress: Progress | None = None, place: Place | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes of one, for which `place` was taken. Raises BrokenOff; whoever stops reading ends the process."""
        self.running += 1
        progress = progress or Progress()
        try:
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=CHUNK,
                cwd=settings.BASE_DIR,
                env=_environment(),
            )
            try:
                async for chunk in _bytes_of(process, job, progress):
                    yield chunk
                progress.state = DONE
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        finally:
            self.running -= 1
            if place is not None:
                place.leave()
            if progress.state == RUNNING:
                progress.state = FAILED


async def _bytes_of(process: asyncio.subprocess.Process, job: bytes, progress: Progress) -> AsyncIterator[bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(job)
    process.stdin.close()
    while head := await process.stdout.read(FRAME.size):
        try:
            left, rows = FRAME.unpack(head + await process.stdout.readexactly(FRAME.size - len(head)))
            while left:
                chunk = await process.stdout.read(min(left, CHUNK))
                if not chunk:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(chunk)
                yield chunk
                progress.bytes += len(chunk)
            progress.rows += rows
        except asyncio.IncompleteReadError:
            break  # it has ended in the middle: its code says so
    else:
        if not await process.wait():
            return
    raise BrokenOff(f"code {await process.wait()}")


def _environment() -> dict[str, str]:
    """Without our settings: it need not know them."""
    found = for_a_child(os.environ, settings.ROUTERDASH, secrets=())
    return {name: value for name, value in found.items() if not name.startswith("ROUTERDASH_")}


def job(wanted: Wanted, form: Format) -> bytes:
    """What the process is told, a password of the database among it: it goes through a pipe."""
    names = {entry.id: entry.name for entry in registry.all()}
    made = Job(vendor=vendor_name(), database=_parameters(), wanted=wanted, format=form, names=names)
    return msgspec.json.encode(made)


def _parameters() -> dict[str, Any]:
    if connection.vendor == "sqlite":
        return {"path": database.path(connection)}
    given = connection.settings_dict
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    return {**given["OPTIONS"], **{names[name]: given[name] for name in names if given[name]}}


downloads = Downloads()


TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "records-csv": "text/csv; charset=utf-8",
    "records-json": "application/json",
}


def answer(
    wanted: Wanted, form: Format, user_id: object, name: str | None = None, file: str | None = None
) -> HttpResponseBase:
    """An export of everything wanted, to be saved as a file; `name` is what its progress is asked for by. Raises Full
    if the user with this id runs as many as may be.
    """
    place = downloads.take(str(user_id))
    queries.flushed()
    queries.requests(wanted, None, 1)  # a database that is away is an error now, not a download of nothing
    progress = None if name is None else downloads.follow(name)
    response = LastingResponse(downloads.read(job(wanted, form), progress, place), content_type=TYPES[form])
    file = file or f"requests-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{form}"
    response.headers["Content-Disposition"] = f'attachment; filename="{file}"'
    response.headers["Cache-Control"] = "no-store"
    return response
