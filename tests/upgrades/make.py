"""Make an archive of a data directory, as a checkout of RouterDash leaves it after `kill -9`.

    python -m tests.upgrades.make NAME [--checkout DIRECTORY] [--adopt]

writes NAME.tar.xz and NAME.json beside this file; with --adopt, the installation begins with a database of llmlb. The
checkout's own code serves the traffic; its `manage.py` runs with the interpreter of this process. It takes about a
minute, and a C compiler.
"""

import argparse
import http.client
import http.cookiejar
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.simulator import Simulator
from tests.reference import make_reference_db
from tests.router import PASSWORD, ROOT, RouterDash, command_of, until
from tests.upgrades import archives, entries

DAYS = (-40, -2, 0)  # from now: each is a run of its own, so that months, days and minutes have rows
CLIENTS = ("192.0.2.7", "192.0.2.19", "2001:db8:0:1::7", "2001:db8:0:1::8")
LONG_PROMPT = "The quick brown fox jumps over the lazy dog. " * 1500  # as much as is stored of a body
ALL_PERMISSIONS = (
    "openai.inference", "openai.models.read", "endpoints.read", "endpoints.manage", "metrics.read", "api_keys.manage",
    "users.manage",
)  # fmt: skip
INFERENCE = ("openai.inference", "openai.models.read")
USERS = {"admin": PASSWORD, "vera": "a viewer's long password"}
UPSTREAM_KEY = "sk-upstream-of-the-basement"
SERVERS: dict[str, dict[str, Any]] = {
    "basement": {"models": ["tiny", "shared", "bge-m3"], "kind": "vllm", "api_key": UPSTREAM_KEY},
    "attic": {"models": ["llama3.3:70b"], "kind": "ollama", "messages": False},
    "shed": {"models": ["shared", "broken"], "fault": "500"},
    "cellar": {"models": ["slow"], "tokens": 400, "tokens_per_second": 100},
    "garage": {"models": ["cut"], "fault": "cut"},
    "old box": {"models": ["retired"], "api_key": UPSTREAM_KEY},
    "sold box": {"models": ["sold"]},
}
STAFF: dict[str, dict[str, Any]] = {
    "basement": {"api_key": UPSTREAM_KEY, "notes": "Next to the boiler. 地下室", "tags": ["gpu", "home"]},
    "attic": {"max_concurrency": 4, "inference_timeout_secs": 90},
    "old box": {"api_key": UPSTREAM_KEY, "notes": "Never edited after this archive."},
}


class Installation(RouterDash):
    """An installation that runs the code of a checkout, with a shifted clock."""

    def __init__(self, directory: Path, checkout: Path) -> None:
        super().__init__(directory, **archives.SETTINGS, ROUTERDASH_HEALTH_CHECK_INTERVAL="1")
        self.program = [sys.executable, str(checkout / "manage.py")]
        self.environment["PYTHONPATH"] = str(checkout)
        self.checkout = checkout

    def start_at(self, days: int) -> None:
        """Start the processes so many days from now."""
        self.environment |= archives.shifted_clock(self.directory, days * 86_400)
        self.start(restored=False)

    def pause(self, role: str) -> None:
        """Stop all processes of a role until they are killed."""
        for pid in self.pids():
            if role in command_of(pid):
                os.kill(pid, signal.SIGSTOP)


class Traffic:
    """Requests of all kinds, and how many of them ended in which way."""

    def __init__(self, router: Installation, keys: dict[str, str]) -> None:
        self._router = router
        self._keys = [keys["ops"], keys["laptop"]]
        self._spent = keys["spent"]
        self.sent = 0
        self.outcomes: Counter[str] = Counter()

    def send_all_kinds(self) -> None:
        chat, messages = "/v1/chat/completions", [{"role": "user", "content": "Say hello."}]
        for stream in (False, True):
            for model in ("tiny", "tiny", "shared", "llama3.3:70b", "broken", "cut"):
                self.send(chat, {"model": model, "messages": messages, "stream": stream})
            for model in ("fast", "claude-sonnet", "reliable"):
                self.send(chat, {"model": model, "messages": messages, "stream": stream})
            self.send(chat, {"model": "tiny", "messages": messages, "stream": stream, "service_tier": "batch"})
            for model in ("tiny", "llama3.3:70b"):
                body = {"model": model, "max_tokens": 100, "messages": messages, "stream": stream}
                self.send("/v1/messages", body)
            self.send("/v1/responses", {"model": "tiny", "input": "Say hello.", "stream": stream})
            self.send("/v1/completions", {"model": "tiny", "prompt": "Hello", "stream": stream})
        self.send("/v1/embeddings", {"model": "bge-m3", "input": ["Hello", "world"]})
        self.send("/v1/embeddings", {"model": "vectors", "input": ["Hello", "world"]})
        for _ in range(3):  # until the budget is spent, and after that
            self.send(chat, {"model": "tiny", "messages": messages}, key=self._spent)
        self.send(chat, {"model": "off", "messages": messages})
        self.send(chat, {"model": "unknown", "messages": messages})
        self.send(chat, {"model": "tiny", "messages": messages}, key="sk_" + "Unknown0" * 4)
        self.send(chat, b"{not JSON")
        self.disconnect()

    def send(self, path: str, body: Any, key: str = "") -> None:
        """Send one request, and count it by the status and the end of its response."""
        status, text = self._send(path, body, key)
        if 400 <= status < 500 or b"limits_unavailable" in text:
            self.outcomes["rejected"] += 1
        else:
            self.outcomes["ok" if status == 200 and not re.search(rb'"error": ?{', text) else "failed"] += 1

    def wait_until_served(self) -> None:
        """Send requests until each key is served: after a start, control needs a moment to read what is spent."""
        for key in self._keys:
            until(partial(self._is_served, key), 20, pause=0.2)

    def _is_served(self, key: str) -> bool:
        before = self.outcomes["ok"]
        self.send("/v1/chat/completions", {"model": "tiny", "messages": []}, key)
        return self.outcomes["ok"] > before

    def send_long(self) -> None:
        body = {"model": "tiny", "messages": [{"role": "user", "content": LONG_PROMPT}]}
        with ThreadPoolExecutor(8) as threads:
            for status, _ in threads.map(lambda _: self._send("/v1/chat/completions", body), range(40)):
                assert status == 200, status
                self.outcomes["ok"] += 1

    def disconnect(self) -> None:
        """Close the connection in the middle of a stream."""
        body = json.dumps({"model": "slow", "messages": [], "stream": True})
        with closing(http.client.HTTPConnection("127.0.0.1", self._router.port, timeout=30)) as connection:
            connection.request("POST", "/v1/chat/completions", body, self._headers())
            response = connection.getresponse()
            response.read(500)
            response.close()
        self.outcomes["cancelled"] += 1

    def _send(self, path: str, body: Any, key: str = "") -> tuple[int, bytes]:
        headers = self._headers(key)
        response = self._router.request("POST", path, body, headers)
        return response.status, response.body

    def _headers(self, key: str = "") -> dict[str, str]:
        self.sent += 1
        key = key or self._keys[self.sent % len(self._keys)]
        client = CLIENTS[self.sent % len(CLIENTS)]
        return {"Authorization": f"Bearer {key}", "X-Forwarded-For": client, "X-Request-Id": f"of-client-{self.sent}"}


class Browser:
    """The session of a user."""

    def __init__(self, router: RouterDash, name: str, password: str) -> None:
        self._router = router
        self._jar = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._jar))
        self._opener.open(f"{router.url}/login", timeout=30).read()
        self.submit("/login", username=name, password=password)

    def submit(self, path: str, **form: str) -> None:
        """Send a form; it must lead to another page."""
        data = urllib.parse.urlencode({**form, "csrfmiddlewaretoken": self._token()}).encode()
        with self._opener.open(f"{self._router.url}{path}", data, timeout=30) as response:
            assert not response.url.endswith(path), response.read().decode()

    def create_key(self, name: str, permissions: tuple[str, ...]) -> dict[str, str]:
        """Create an API key; the response has its `id` and `key`."""
        body = json.dumps({"name": name, "permissions": permissions}).encode()
        headers = {"Content-Type": "application/json", "X-CSRFToken": self._token()}
        request = urllib.request.Request(f"{self._router.url}/api/me/api-keys", body, headers)
        with self._opener.open(request, timeout=30) as response:
            created: dict[str, str] = json.loads(response.read())
        return created

    def revoke_key(self, key_id: str) -> None:
        url = f"{self._router.url}/api/me/api-keys/{key_id}"
        headers = {"X-CSRFToken": self._token()}
        self._opener.open(urllib.request.Request(url, None, headers, method="DELETE"), timeout=30).close()

    def _token(self) -> str:
        return next(cookie.value or "" for cookie in self._jar if cookie.name == "routerdash_csrf")


class Maker:
    """One archive on the way from an empty directory to its manifest."""

    def __init__(self, checkout: Path, directory: Path, simulator: Simulator) -> None:
        self._router = Installation(directory, checkout)
        self._servers = {name: simulator.add(**behaviour) for name, behaviour in SERVERS.items()}
        self._ids: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.broken_keys = {"revoked"}
        self.adopted: Counter[str] = Counter()  # requests that llmlb served, by outcome

    def adopt(self) -> None:
        """Begin with a database of llmlb, which the checkout takes over."""
        router = self._router
        router.data_dir.mkdir(mode=0o700)
        path = router.data_dir / "routerdash.sqlite3"
        expected = make_reference_db.make(path, requests=300, now=datetime.now(UTC) + timedelta(days=DAYS[0], hours=-1))
        router.environment |= archives.shifted_clock(router.directory, DAYS[0] * 86_400)
        done = router.manage("adopt", timeout=300)
        assert done.returncode == 0, done.stderr
        self.keys = {f"{name} of llmlb": key["key"] for name, key in expected["api_keys"].items()}
        self.broken_keys |= {f"{name} of llmlb" for name, key in expected["api_keys"].items() if key["expired"]}
        for row in expected["endpoints"].values():
            self.adopted += Counter(ok=row["successful_requests"], failed=row["failed_requests"])
        self.adopted += Counter(ok=6, failed=1)  # of the deleted endpoint

    def make(self, archive: Path) -> None:
        begin = datetime.now(UTC)
        router = self._router
        with _killed_at_the_end(router):
            router.start_at(DAYS[0])
            self._set_up()
            traffic = Traffic(router, self.keys)
            for days in DAYS:
                if router.process is None:
                    router.start_at(days)
                traffic.wait_until_served()
                self._run(traffic, last=days == DAYS[-1])
        assert router.query("SELECT count(*) FROM django_q_ormq") != [(0,)]
        self._tear_last_frames()
        manifest = {
            "checkout": _commit(router.checkout),
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "first_day": f"{begin + timedelta(days=2 * DAYS[0]):%Y-%m-%d}",
            "last_day": f"{datetime.now(UTC):%Y-%m-%d}",
            "since": f"{begin + timedelta(days=2 * DAYS[0]):%Y-%m-%dT%H:%M:%SZ}",
            "until": f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}",
            "users": USERS,
            "keys": {name: {"key": key, "works": name not in self.broken_keys} for name, key in self.keys.items()},
            "servers": {name: SERVERS[name] for name in self._ids if name not in ("old box", "sold box")},
            "untouched": "old box",
        }
        assert not (named := archives.machine_paths(router.data_dir)), named
        archives.pack(router.data_dir, archive)
        manifest |= self._figures(archive, manifest, traffic)
        text = json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True)
        archive.with_name(archive.name.replace(".tar.xz", ".json")).write_text(text + "\n")

    def _set_up(self) -> None:
        """Create users, API keys and endpoints, as an administrator does."""
        admin = Browser(self._router, "admin", PASSWORD)
        admin.submit("/admin/access/user/add/", username="vera", role="viewer", new_password=USERS["vera"])
        created = {"ops": admin.create_key("operations", ALL_PERMISSIONS)}
        created |= {name: admin.create_key(name, INFERENCE) for name in ("laptop", "spent", "revoked")}
        self.keys |= {name: key["key"] for name, key in created.items()}
        self._router.key = self.keys["ops"]
        admin.revoke_key(created["revoked"]["id"])
        for name, server in self._servers.items():
            self._ids[name] = self._router.add(server, name, **STAFF.get(name, {}))
        self._router.post(f"/api/endpoints/{self._ids['old box']}/disable")
        subjects = {name: key["id"] for name, key in created.items()}
        ((subjects["vera"],),) = self._router.query("SELECT id FROM users WHERE username = 'vera'")
        end = datetime.now(UTC) + timedelta(days=DAYS[-1] - 1)
        entries.enter(self._router, self._ids, subjects, end)

    def _run(self, traffic: Traffic, *, last: bool) -> None:
        router = self._router
        if "sold box" in self._ids:
            traffic.send("/v1/chat/completions", {"model": "sold", "messages": []})
        traffic.send_all_kinds()
        until(lambda: router.stats()["records_waiting"] == 0)
        if "sold box" in self._ids:
            router.request("DELETE", f"/api/endpoints/{self._ids.pop('sold box')}")
        if not last:
            assert router.stop() == 0
            router.process = None
            return
        self._queue_a_task()
        router.pause("manage.py control")  # no record is folded from here on
        traffic.send_all_kinds()
        router.kill_role("gateway.main")
        traffic.wait_until_served()
        for _ in range(20):
            traffic.send_long()
            if len([path for path in self._segments().values() if len(path) > 1]) >= 2:
                break
        traffic.send_all_kinds()
        until(lambda: all(server.seen.running == 0 for server in self._servers.values()))

    def _queue_a_task(self) -> None:
        """Let an endpoint recover while the background process is stopped: its model sync stays queued."""
        router, attic = self._router, self._ids["attic"]
        until(lambda: router.query("SELECT count(*) FROM django_q_ormq") == [(0,)], 30)
        router.pause("manage.py background")
        router.pause("manage.py jobs")
        for fault, status in (("500", "offline"), ("", "online")):
            self._servers["attic"].set(health_fault=fault)
            until(partial(self._has_status, attic, status), 30)
        until(lambda: router.query("SELECT count(*) FROM django_q_ormq") != [(0,)])

    def _has_status(self, endpoint_id: str, status: str) -> bool:
        return bool(self._router.get(f"/api/endpoints/{endpoint_id}").json()["status"] == status)

    def _segments(self) -> dict[str, list[Path]]:
        """Return the segments of each gateway process."""
        root = self._router.data_dir / "journal"
        return {path.name: sorted(path.glob("*.seg")) for path in root.iterdir() if path.is_dir()}

    def _tear_last_frames(self) -> None:
        """Append half a frame to each open segment, as a kill in the middle of a write leaves it."""
        for segments in self._segments().values():
            data = segments[-1].read_bytes()
            frame = data[data.rindex(b"\xf5RJ") :]
            segments[-1].write_bytes(data + frame[: len(frame) // 2])

    def _figures(self, archive: Path, manifest: dict[str, Any], traffic: Traffic) -> dict[str, Any]:
        """Return the figures that the same checkout reports, from a copy of the archive, after it has folded it."""
        router = self._router
        shutil.rmtree(router.data_dir)
        archives.unpack(archive, router.data_dir)
        with _killed_at_the_end(router):
            router.start_at(0)
            until(lambda: router.stats()["figures_restored"] and router.stats()["records_waiting"] == 0, 60)
            assert router.manage("reconcile").stdout == "all figures agree\n"
            figures = archives.figures(router, manifest)
            _, browser = router.log_in("admin", PASSWORD)
            request_id = next(row["id"] for row in figures["history"]["errors"] if row["attempts"])
            bodies = archives.bodies(router, browser, request_id)
            etag = router.get(f"/api/endpoints/{self._ids['old box']}").headers["etag"]
            entered = entries.stored(router, manifest)
        names = {"ok": "successful", "failed": "failed", "cancelled": "cancelled", "rejected": "rejected"}
        reported = {outcome: figures["stats"][f"{name}_requests"] for outcome, name in names.items()}
        assert reported == traffic.outcomes + self.adopted, (reported, traffic.outcomes, self.adopted)
        return {
            "figures": figures,
            "bodies": {"id": request_id, "expected": bodies},
            "etag": etag,
            "entered": entered,
        }


@contextmanager
def _killed_at_the_end(router: RouterDash) -> Iterator[None]:
    try:
        yield
    finally:
        router.kill()


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--checkout", type=Path, default=ROOT)
    parser.add_argument("--adopt", action="store_true", help="begin with a database of llmlb")
    options = parser.parse_args()
    archive = archives.HERE / f"{options.name}.tar.xz"
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="routerdash-archive-"))
        simulator = stack.enter_context(Simulator())
        maker = Maker(options.checkout.resolve(), Path(directory), simulator)
        if options.adopt:
            maker.adopt()
        maker.make(archive)
    size = archive.stat().st_size
    print(f"{archive.name}: {size:,} bytes")
    assert size <= archives.MAX_BYTES, "an archive must stay small"


if __name__ == "__main__":
    main()
