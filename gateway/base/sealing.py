"""Upstream secrets at rest: Fernet tokens. Control seals and opens them; a gateway only opens."""

import base64
import binascii
import hmac
import logging
import secrets
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.base import files
from gateway.base.config import ConfigError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

log = logging.getLogger(__name__)

KEY_BYTES = 32


class Unsealable(Exception):
    """The token was sealed with a key that is not configured."""


class Sealer:
    """Seals with the first key, and opens with every key, so that keys can be rotated.

    The library is imported at the first use: it takes some MB of memory, and few installations have upstream keys.
    """

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        """Raises ConfigError if a key cannot be used."""
        if not all(map(_is_key, keys)):
            raise ConfigError(
                "ROUTERDASH_ENCRYPTION_KEYS must be Fernet keys (32 bytes in URL-safe base64), separated by commas"
            )
        self._keys = keys

    @cached_property
    def _fernet(self) -> "MultiFernet":
        from cryptography.fernet import Fernet, MultiFernet

        return MultiFernet([Fernet(key) for key in self._keys])

    def seal(self, secret: str) -> str:
        return self._fernet.encrypt(secret.encode()).decode()

    def open(self, token: str) -> str:
        """Return the secret of a token. Raises Unsealable rather than ever returning the token itself."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(token).decode()
        except (InvalidToken, ValueError):
            raise Unsealable("an upstream key was sealed with another encryption key") from None

    def mark(self, secret: str) -> str:
        """Return a keyed digest, by which a sealed secret can be compared with another one without opening it.

        It differs if another key seals, so that secrets are then sealed again.
        """
        return hmac.new(b"mark" + base64.urlsafe_b64decode(self._keys[0]), secret.encode(), "sha256").hexdigest()


def _is_key(key: str | bytes) -> bool:
    try:
        return len(base64.urlsafe_b64decode(key)) == KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def load(keys: Sequence[str], key_file: Path) -> Sealer:
    """Return the sealer for the configured keys, or for the key of the file, which is created if missing."""
    if keys:
        return Sealer(keys)
    try:
        return Sealer([key_file.read_bytes().strip()])
    except FileNotFoundError:
        return _make(key_file)
    except ConfigError:
        raise ConfigError(f"the encryption key in {key_file} cannot be used: restore the right key") from None


def _make(key_file: Path) -> Sealer:
    key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = files.create_once(key_file, base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)))
    log.info("created the encryption key %s; keep a copy of it with your backups", key_file.name)
    return Sealer([key])
