"""The command line: `routerdash` where the wheel is installed, `manage.py` in a checkout, with the same commands."""

import os
import sys

from gateway.config import INSTALLED, ConfigError
from routerdash import __version__

NAME = "routerdash" if INSTALLED else "manage.py"  # what messages call the command that a person runs


def main() -> None:
    """Run the command that sys.argv names. Ends with code 2 and one line when a setting cannot be used."""
    if sys.argv[1:] in (["version"], ["--version"]):
        print(f"routerdash {__version__}")  # noqa: T201
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "routerdash.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit("RouterDash's requirements are not installed here: run `make install`, or activate its environment.")
    try:
        execute_from_command_line(sys.argv)
    except ConfigError as error:
        print(f"routerdash: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
