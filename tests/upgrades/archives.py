"""Archives of data directories: packing, unpacking, and the figures that an installation must show again."""

import hashlib
import io
import json
import mmap
import re
import socket
import subprocess
import tarfile
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.router import RouterDash

HERE = Path(__file__).parent
MAX_BYTES = 300_000

# Settings of an archive's installation. Nothing is deleted because of its age, however old the archive is.
SETTINGS = {
    "ROUTERDASH_WORKERS": "2",
    "ROUTERDASH_STORE_BODIES": "all",
    "ROUTERDASH_HISTORY_RETENTION_DAYS": "3650",
    "ROUTERDASH_TRUSTED_PROXIES": "127.0.0.1",
    "ROUTERDASH_BOOTSTRAP_API_KEY": "",
}

USAGE = ("day", "month", "model", "endpoint", "key", "user")
TOTALS = (
    "total_runtimes", "total_requests", "successful_requests", "failed_requests", "cancelled_requests",
    "rejected_requests", "total_input_tokens", "total_output_tokens", "average_response_time_ms",
    "journal_damaged_bytes", "records_unrecorded",
)  # fmt: skip
COUNTERS = ("id", "total_requests", "successful_requests", "failed_requests")
STAFF_FIELDS = ("endpoint_type", "notes", "tags", "operator_state", "max_concurrency", "inference_timeout_secs")


def archives() -> list[Path]:
    return sorted(HERE.glob("*.tar.xz"))


def each_archive() -> list[Any]:
    """Return the archives as parameters of a test; all but the newest are rare."""
    *older, newest = archives()
    names = [(path, path.name.removesuffix(".tar.xz")) for path in (*older, newest)]
    return [pytest.param(path, id=name, marks=[pytest.mark.rare] if path != newest else []) for path, name in names]


def manifest_of(archive: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(archive.with_name(archive.name.replace(".tar.xz", ".json")).read_text())
    return manifest


def pack(directory: Path, archive: Path) -> None:
    """Write the regular files of a data directory, without owners; sockets are left out."""
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in sorted(directory.rglob("*")):
            if path.is_file() or path.is_dir():
                info = packed.gettarinfo(path, path.relative_to(directory).as_posix())
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                packed.addfile(info, io.BytesIO(path.read_bytes()) if path.is_file() else None)


def unpack(archive: Path, directory: Path) -> None:
    """Restore a data directory, owned by the present user."""
    directory.mkdir(mode=0o700)
    with tarfile.open(archive) as packed:
        for member in packed:
            packed.extract(member, directory, set_attrs=False, filter="data")
    for path in directory.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def shifted_clock(directory: Path, seconds: int) -> dict[str, str]:
    """Return the environment of processes whose wall clock is shifted; needs a C compiler."""
    library = directory / "clock.so"
    if not library.exists():
        command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library)]
        subprocess.run([*command, str(HERE / "clock.c")], check=True)
    return {"LD_PRELOAD": str(library), "SHIFTED_CLOCK_SECONDS": str(seconds)}


class SteppedClock:
    """A wall clock that is set while processes run. It needs a C compiler."""

    def __init__(self, directory: Path) -> None:
        path = directory / "clock"
        path.write_bytes(bytes(8))
        self.environment = shifted_clock(directory, 0) | {"SHIFTED_CLOCK_FILE": str(path)}  # of these processes
        with path.open("r+b") as file:
            self._word = memoryview(mmap.mmap(file.fileno(), 8)).cast("q")

    def set(self, seconds: int) -> None:
        """Let the clock be so many seconds ahead of the machine's."""
        self._word[0] = seconds


def machine_paths(directory: Path) -> list[str]:
    """Return the files of a data directory that name a path or the host of the machine that made them."""
    host = socket.gethostname()
    names = [re.escape(host)] if len(host) > 3 and host != "localhost" else []
    pattern = re.compile("|".join(["/(?:home|root|tmp|work|Users)/", *names]).encode())
    return [path.name for path in directory.rglob("*") if path.is_file() and pattern.search(path.read_bytes())]


def figures(router: RouterDash, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return all figures that do not depend on the present time, as the API reports them."""
    period = f"since={manifest['first_day']}&until={manifest['last_day']}"
    endpoints = {row["name"]: row for row in router.get("/api/dashboard/endpoints").json()}
    details = {name: router.get(f"/api/endpoints/{row['id']}").json() for name, row in endpoints.items()}
    stats = router.stats()
    return {
        "stats": {name: stats[name] for name in TOTALS if name in stats},
        "tokens": router.get("/api/dashboard/stats/tokens").json(),
        "usage": {by: router.get(f"/api/usage?by={by}&{period}").json() for by in USAGE},
        "counters": {name: {field: row[field] for field in COUNTERS} for name, row in endpoints.items()},
        "staff": {name: {field: row[field] for field in STAFF_FIELDS if field in row} for name, row in details.items()},
        "models": {name: sorted(model["model_id"] for model in row["models"]) for name, row in details.items()},
        "model_stats": router.get("/api/dashboard/model-stats").json(),
        "endpoint_model_stats": {
            name: router.get(f"/api/endpoints/{row['id']}/model-stats").json() for name, row in endpoints.items()
        },
        "history": history(router, manifest),
        "clients": clients(router),
    }


def history(router: RouterDash, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return counts of all history rows, a hash of their ids, and the newest rows that are errors."""
    rows = list(_rows(router, f"since={manifest['since']}&until={manifest['until']}&limit=200"))
    ids = "\n".join(sorted(row["id"] for row in rows))
    return {
        "requests": len(rows),
        "ids": hashlib.sha256(ids.encode()).hexdigest(),
        "outcomes": dict(sorted(Counter(row["outcome"] for row in rows).items())),
        "models": dict(sorted(Counter(row["model"] for row in rows).items())),
        "attempts": sum(len(row["attempts"] or ()) for row in rows),
        "errors": [row for row in rows if row["outcome"] != "ok"][:10],
    }


def _rows(router: RouterDash, query: str) -> Iterator[dict[str, Any]]:
    cursor = ""
    while True:
        page = router.get(f"/api/requests?{query}{cursor}").json()
        yield from page["requests"]
        if page["next"] is None:
            return
        cursor = f"&cursor={quote(page['next'])}"


def clients(router: RouterDash) -> list[list[Any]]:
    """Return requests by client address, of all days."""
    sql = (
        "SELECT client_ip, SUM(requests_ok), SUM(requests_failed), SUM(requests_cancelled) FROM rollup_client_days "
        "GROUP BY client_ip ORDER BY client_ip"
    )
    return [list(row) for row in router.query(sql)]


def bodies(router: RouterDash, browser: urllib.request.OpenerDirector, request_id: str) -> Any:
    with browser.open(f"{router.url}/api/requests/{request_id}/bodies", timeout=30) as response:
        return json.loads(response.read())


def as_before(expected: Any, reported: Any) -> Any:
    """Return `reported` without the names that objects of `expected` lack: a later release may report more."""
    if isinstance(expected, dict) and isinstance(reported, dict):
        return {name: as_before(expected[name], reported[name]) for name in expected if name in reported}
    if isinstance(expected, list) and isinstance(reported, list) and len(expected) == len(reported):
        return [as_before(old, new) for old, new in zip(expected, reported, strict=True)]
    return reported
