"""Keys of the marks. A plain checksum of a prompt could be guessed: whoever reads the table could test a text.

The installation has a secret. From it each pair of API key and model gets a *scope*, which is the key of all hashes of
its requests. So equal prompts of different API keys have nothing in common, and without the secret no text can be
tested. BLAKE2s has no length extension, so a hash that begins with a secret is a message authentication code
(RFC 7693; Aumasson et al., "BLAKE2: simpler, smaller, fast as MD5", 2013).
"""

import secrets
from collections.abc import Callable
from hashlib import blake2s
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.base import files
from gateway.base.config import ConfigError

if TYPE_CHECKING:
    from _hashlib import HASH

SECRET_BYTES = 32
Hash = Callable[[], "HASH"]  # returns a hash object that has read a secret


def load_secret(path: Path) -> bytes:
    """Return the installation's secret for affinity. It is created if missing, readable by the owner alone.

    Raises ConfigError if the file has something else, and OSError.
    """
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        secret = files.create_once(path, secrets.token_bytes(SECRET_BYTES))
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"{path} must have {SECRET_BYTES} bytes: delete it, and RouterDash creates another one")
    return secret


class ScopeHashes:
    """The keyed hashes of the requests of one API key for one model."""

    __slots__ = ("_conversation", "mark", "session")

    def __init__(self, secret: bytes, key_id: str | None, model: str) -> None:
        # An id of an API key has no NUL. Requests without an API key share a scope.
        key = blake2s(f"{key_id or ''}\0{model}".encode("utf-8", "replace"), key=secret).digest()
        self.mark: Hash = _keyed(key, b"m")  # of the beginning of a prompt
        self.session = blake2s(key + b"s").digest()  # the key of the hashes of sessions
        self._conversation: Hash = _keyed(key, b"c")

    def conversation_of(self, opening: bytes) -> str:
        """Return 8 bytes of the keyed hash of a conversation's opening, in hexadecimal."""
        hashed = self._conversation()
        hashed.update(opening)
        return hashed.hexdigest()


def session_hash(scope: ScopeHashes, session: bytes) -> Hash:
    """Return the hash of a session. It reads the whole id first: `session-1` is no beginning of `session-12`."""
    return _keyed(blake2s(session, key=scope.session).digest(), b"n")


def hash_number(hashed: Hash, number: int) -> int:
    """Return 64 bits of the keyed hash of a number below 2**72."""
    copy = hashed()
    copy.update(number.to_bytes(9, "little"))
    return int.from_bytes(copy.digest(), "little")


def fingerprint(secret: bytes, endpoint_id: str, base_url: str) -> int:
    """Return a number that an endpoint has in common with no other one, and loses when its address changes."""
    digest = blake2s(f"{endpoint_id}\0{base_url}".encode(), key=secret, person=b"endpoint").digest()
    return int.from_bytes(digest[:8], "little")


def _keyed(key: bytes, purpose: bytes) -> Hash:
    # The key has 32 bytes and is hashed as a block of its own, before the first copy.
    hashed = blake2s(key=key, digest_size=8)
    hashed.update(purpose)
    return hashed.copy  # type: ignore[return-value]  # typeshed's type of blake2s is another class
