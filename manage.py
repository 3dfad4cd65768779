#!/usr/bin/env python3
"""Django's command line; `manage.py serve` runs RouterDash."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "routerdash.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit("RouterDash's requirements are not installed here: run `make install`, or activate its environment.")
    from gateway.config import ConfigError

    try:
        execute_from_command_line(sys.argv)
    except ConfigError as error:
        print(f"routerdash: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


if __name__ == "__main__":
    main()
