"""Examples of the documentation: which blocks of code there are, and a demo at which those in the shell run.

`<!-- not run: REASON -->` before a block leaves it out. REASONS lists what counts as a reason.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from access.models import PERMISSIONS
from benchmarks import demo
from benchmarks.process import ROOT, clean_environment, free_port
from benchmarks.simulator import Simulator
from tests.router import RouterDash, until

SHELL = ("sh", "bash")
OTHER = ("python", "json", "yaml", "ini", "sql", "promql", "text")  # no commands
REASONS = {
    "needs a container engine",
    "needs root and systemd",
    "needs a database of llmlb",
    "connects to a cloud",
    "installs packages",
    "asks for a password at the terminal",
    "runs until it is stopped",
    "takes minutes",
    "the program is yours",
}
ADDRESS = "127.0.0.1:32768"  # of RouterDash in all examples
SERVER = "http://192.168.1.10:8000"  # of an inference server in all examples
MODEL = "qwen3-32b"  # of the examples about routes; the demo has it
SECONDS = 300  # for one example; an export runs when nothing else does

_BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>.+?) -->\n+)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Example:
    """A block of code. `reason`: why it is not run."""

    place: str  # file and line
    language: str
    text: str
    reason: str | None


def examples_of(text: str, name: str) -> list[Example]:
    """Return the blocks of code of a page with this text."""
    return [
        Example(
            f"{name}:{text.count(chr(10), 0, block.start('indent')) + 1}",
            block["language"],
            re.sub(rf"^{block['indent']}", "", block["text"], flags=re.MULTILINE),
            block["reason"],
        )
        for block in _BLOCK.finditer(text)
    ]


def problem(example: Example) -> str | None:
    """Return what is wrong with a block: it hides commands, or has no known reason for not being run."""
    if example.language not in (*SHELL, *OTHER):
        return f"names none of the languages {', '.join((*SHELL, *OTHER))}"
    if example.language in OTHER:
        if re.search(r"^\s*(\$ )?(curl|podman|docker|make|routerdash|\S+ manage\.py)\s", example.text, re.MULTILINE):
            return f"has commands, so its language is sh, not {example.language}"
        return None
    if example.reason is None or example.reason in REASONS:
        return None
    return f"is not run for a reason that is none of {sorted(REASONS)}: {example.reason}"


class Demo:
    """A demo that runs, and a folder that looks like a checkout in which a reader tries the examples."""

    def __init__(self, folder: Path, port: int, spare: str) -> None:
        """`spare`: URL of an inference server that the demo does not have."""
        (self._data,) = folder.glob("routerdash-demo-*")
        self._router = RouterDash(folder)
        self._router.port = port
        self._router.key, self._limited_id = self._keys()
        self._spare = spare
        self._folder = self._checkout(folder / "checkout")
        self._environment = clean_environment(
            {
                "PATH": f"{self._folder / 'bin'}:{os.environ['PATH']}",
                "ROUTERDASH_DATA_DIR": str(self._data),
                "ROUTERDASH_PORT": str(port),
                "ROUTERDASH_API_KEY": self._router.key,
                "KEY_ID": self._limited_id,
                "ENDPOINT_ID": self._endpoint()["id"],
                "CONVERSATION": until(self._conversation, 60),
            }
        )

    def run(self, example: Example) -> str | None:
        """Run an example. Return its output if it failed. Afterwards the demo is as usable as before."""
        done = subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", example.text.replace(SERVER, self._spare)],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        self._restore()
        return None if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout[-2000:]}"

    def _keys(self) -> tuple[str, str]:
        """Create an API key with all permissions, and another one for examples. Return the first, and an id."""
        _, browser = self._router.log_in("admin", demo.PASSWORD)
        handlers = browser.handlers  # type: ignore[attr-defined]
        jar = next(handler.cookiejar for handler in handlers if hasattr(handler, "cookiejar"))
        token = next(cookie.value for cookie in jar if cookie.name == "routerdash_csrf")
        made = []
        for name, permissions in (("examples", list(PERMISSIONS)), ("limited", ["openai.inference"])):
            body = json.dumps({"name": name, "permissions": permissions}).encode()
            headers = {"Content-Type": "application/json", "X-CSRFToken": token, "Referer": self._router.url}
            request = urllib.request.Request(f"{self._router.url}/api/me/api-keys", body, headers)
            with browser.open(request, timeout=30) as response:
                made.append(json.loads(response.read()))
        return made[0]["key"], made[1]["id"]

    def _checkout(self, folder: Path) -> Path:
        (folder / "bin").mkdir(parents=True)
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "manage.py").symlink_to(ROOT / "manage.py")
        (folder / "routerdash.sqlite3").symlink_to(self._data / "routerdash.sqlite3")
        # A refused request is a failure, the demo has another port, and a server of it fails now and then.
        curl = folder / "bin" / "curl"
        curl.write_text(
            f"#!/bin/sh\nexec {shutil.which('curl')} --silent --show-error --fail-with-body --retry 3 "
            f'--connect-to "{ADDRESS}:127.0.0.1:{self._router.port}" "$@"\n'
        )
        curl.chmod(0o755)
        question = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]}
        (folder / "request.json").write_text(json.dumps(question))
        price = {"litellm_provider": "openai", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}
        (folder / "model_prices_and_context_window.json").write_text(json.dumps({"gpt-5": {"mode": "chat", **price}}))
        return folder

    def _endpoint(self) -> Any:
        endpoints = self._router.get("/api/endpoints").json()["endpoints"]
        return next(endpoint for endpoint in endpoints if endpoint["name"] == "old-laptop")

    def _conversation(self) -> str | None:
        """Return one of the model that the examples ask for, once the demo has one."""
        conversations = self._router.get("/api/conversations").json()["conversations"]
        return next(
            (conversation["conversation"] for conversation in conversations if conversation["model"] == MODEL), None
        )

    def _restore(self) -> None:
        endpoint = self._endpoint()
        if endpoint["operator_state"] != "enabled":
            assert self._router.post(f"/api/endpoints/{endpoint['id']}/enable").status == 200


@contextmanager
def running_demo() -> Iterator[Demo]:
    """Start `benchmarks.demo`, and stop it in the end."""
    port = free_port()
    # A short path: Unix sockets are in the data directory.
    with tempfile.TemporaryDirectory(prefix="rd-docs-") as folder, Simulator() as spare:
        log = Path(folder) / "demo.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.demo"],
                cwd=ROOT,
                env=clean_environment({"ROUTERDASH_PORT": str(port), "TMPDIR": folder}),
                stdout=output,
                stderr=output,
            )
        try:
            until(lambda: process.poll() is not None or "The demo runs at" in log.read_text(), 120)
            assert process.poll() is None, log.read_text()
            yield Demo(Path(folder), port, spare.add(models=["tiny"]).url)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def failures(examples: Sequence[Example]) -> list[str]:
    """Run examples at one demo, in their order. Return what failed, with places and outputs."""
    failed = []
    with running_demo() as the_demo:
        for example in examples:
            if (output := the_demo.run(example)) is not None:
                failed.append(f"{example.place}\n{example.text}{output}")
    return failed
