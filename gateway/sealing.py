"""Upstream secrets at rest: Fernet tokens. Control seals and opens them; a gateway only opens."""

import logging
from collections.abc import Sequence
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from gateway import files
from gateway.config import ConfigError

log = logging.getLogger(__name__)


class Unsealable(Exception):
    """The token was sealed with a key that is not among ours."""


class Sealer:
    """The first key seals, every key opens, so that keys can be rotated."""

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise ConfigError(
                "ROUTERDASH_ENCRYPTION_KEYS must be Fernet keys (32 bytes in URL-safe base64), separated by commas"
            ) from None

    def seal(self, secret: str) -> str:
        return self._fernet.encrypt(secret.encode()).decode()

    def open(self, token: str) -> str:
        """Raises Unsealable rather than ever returning the token itself."""
        try:
            return self._fernet.decrypt(token).decode()
        except (InvalidToken, ValueError):
            raise Unsealable("an upstream key was sealed with another encryption key") from None


def load(keys: Sequence[str], key_file: Path) -> Sealer:
    """The configured keys, else the key file's, which is made when there is none."""
    if keys:
        return Sealer(keys)
    try:
        return Sealer([key_file.read_bytes().strip()])
    except FileNotFoundError:
        return _make(key_file)
    except ConfigError:
        raise ConfigError(f"the encryption key in {key_file} cannot be used: put the right one back") from None


def _make(key_file: Path) -> Sealer:
    key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = files.create_once(key_file, Fernet.generate_key())
    log.info("made the encryption key %s; keep a copy of it with your backups", key_file.name)
    return Sealer([key])
