"""Scripts that real client libraries run against RouterDash; each prints the results that it received, as JSON.

Python scripts run in a virtual environment of requirements.txt (tests.llamacpp.environment creates it), JavaScript ones
by node in a folder with the packages of package-lock.json.
"""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import llamacpp, programs

HERE = Path(__file__).parent
RETRIES = ("--fetch-retries=2", "--fetch-retry-mintimeout=2000", "--fetch-retry-maxtimeout=10000")


def node(script: str, *arguments: str) -> list[str]:
    """Return the command that runs one of the scripts. Skips the test without node or its packages."""
    programs.need("node")
    folder = _packages("node-clients", HERE)
    shutil.copy(HERE / script, folder / script)  # node looks for packages beside the script
    return ["node", str(folder / script), *arguments]


def agent(package: str, path: str) -> Path:
    """Return a program of a coding agent, from the package for this machine. Skips the test where there is none."""
    programs.need("node")
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    folder = _packages("coding-agents", HERE / "agents")
    program = folder / "node_modules" / f"{package}-{sys.platform}-{machine}" / path
    if not program.exists():
        pytest.skip(f"{package} has no program for {sys.platform}-{machine}")
    return program


def agent_script(path: str) -> list[str]:
    """Return the command that runs a coding agent written in JavaScript. Skips the test without node or the agent."""
    programs.need("node")
    return ["node", str(_packages("coding-agents", HERE / "agents") / "node_modules" / path)]


def _packages(name: str, source: Path) -> Path:
    """Return a folder with the packages of a lock file in `source`. Skips the test if npm cannot install them."""
    folder = llamacpp.CACHE / name
    lock = (source / "package-lock.json").read_text()
    mark = folder / "installed.txt"
    with llamacpp.alone(name):
        if not mark.exists() or mark.read_text() != lock:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for file in ("package.json", "package-lock.json"):
                shutil.copy(source / file, folder / file)
            programs.need_registry()
            command = ["npm", "ci", *RETRIES, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
            if done.returncode:
                programs.leave_out_if_offline("npm", done.stderr)
            assert done.returncode == 0, done.stderr
            mark.write_text(lock)
    return folder


def configure_llm(home: Path, base_url: str, keys: dict[str, str], models: list[str]) -> Path:
    """Return the user folder of `llm`: each model with each key, as `MODEL-KEY`."""
    entries = [
        {"model_id": f"{model}-{key}", "model_name": model, "api_base": base_url, "api_key_name": key}
        for model in models
        for key in keys
    ]
    (home / "extra-openai-models.yaml").write_text(json.dumps(entries))
    (home / "keys.json").write_text(json.dumps(keys))
    return home
