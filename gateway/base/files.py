"""Files that the owner alone may read, from their first moment on: small ones are replaced atomically."""

import os
import secrets
from pathlib import Path


def create_empty(path: Path) -> None:
    """Create a file for a library that would give it any other mode; one that exists stays as it is."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def replace(path: Path, content: bytes) -> None:
    """Replace a file. Readers see the old or the new file, never a part of one."""
    draft = _draft(path, content)
    try:
        os.replace(draft, path)
    except OSError:
        os.unlink(draft)
        raise


def create_once(path: Path, content: bytes) -> bytes:
    """Write the file unless it exists. Return its content, which another process may have written."""
    draft = _draft(path, content)
    try:
        os.link(draft, path)
    except FileExistsError:
        return path.read_bytes()
    finally:
        os.unlink(draft)
    return content


def _draft(path: Path, content: bytes) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError:
        os.unlink(draft)
        raise
    return draft
