"""A private PostgreSQL server that tests can stop and start."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.process import free_port


class NotInstalled(Exception):
    """PostgreSQL is not installed. The text is one line for the terminal."""


class Postgres:
    """A server on a free port, whose data are deleted at its end."""

    def __init__(self) -> None:
        """Raises NotInstalled."""
        self._programs = _programs()
        self._directory = Path(tempfile.mkdtemp(prefix="routerdash-postgres-"))
        self.port = free_port()
        if os.getuid() == 0:
            shutil.chown(self._directory, "postgres")
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgres://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self._directory}"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-o", options, "-l", str(self._directory / "log"), "start")

    def stop(self) -> None:
        """Stop at once, as in a power failure: clients are disconnected, and the next start recovers."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        # PostgreSQL refuses to run as root.
        user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.getuid() == 0 else []
        command = [*user, str(self._programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")


def _programs() -> Path:
    """The directory of the newest installed release."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if folders:
        return folders[-1]
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    raise NotInstalled("PostgreSQL's initdb is not installed: install the package postgresql")
