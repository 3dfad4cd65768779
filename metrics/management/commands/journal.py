import argparse
import os
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from gateway import journal
from gateway.journal import START, Position, UnknownVersion
from metrics import journal_report
from metrics.journal_report import OURS, Known, Report


class Command(BaseCommand):
    help = "Look into the journals: what waits in them for the database, and each entry. Changes nothing."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", nargs="?", choices=["list", "dump"], default="list", help="list, if not given")
        parser.add_argument("writer", nargs="?", help="dump: of this writer alone")
        parser.add_argument("--json", action="store_true", help="list: as JSON")
        parser.add_argument(
            "--from", dest="start", type=_position, metavar="SEGMENT:OFFSET", help="dump: from there on"
        )
        parser.add_argument("--waiting", action="store_true", help="dump: what the database has not taken yet")
        parser.add_argument("--limit", type=_count, metavar="N", help="dump: so many entries at most")

    def handle(self, *args: Any, action: str, json: bool, **options: Any) -> None:
        try:
            lines = self._list(json) if action == "list" else self._dump(**options)
            for line in lines:
                self.stdout.write(line)
            self.stdout.flush()
        except BrokenPipeError:  # `| head` has seen enough; nor shall Python fail to flush at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            raise CommandError(str(error)) from None

    def _list(self, json: bool) -> Iterator[str]:
        said: Known | None = None
        try:
            said = journal_report.known()
        except Error as error:
            self.stderr.write(f"positions are unknown, the database is away: {_first_line(error)}")
        found: list[Report] = list(journal_report.reports(_root(), said))
        if json:
            yield msgspec.json.format(msgspec.json.encode(journal_report.as_json(found, said))).decode()
        else:
            yield from journal_report.as_text(found, said)

    def _dump(
        self, writer: str | None, start: Position | None, waiting: bool, limit: int | None, **options: Any
    ) -> Iterator[str]:
        if start and (waiting or writer is None):
            raise CommandError("--from needs a writer, and no --waiting")
        names = journal.writers(_root())
        if writer is not None and writer not in names:
            raise CommandError(f"there is no writer {writer}")
        if start and start[0] not in journal.segments(_root() / str(writer)):
            raise CommandError(f"{writer} has no segment {start[0]}")
        starts = dict.fromkeys([writer] if writer else names, start or START)
        if waiting:
            starts = _unread(starts)
        return islice(self._entries(starts), limit)

    def _entries(self, starts: dict[str, Position]) -> Iterator[str]:
        for writer, start in starts.items():
            try:
                for batch in journal_report.batches(_root() / writer, start):
                    if batch.damaged:
                        self.stderr.write(f"{writer}: {batch.damaged} damaged bytes before {batch.position}")
                    for position, entry in zip(batch.starts, batch.entries, strict=True):
                        yield journal_report.line(writer, position, entry)
            except UnknownVersion as error:
                self.stderr.write(f"{writer} was written by a newer release: {error}")


def _root() -> Path:
    root: Path = settings.ROUTERDASH.journal_dir
    return root


def _unread(starts: dict[str, Position]) -> dict[str, Position]:
    """From the database's positions on, of the writers that are its own."""
    try:
        said = journal_report.known()
    except Error as error:
        raise CommandError(f"positions are unknown, the database is away: {_first_line(error)}") from None
    return {
        writer: said.positions.get(writer, start)
        for writer, start in starts.items()
        if journal_report.belongs_to(_root() / writer, said) == OURS
    }


def _first_line(error: Error) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _position(text: str) -> Position:
    found = re.fullmatch(r"(\d{1,8}):(\d{1,15})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no SEGMENT:OFFSET, as 1:0 is")
    return int(found[1]), int(found[2])


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,15}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of entries")
    return int(text)
