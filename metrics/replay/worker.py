"""Program of one replay, which metrics.replay.jobs starts as a process. Imports nothing of Django.

It reads a `ReplayJob` as JSON from its standard input, and writes `ReplayMessage`s to its standard output, a line each.
A replay computes for a minute or more; in control it would hold the interpreter lock. This process runs on an idle CPU
alone, and reads its rows in one transaction before it computes.
"""

import sys
from typing import Any

import msgspec

from metrics.exports.worker import connect, database_errors, run_when_idle
from metrics.replay.ask import OfferedEndpoint, ReplayQuestion, ReplayScope, answer
from metrics.replay.payload import ReplayAnswerPayload, answer_payload
from metrics.replay.prediction import NotReplayed
from metrics.sql import Vendor


class ReplayJob(msgspec.Struct, frozen=True):
    vendor: Vendor
    database: dict[str, Any]  # as in metrics.exports.worker.Job
    scope: ReplayScope
    offered: list[OfferedEndpoint]
    question: ReplayQuestion


class ReplayMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """The share of the work that is done, the answer, or the name of an endpoint that has no requests."""

    progress: float = 0.0
    answer: ReplayAnswerPayload | None = None
    unknown_endpoint: str | None = None


def main() -> None:
    run_when_idle()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=ReplayJob)
    try:
        with connect(job.vendor, job.database) as run:
            replay_answer = answer(run, job.vendor, job.scope, job.offered, job.question, lambda share: _write(share))
        _send(ReplayMessage(1.0, answer_payload(replay_answer)))
    except NotReplayed as error:
        _send(ReplayMessage(unknown_endpoint=str(error)))
    except BrokenPipeError:
        pass  # nobody waits for the answer any more
    except database_errors() as error:
        sys.exit(f"the replay broke off: {error}")


def _write(share: float) -> None:
    _send(ReplayMessage(share))


def _send(message: ReplayMessage) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()
