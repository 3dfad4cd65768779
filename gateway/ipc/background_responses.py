"""Responses in the background whose tokens are not counted yet: one request creates them, a later one reads them.

Each has a file, named by a digest. A process removes the file before it counts the tokens, and the kernel lets one
process remove it, once. So they are counted once over all processes and restarts. A process that is killed between the
removal and the record, within microseconds, counts nothing.
"""

import hashlib
import logging
import os
import time
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

MAX_AGE_DAYS = 30  # as long as OpenAI stores a response
MAX_FILES = 20_000  # the oldest are removed
TRIMMED_EVERY = 1_000  # new ones of a process


class Uncounted(msgspec.Struct, array_like=True):
    """The model of a response, for the record that counts it."""

    model: str  # the requested name
    served: str  # the endpoint's own id of it
    canonical: str | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Uncounted).decode


class BackgroundResponses:
    """The responses of all workers that are not counted yet."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made = 0
        self._failing = False

    def add(self, endpoint_id: str, response_id: str, facts: Uncounted) -> None:
        """Note that the tokens of a response are to be counted. Never raises: without a file they never are."""
        try:
            if self._made % TRIMMED_EVERY == 0:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._trim()
            self._made += 1
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            descriptor = os.open(self._path(endpoint_id, response_id), flags, 0o600)
        except FileExistsError:
            return
        except OSError as error:
            if not self._failing:
                self._failing = True
                log.warning("responses in the background are not counted: %s cannot be written", error)
            return
        try:
            os.write(descriptor, _encode(facts))
        finally:
            os.close(descriptor)

    def claim(self, endpoint_id: str, response_id: str) -> Uncounted | None:
        """Return the facts about a response to the one caller that is to count it; None to all others."""
        path = self._path(endpoint_id, response_id)
        try:
            facts = path.read_bytes()
            path.unlink()
        except OSError:
            return None
        try:
            return _decode(facts)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _path(self, endpoint_id: str, response_id: str) -> Path:
        name = f"{endpoint_id}\n{response_id}".encode("utf-8", "replace")
        return self._directory / hashlib.blake2b(name, digest_size=16).hexdigest()

    def _trim(self) -> None:
        with os.scandir(self._directory) as entries:
            files = sorted((entry.stat().st_mtime, entry.path) for entry in entries)
        oldest = time.time() - MAX_AGE_DAYS * 86400
        too_many = max(0, len(files) - MAX_FILES)
        for number, (made, path) in enumerate(files):
            if number < too_many or made < oldest:
                Path(path).unlink(missing_ok=True)
