"""The compiled gateway: a copy of the package `gateway` in machine code, which `make compile` builds.

A gateway process that is started in its folder imports it instead of the package in Python. It is used only for exactly
the sources and the kind of Python that it was built from.
"""

import hashlib
import logging
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from gateway.base.setting_parsers import ASSETS, INSTALLED

log = logging.getLogger(__name__)

SUFFIX = EXTENSION_SUFFIXES[0]  # such as .cpython-313-x86_64-linux-gnu.so: Python's version and the platform
DIGEST = "sources.sha256"  # the file in the folder that says which sources were compiled
PROJECT = Path(__file__).resolve().parents[2]
FOLDER = (ASSETS.parent / "compiled" if INSTALLED else PROJECT / ".cache" / "compiled") / SUFFIX[1:].removesuffix(".so")


def digest(package: Path) -> str:
    """Return the SHA-256 of all sources of a package and of their names, in hex."""
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        source = path.read_bytes()
        found.update(f"{path.relative_to(package)}\0{len(source)}\0".encode() + source)
    return found.hexdigest()


def compiled_gateway(folder: Path = FOLDER, package: Path = PROJECT / "gateway") -> Path | None:
    """Return the folder of the compiled gateway; None if there is none, or it is one of other sources."""
    try:
        compiled = (folder / DIGEST).read_text()
    except OSError:
        return None
    if compiled != digest(package):
        log.warning("the compiled gateway is one of other sources; gateways run in Python until `make compile`")
        return None
    return folder
