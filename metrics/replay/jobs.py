"""Replays that control runs in processes of their own, with their progress and answers."""

import logging
import subprocess
import sys
import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from django.conf import settings

from gateway.base import bounds
from metrics.exports.downloads import database_parameters, worker_environment
from metrics.memory.runtime import runtime
from metrics.replay.ask import ReplayQuestion
from metrics.replay.installation import offered_endpoints, replay_scope
from metrics.replay.payload import ReplayAnswerPayload
from metrics.replay.worker import ReplayJob, ReplayMessage
from metrics.storage.database import vendor

log = logging.getLogger(__name__)

MAX_AT_ONCE = 2
KEPT = 50  # replays whose answers are available
RUNNING, DONE, FAILED = REPLAY_STATES = ("running", "done", "failed")
# It lowers its priority before it loads anything.
COMMAND = (sys.executable, "-c", f"import os; os.nice(19); from {ReplayJob.__module__} import main; main()")


class TooManyReplays(Exception):
    """MAX_AT_ONCE replays are running."""


@dataclass(slots=True)
class Replay:
    """A replay and how far it is. A thread of its own changes it."""

    id: str
    question: ReplayQuestion
    since: datetime
    until: datetime
    state: str = RUNNING
    progress: float = 0.0  # share of the work that is done
    answer: ReplayAnswerPayload | None = None
    unknown_endpoint: str | None = None  # an endpoint of the question that has no requests in this time
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    ended: threading.Event = field(default_factory=threading.Event, repr=False)


class Replays:
    """The last replays by id. Thread-safe."""

    def __init__(self, command: tuple[str, ...] = COMMAND) -> None:
        self._command = command
        self._replays: OrderedDict[str, Replay] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Replay | None:
        return self._replays.get(name)

    def latest(self) -> list[Replay]:
        """Return the last replays, the newest first."""
        with self._lock:
            return list(reversed(self._replays.values()))

    def start(self, question: ReplayQuestion, since: datetime, until: datetime) -> Replay:
        """Start a replay. Raises TooManyReplays, and OSError if no process can be started."""
        job = msgspec.json.encode(
            ReplayJob(vendor(), database_parameters(), replay_scope(since, until), offered_endpoints(), question)
        )
        one = Replay(str(uuid.uuid4()), question, since, until)
        with self._lock:
            if sum(replay.state == RUNNING for replay in self._replays.values()) >= MAX_AT_ONCE:
                runtime.installation.bound_hits.hit(bounds.REPLAYS)
                raise TooManyReplays
            one.process = subprocess.Popen(  # noqa: S603
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=settings.BASE_DIR,
                env=worker_environment(),
            )  # fmt: skip
            self._replays[one.id] = one
            while len(self._replays) > KEPT:
                self._forget_oldest()
        threading.Thread(target=_follow, args=(one, job), name="replay", daemon=True).start()
        return one

    def _forget_oldest(self) -> None:
        for name, replay in self._replays.items():
            if replay.state != RUNNING:
                del self._replays[name]
                return

    def stop(self, name: str) -> None:
        """End a replay that is running."""
        one = self._replays.get(name)
        if one is not None and one.process is not None and one.state == RUNNING:
            one.process.kill()


def _follow(one: Replay, job: bytes) -> None:
    """Send the job to the process, and read its messages until it ends."""
    process = one.process
    assert process is not None
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(job)
        process.stdin.close()
        for line in process.stdout:
            message = msgspec.json.decode(line, type=ReplayMessage)
            one.progress = message.progress
            one.answer, one.unknown_endpoint = message.answer, message.unknown_endpoint
    except (OSError, msgspec.DecodeError) as error:
        log.warning("a replay broke off: %s", error)
        process.kill()
    finally:
        process.stdout.close()
        code = process.wait()
        one.process = None
        one.state = DONE if not code and one.answer is not None else FAILED
        one.ended.set()


replays = Replays()
