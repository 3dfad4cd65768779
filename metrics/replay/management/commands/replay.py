import argparse
import re
import sys
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import Error
from django.utils import timezone

from gateway.base import logs
from gateway.base.config import ADAPTIVE
from metrics.queries.stored import run_sql
from metrics.replay.ask import Answer, ReplayQuestion, answer
from metrics.replay.figures import Quantiles, RunFigures
from metrics.replay.headroom import FIRST_TOKEN_SECONDS
from metrics.replay.history import MOST_REQUESTS
from metrics.replay.installation import offered_endpoints, replay_scope
from metrics.replay.payload import answer_payload
from metrics.replay.prediction import NotReplayed, Question
from metrics.replay.run import POLICIES
from metrics.replay.sentences import sentences
from metrics.storage.database import vendor

UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Command(BaseCommand):
    help = (
        "Replay recorded requests in virtual time, with another balancer or another fleet. Predict how times would "
        "change, and how many more users there could be. At most the latest "
        f"{MOST_REQUESTS:,} requests are replayed. "
        "Exit code 0: there is a prediction; 1: it cannot tell; 2: an error."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--policy", choices=POLICIES, default=ADAPTIVE, help="the balancer to try")
        parser.add_argument("--since", type=_moment, default="24h", help="24h, 7d, or a date and time")
        parser.add_argument("--until", type=_moment, default="0m", help="the same; now by default")
        parser.add_argument("--endpoint-removed", action="append", default=[], metavar="NAME")
        parser.add_argument("--endpoint-added", action="append", default=[], type=_like, metavar="like:NAME")
        parser.add_argument(
            "--slower", action="append", default=[], type=_slower, metavar="NAME:FACTOR",
            help="an endpoint takes so many times as long; less than 1 is faster",
        )  # fmt: skip
        parser.add_argument(
            "--first-token", type=float, default=FIRST_TOKEN_SECONDS, metavar="SECONDS",
            help="p95 of the time to first token that must hold with more users (%(default)g)",
        )  # fmt: skip
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")

    def handle(self, *args: Any, **options: Any) -> None:
        logs.configure(settings.ROUTERDASH, "replay")
        change = Question(
            options["policy"],
            tuple(options["endpoint_removed"]),
            tuple(options["endpoint_added"]),
            tuple(options["slower"]),
        )
        try:
            replay_answer = answer(
                run_sql, vendor(), replay_scope(options["since"], options["until"]), offered_endpoints(),
                ReplayQuestion(change, options["first_token"]), self._progress,
            )  # fmt: skip
        except NotReplayed as error:
            self._refuse(f"there is no endpoint {str(error)!r} with requests in this time")
        except Error as error:
            self._refuse(f"the history cannot be read: {' '.join(str(error).split())}")
        self._print(replay_answer, as_json=options["json"])
        sys.exit(0 if replay_answer.refusal is None else 1)

    def _progress(self, share: float) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"\r{100 * share:.0f} %", ending="")
            self.stderr.flush()

    def _print(self, replay_answer: Answer, *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(msgspec.json.encode(answer_payload(replay_answer)).decode())
            return
        if replay_answer.tested is not None:
            self.stdout.write(f"happened  {_line(replay_answer.tested.happened)}")
            self.stdout.write(f"replayed  {_line(replay_answer.tested.replayed)}")
        if replay_answer.prediction is not None:
            self.stdout.write(f"predicted {_line(replay_answer.prediction.figures)}")
        for sentence in sentences(replay_answer):
            self.stdout.write(sentence)

    def _refuse(self, text: str) -> None:
        self.stderr.write(f"replay: {text}")
        sys.exit(2)


def _line(figures: RunFigures) -> str:
    parts = (("per token", figures.per_token), ("first token", figures.first), ("queue", figures.queued))
    return f"{figures.requests} requests; " + "; ".join(
        f"{name} {_shown(quantiles)}" for name, quantiles in parts if quantiles is not None
    )


def _shown(times: Quantiles) -> str:
    return "p50 {:.0f} ms, p95 {:.0f} ms, p99 {:.0f} ms".format(*[1000 * value for value in times])


def _moment(text: str) -> datetime:
    """Parse a moment, or how long ago it is."""
    if match := re.fullmatch(r"(\d{1,6})([mhd])", text):
        return timezone.now() - timedelta(**{UNITS[match[2]]: int(match[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be like 24h, 7d, 2026-11-25 or 2026-11-25T13:00") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=settings.ROUTERDASH.zone)


def _like(text: str) -> str:
    kind, colon, name = text.partition(":")
    if kind != "like" or not colon or not name:
        raise argparse.ArgumentTypeError("must be like:NAME, for one more endpoint like that one")
    return name


def _slower(text: str) -> tuple[str, float]:
    name, _, factor = text.rpartition(":")
    try:
        value = float(factor)
    except ValueError:
        value = 0.0
    if not name or not 0.01 <= value <= 100:
        raise argparse.ArgumentTypeError("must be NAME:FACTOR, with a factor from 0.01 to 100")
    return name, value
