"""Background process: looks for jobs, and has django-q2 run them in processes that end when all are done.

It does not import Django, so that it takes little memory while there is nothing to do.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gateway.base import logs
from gateway.base.config import Config, load
from gateway.base.setting_parsers import INSTALLED
from routerdash.processes.job_queue import JobQueue, Unavailable
from routerdash.processes.signals import SignalPipe

log = logging.getLogger(__name__)

HELP = "Internal: the background process, which starts `jobs` when there is work. `serve` starts it."
LOOK_SECONDS = 1.0
MAX_PAUSE_SECONDS = 60.0  # between two processes that fail


def main(arguments: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    parser = argparse.ArgumentParser(prog="background", description=HELP)
    add_arguments(parser)
    run(parser.parse_args(arguments).alive)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--alive", type=int, required=True, help="descriptor that closes with the supervisor")


def run(alive: int) -> None:
    """Run until SIGTERM, or until the supervisor ends. Raises ConfigError."""
    config = load(os.environ)
    logs.configure(config, "background")
    script = ["-m", "routerdash"] if INSTALLED else [str(Path(__file__).resolve().parents[2] / "manage.py")]
    Background(config, [sys.executable, *script, "jobs"]).run(alive)


class Background:
    """The loop of the background process."""

    def __init__(self, config: Config, command: Sequence[str]) -> None:
        """`command` runs the jobs that are due, and ends with code 0."""
        self._queue = JobQueue(config)
        self._command = command
        self._jobs: subprocess.Popen[bytes] | None = None
        self._look_at = 0.0  # time.monotonic()
        self._pause = LOOK_SECONDS
        self._is_away = False  # the database could not be read at the last look
        self._stopping = False

    def run(self, alive: int) -> None:
        """Look for jobs until a signal, or until the supervisor's end of the pipe `alive` closes."""
        with SignalPipe(self._stop) as signals:
            while not self._stopping:
                if self._jobs is None and time.monotonic() >= self._look_at:
                    self._look()
                if signals.wait(self._until_next_look(), [alive]):
                    break
                self._reap()
            self._end()
        self._queue.close()

    def _stop(self) -> None:
        self._stopping = True

    def _look(self) -> None:
        """Start a process for the jobs if there are any."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        try:
            has_work = self._queue.has_work()
        except Unavailable as error:
            if not self._is_away:
                log.warning("background jobs wait for the database: %s", error)
            self._is_away = True
            return
        self._is_away = False
        if has_work:
            try:
                self._jobs = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)  # noqa: S603
            except OSError as error:
                self._failed(str(error))

    def _until_next_look(self) -> float | None:
        """Return the seconds until the next look; None while jobs run: the end of their process is a signal."""
        return None if self._jobs is not None else max(0.0, self._look_at - time.monotonic())

    def _reap(self) -> None:
        if self._jobs is None or (code := self._jobs.poll()) is None:
            return
        self._jobs = None
        if code:
            self._failed(f"exit code {code}")
        else:
            self._pause = LOOK_SECONDS
            self._look_at = 0.0

    def _failed(self, reason: str) -> None:
        self._pause = min(MAX_PAUSE_SECONDS, self._pause * 2)
        self._look_at = time.monotonic() + self._pause
        log.warning("the process for background jobs failed (%s); the next one starts in %g s", reason, self._pause)

    def _end(self) -> None:
        """Stop the jobs. The supervisor kills both processes if that takes too long."""
        if self._jobs is not None:
            self._jobs.send_signal(signal.SIGTERM)  # to this process alone: django-q2 hangs if all receive it
            self._jobs.wait()
