"""Compiled packages: copies of `gateway`, and for control of `metrics`, in machine code, which `make compile` builds.

A gateway process that is started in its folder imports the copy instead of the package in Python; control has its
folder in PYTHONPATH. They are used only for exactly the sources and the kind of Python that they were built from.
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


CONTROL_FOLDER = "control"  # in the folder: the package `metrics` for control
CONTROL_READS = ("gateway",)  # packages on whose sources it depends too


def digest(*packages: Path) -> str:
    """Return the SHA-256 of all sources of packages and of their names, in hex."""
    sha256 = hashlib.sha256()
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            source = path.read_bytes()
            sha256.update(f"{path.relative_to(package)}\0{len(source)}\0".encode() + source)
    return sha256.hexdigest()


def compiled_gateway(folder: Path = FOLDER, package: Path = PROJECT / "gateway") -> Path | None:
    """Return the folder of the compiled gateway; None if there is none, or it is one of other sources."""
    return _current(folder, "gateways", package)


def compiled_control(folder: Path = FOLDER / CONTROL_FOLDER, project: Path = PROJECT) -> Path | None:
    """Return the folder of the compiled package for control; None if there is none, or it is one of other sources."""
    return _current(folder, "control", *(project / package for package in ("metrics", *CONTROL_READS)))


def _current(folder: Path, user: str, *packages: Path) -> Path | None:
    try:
        compiled = (folder / DIGEST).read_text()
    except OSError:
        return None
    if compiled != digest(*packages):
        log.warning("the compiled code of %s is one of other sources; Python runs until `make compile`", user)
        return None
    return folder
