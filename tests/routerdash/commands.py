"""Management commands and Python code with the product's settings, in their own processes."""

import subprocess
import sys
from dataclasses import dataclass

from tests.router import ROOT, clean_environment

SETUP = "import django; django.setup(); from django.conf import settings; config = settings.ROUTERDASH\n"


@dataclass(frozen=True)
class Done:
    """The result of a process."""

    code: int
    out: str
    err: str


def manage(*arguments: str, **environment: str) -> Done:
    """Run `python manage.py …`."""
    return _run([str(ROOT / "manage.py"), *arguments], environment)


def python(code: str, **environment: str) -> Done:
    """Run Python code with the product's settings and the variable `config`."""
    return _run(["-c", SETUP + code], {"DJANGO_SETTINGS_MODULE": "routerdash.settings", **environment})


def _run(arguments: list[str], environment: dict[str, str]) -> Done:
    completed = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=clean_environment({"ROUTERDASH_TIME_ZONE": "UTC", **environment}),
        capture_output=True,
        text=True,
        timeout=110,
        stdin=subprocess.DEVNULL,
    )
    return Done(completed.returncode, completed.stdout, completed.stderr)


def one_line(text: str) -> bool:
    """Return True for one line without a traceback."""
    return text.count("\n") == 1 and "Traceback" not in text
