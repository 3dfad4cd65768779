"""Start of RouterDash: `manage.py serve`. This process becomes the supervisor, so it does not import Django."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.base import logs
from gateway.base.config import load
from routerdash.processes import data_directory, llmlb_variables
from routerdash.processes.supervisor import CANNOT_START, Supervisor

HELP = "Run RouterDash: gateways, control and background jobs, on one port. Settings come from the environment."


def main(arguments: Sequence[str]) -> None:
    """Run with the arguments of a command line."""
    parser = argparse.ArgumentParser(prog="serve", description=HELP)
    add_arguments(parser)
    run(parser.parse_args(arguments).workers)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, help="gateway processes (ROUTERDASH_WORKERS)")


def run(workers: int | None = None) -> None:
    """Run until SIGTERM or SIGINT, and exit. Raises ConfigError if a setting is invalid."""
    config = load(os.environ)
    logs.configure(config, "serve")
    if os.getpid() == 1:  # first process of a container: the kernel drops its signals without a handler
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if workers is not None:
        os.environ["ROUTERDASH_WORKERS"] = str(workers)
        config = load(os.environ)
    try:
        data_directory.create(config)
        data_directory.warn_if_lost(config)
        llmlb_variables.warn(os.environ)
        supervisor = Supervisor(config, str(Path(__file__).resolve().parents[2]))
    except data_directory.CannotStart as error:
        print(f"routerdash: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(CANNOT_START)
    code = supervisor.run()
    supervisor.close()
    sys.exit(code)
