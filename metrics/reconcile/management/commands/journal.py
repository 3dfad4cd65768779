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

from gateway.ipc import journal
from gateway.ipc.journal import START, Position, UnknownVersion
from metrics.reconcile import journal_report
from metrics.reconcile.journal_report import THIS_DATABASE, StoredPositions, WriterReport


class Command(BaseCommand):
    help = "Show the journals: the records that wait for the database, and each entry. The command changes nothing."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "action",
            nargs="?",
            choices=["list", "dump"],
            default="list",
            help="list the journals (default), or dump entries",
        )
        parser.add_argument("writer", nargs="?", help="dump only the entries of this writer")
        parser.add_argument("--json", action="store_true", help="print the list as JSON")
        parser.add_argument(
            "--from", dest="start", type=_position, metavar="SEGMENT:OFFSET", help="start the dump at this position"
        )
        parser.add_argument("--waiting", action="store_true", help="dump only entries that wait for the database")
        parser.add_argument("--limit", type=_count, metavar="N", help="dump at most this number of entries")

    def handle(self, *args: Any, action: str, json: bool, **options: Any) -> None:
        try:
            lines = self._list(json) if action == "list" else self._dump(**options)
            for line in lines:
                self.stdout.write(line)
            self.stdout.flush()
        except BrokenPipeError:  # the reader, such as `| head`, has ended; Python must not fail to flush at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            raise CommandError(str(error)) from None

    def _list(self, json: bool) -> Iterator[str]:
        stored: StoredPositions | None = None
        try:
            stored = journal_report.stored_positions()
        except Error as error:
            self.stderr.write(f"the database is unavailable, so the positions are unknown: {_first_line(error)}")
        writers: list[WriterReport] = list(journal_report.reports(_root(), stored))
        if json:
            yield msgspec.json.format(msgspec.json.encode(journal_report.as_json(writers, stored))).decode()
        else:
            yield from journal_report.as_text(writers, stored)

    def _dump(
        self, writer: str | None, start: Position | None, waiting: bool, limit: int | None, **options: Any
    ) -> Iterator[str]:
        if start and (waiting or writer is None):
            raise CommandError("--from needs a writer, and cannot be combined with --waiting")
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
    """Return the stored positions of the writers that belong to this database."""
    try:
        stored = journal_report.stored_positions()
    except Error as error:
        raise CommandError(f"the database is unavailable, so the positions are unknown: {_first_line(error)}") from None
    return {
        writer: stored.positions.get(writer, start)
        for writer, start in starts.items()
        if journal_report.belongs_to(_root() / writer, stored) == THIS_DATABASE
    }


def _first_line(error: Error) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _position(text: str) -> Position:
    match = re.fullmatch(r"(\d{1,8}):(\d{1,15})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} does not have the form SEGMENT:OFFSET, such as 1:0")
    return int(match[1]), int(match[2])


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,15}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of entries")
    return int(text)
