"""Programs that some tests need beside Python: without one, its tests are skipped with the command that installs it.

With TEST_REQUIRES_PROGRAMS=1, as `.ci/run` and `make test-all` set it, such a skip is a failure.
"""

import os
import shutil
from typing import NoReturn

import pytest

REQUIRED = bool(os.environ.get("TEST_REQUIRES_PROGRAMS"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Packages of Debian and Ubuntu; those of other systems have similar names.
PACKAGES = {
    "cc": "gcc libc6-dev",
    "chattr": "e2fsprogs",
    "chromium": "chromium",
    "curl": "curl",
    "initdb": "postgresql",
    "ip": "iproute2",
    "make": "make",
    "nginx": "nginx",
    "node": "nodejs npm",
    "setpriv": "util-linux",
    "systemd-analyze": "systemd",
    "unshare": "util-linux",
    "valgrind": "valgrind",
}


def find(program: str) -> str | None:
    """Return the path of a program of PACKAGES."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    if program == "chromium":
        return next(filter(None, (shutil.which(name) for name in BROWSERS)), None)
    if program == "node" and shutil.which("npm") is None:
        return None
    return shutil.which(program, path=path)


def need(*programs: str) -> None:
    """Skip the test if one of the programs is missing. The marker `needs` does it before fixtures are made."""
    missing = [program for program in programs if find(program) is None]
    if missing:
        packages = dict.fromkeys(PACKAGES[program] for program in missing)
        leave_out(f"{' and '.join(missing)} not found; install by: apt-get install {' '.join(packages)}")


def leave_out(reason: str) -> NoReturn:
    """Skip the test, or fail it where nothing may be missing. `reason`: the missing thing and how to install it."""
    if REQUIRED:
        pytest.fail(f"TEST_REQUIRES_PROGRAMS is set: {reason}", pytrace=False)
    pytest.skip(reason)


_no_registry: list[str] = []  # why this process reaches none: installers would try again and again


def leave_out_if_offline(installer: str, errors: str) -> None:
    """Skip the test if an installer failed because it reached no package registry."""
    if is_offline(errors):
        _no_registry.append(f"{installer} reaches no package registry; with a network, the test installs its packages")
        leave_out(_no_registry[0])


def need_registry() -> None:
    """Skip the test if an installer of this process found no package registry."""
    if _no_registry:
        leave_out(_no_registry[0])


def is_offline(message: str) -> bool:
    """Return True if an installer failed because it reached no package registry."""
    texts = (
        "Temporary failure in name resolution", "Name or service not known", "Network is unreachable", "ENOTFOUND",
        "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "No route to host", "Connection refused", "ConnectTimeoutError",
        "NewConnectionError", "error sending request", "dns error",
    )  # fmt: skip
    return any(text in message for text in texts)
