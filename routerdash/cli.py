"""Command line: `routerdash` if the wheel is installed, `manage.py` in a checkout, with the same commands."""

import os
import sys
from collections.abc import Callable

from gateway.base.config import ConfigError
from gateway.base.setting_parsers import INSTALLED
from routerdash import __version__

NAME = "routerdash" if INSTALLED else "manage.py"  # name of the command in messages


def main() -> None:
    """Run the command that sys.argv names. Exit with code 2 and one line of error if a setting is invalid."""
    if sys.argv[1:] in (["version"], ["--version"]):
        print(f"routerdash {__version__}")  # noqa: T201
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "routerdash.settings")
    try:
        run = _without_django() if sys.argv[1:2] in (["serve"], ["background"]) else _django()
    except ImportError:
        sys.exit("RouterDash's requirements are not installed here: run `make install`, or activate its environment.")
    try:
        run()
    except ConfigError as error:
        print(f"routerdash: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


def _without_django() -> Callable[[], None]:
    """Return the program of a process that is small because it never imports Django."""
    from routerdash.processes import background, serve

    program = serve if sys.argv[1] == "serve" else background
    return lambda: program.main(sys.argv[2:])


def _django() -> Callable[[], None]:
    from django.core.management import execute_from_command_line

    return lambda: execute_from_command_line(sys.argv)
