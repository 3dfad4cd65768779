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

from tests import llamacpp

HERE = Path(__file__).parent


def node(script: str, *arguments: str) -> list[str]:
    """Return the command that runs one of the scripts. Skips the test without node or its packages."""
    program = shutil.which("node")
    if program is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = _packages("node-clients", HERE)
    shutil.copy(HERE / script, folder / script)  # node looks for packages beside the script
    return [program, str(folder / script), *arguments]


def agent(package: str, path: str) -> Path:
    """Return a program of a coding agent, from the package for this machine. Skips the test where there is none."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    folder = _packages("coding-agents", HERE / "agents")
    program = folder / "node_modules" / f"{package}-{sys.platform}-{machine}" / path
    if not program.exists():
        pytest.skip(f"{package} has no program for {sys.platform}-{machine}")
    return program


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
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
            if done.returncode:
                pytest.skip(f"npm cannot install the packages: {done.stderr.strip().splitlines()[:1]}")
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
