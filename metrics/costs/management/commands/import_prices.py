import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import Error
from django.utils import timezone

from gateway.base import logs
from gateway.prices.amounts import text_of
from gateway.registry.prices import AMOUNTS
from metrics.costs import imports
from metrics.costs.imports import PriceChanges
from metrics.costs.litellm import CLOUDS, CURRENCY, SELF_HOSTED, ListedPrices, NoPriceList, parse
from metrics.costs.tables import PriceRow, next_start

MAX_BYTES = 64 << 20
SHOWN = 20  # lines of each list, unless all are wanted
PROVIDERS = sorted({str(kind) for kind in (*CLOUDS.values(), *SELF_HOSTED.values())})


class Command(BaseCommand):
    help = (
        "Import prices from LiteLLM's model_prices_and_context_window.json. Without --apply it only prints the "
        "changes. Rows that administrators entered are kept. Exit code 0: done; 2: the file or the database cannot be "
        "used."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="the file; RouterDash downloads nothing itself")
        parser.add_argument("--apply", action="store_true", help="write the changes")
        parser.add_argument(
            "--provider", action="append", choices=PROVIDERS, help="only prices of this type of endpoint; repeatable"
        )
        parser.add_argument(
            "--from", dest="start", type=_moment, help="moment from which the prices count; default: the next minute"
        )
        parser.add_argument("--all", action="store_true", help=f"print every change, not {SHOWN} of each kind")

    def handle(self, *args: Any, **options: Any) -> None:
        logs.configure(settings.ROUTERDASH, "import_prices")
        start = options["start"] or next_start()
        listed = self._read(options["file"])
        rows = [row for row in listed.rows if not options["provider"] or row.provider in options["provider"]]
        try:
            changes = imports.compare(rows, start)
            if options["apply"]:
                imports.apply(changes, start)
        except Error as error:
            self._refuse(f"the database cannot be used: {' '.join(str(error).split()) or type(error).__name__}")
        self._print(changes, listed, SHOWN if not options["all"] else None)
        when = start.isoformat(timespec="seconds")
        self.stdout.write(f"written, valid from {when}" if options["apply"] else "nothing is written without --apply")

    def _read(self, path: Path) -> ListedPrices:
        try:
            if path.stat().st_size > MAX_BYTES:
                self._refuse(f"{path} is larger than {MAX_BYTES >> 20} MiB")
            return parse(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            self._refuse(f"{path} is no text in UTF-8")
        except OSError as error:
            self._refuse(f"{path} cannot be read: {error.strerror}")
        except NoPriceList as error:
            self._refuse(f"{path}: {error}")
        raise AssertionError("refused")

    def _print(self, changes: PriceChanges, listed: ListedPrices, shown: int | None) -> None:
        for mark, rows in (("new", changes.added), ("changed", changes.changed), ("ended", changes.ended)):
            for row in rows[:shown]:
                self.stdout.write(f"{mark}: {_line(row)}")
            if shown is not None and len(rows) > shown:
                self.stdout.write(f"{mark}: {len(rows) - shown} more; --all prints them")
        for error in listed.errors[:shown]:
            self.stderr.write(f"left out: {error}")
        if shown is not None and len(listed.errors) > shown:
            self.stderr.write(f"left out: {len(listed.errors) - shown} more")
        self.stdout.write(
            f"{len(changes.added)} new, {len(changes.changed)} changed, {len(changes.ended)} ended, "
            f"{changes.unchanged} unchanged, {changes.kept} kept as administrators entered them"
        )
        self.stdout.write(
            f"models left out: {sum(listed.other_providers.values())} of other providers, {listed.zeros} of own "
            f"servers with price 0, {listed.empty} without a known price, {len(listed.errors)} with errors"
        )

    def _refuse(self, text: str) -> None:
        self.stderr.write(f"import_prices: {text}")
        sys.exit(2)


def _line(row: PriceRow) -> str:
    amounts = {name: getattr(row, name) for name in AMOUNTS}
    prices = ", ".join(f"{name} {text_of(amount)}" for name, amount in amounts.items() if amount is not None)
    size = f" > {row.min_prompt}" if row.min_prompt else ""
    return f"{row.pattern} ({row.provider}{f', {row.tier}' if row.tier else ''}{size}): {prices} {CURRENCY}"


def _moment(text: str) -> datetime:
    """Parse a moment, in the time zone of RouterDash if it has none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("a date or a moment, such as 2026-12-01 or 2026-12-01T12:00+00:00") from None
    return moment if moment.tzinfo else timezone.make_aware(moment, settings.ROUTERDASH.zone)
