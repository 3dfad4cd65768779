"""Exports as control hands them on: the bytes of a process that reads the history (metrics.export)."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from django.conf import settings
from django.db import connection

from endpoints.registry import registry
from metrics import database
from metrics.export import Format, Job
from metrics.history import Wanted
from metrics.queries import vendor_name

MOST_AT_ONCE = 10
RETRY_SECONDS = 10
CHUNK = 1 << 16
# It yields before it loads anything: ten that begin at once would take the machine for a while.
COMMAND = (sys.executable, "-c", "import os; os.nice(19); from metrics.export import main; main()")


class BrokenOff(Exception):
    """An export ended before its end. Its process has said why, on the standard error that it shares with this one."""


class Downloads:
    """Those that run now."""

    def __init__(self) -> None:
        self.running = 0

    @property
    def full(self) -> bool:
        return self.running >= MOST_AT_ONCE

    async def read(self, job: bytes) -> AsyncIterator[bytes]:
        """The bytes of one. Raises BrokenOff; whoever stops reading ends the process."""
        self.running += 1
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
                async for chunk in _bytes_of(process, job):
                    yield chunk
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        finally:
            self.running -= 1


async def _bytes_of(process: asyncio.subprocess.Process, job: bytes) -> AsyncIterator[bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(job)
    process.stdin.close()
    while chunk := await process.stdout.read(CHUNK):
        yield chunk
    if code := await process.wait():
        raise BrokenOff(f"code {code}")


def _environment() -> dict[str, str]:
    """Without our settings: it need not know them."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("ROUTERDASH_", "DATABASE_URL"))}


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
