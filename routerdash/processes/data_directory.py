"""The data directory at a start: created for one user, with its keys. Without Django, for the supervisor."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from gateway.base import sealing, volumes
from gateway.base.config import Config
from gateway.routing.affinity.keys import load_secret
from routerdash import secret_key

log = logging.getLogger(__name__)


class CannotStart(Exception):
    """RouterDash cannot start. The text is one line for the terminal."""


def create(config: Config) -> None:
    """Create the data directory, for this user alone, and its keys. Raises CannotStart."""
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_foreign_files(config.data_dir)
        config.journal_dir.mkdir(mode=0o700, exist_ok=True)
        os.chmod(config.data_dir, 0o700)
        secret_key.make(config.data_dir / "secret-key")
        sealing.load(config.encryption_keys, config.key_file)
        load_secret(config.affinity_key_file)
    except OSError as error:
        hint = "; mount a volume there" if config.in_container and error.errno == errno.EROFS else ""
        raise CannotStart(
            f"ROUTERDASH_DATA_DIR {config.data_dir} cannot be used: {error.strerror or error}{hint}"
        ) from None


def _refuse_foreign_files(directory: Path) -> None:
    """Raise CannotStart if the directory or a file in it belongs to another user.

    A volume that another user created, or files of a start as root, would cause later and less clear failures.
    """
    user = os.geteuid()
    if user == 0:
        return
    owners = ((path, _owner(path)) for path in _directory_and_contents(directory))
    foreign, owner = next((pair for pair in owners if pair[1] not in (user, None)), (directory, user))
    if owner != user:
        raise CannotStart(
            f"ROUTERDASH_DATA_DIR {directory} cannot be used: {foreign} belongs to user {owner}, but RouterDash runs "
            f"as user {user}. Run `chown -R {user}:{os.getegid()} {directory}` as root, or start RouterDash as "
            "the owner"
        )


def _owner(path: Path) -> int | None:
    """Return the owner (uid) of the target of a path; None if it does not exist."""
    try:
        return path.stat().st_uid
    except FileNotFoundError:
        return None


def _directory_and_contents(directory: Path) -> Iterator[Path]:
    yield directory  # first: the directory of another user cannot be listed
    yield from directory.iterdir()


def warn_if_lost(config: Config) -> None:
    """Log a warning if the data is lost with the container. The overview shows the same warning while this is so."""
    if config.in_container and volumes.is_lost_with_container(config.data_dir):
        log.warning(
            "no volume is mounted for %s: figures, users and keys are lost with this container", config.data_dir
        )
