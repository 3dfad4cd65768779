"""The first administrator, and the key that a deployment brings along."""

import logging
import secrets

from django.db import IntegrityError, transaction

from access.models import PERMISSIONS, ApiKey, Role, User, hash_key
from gateway.config import Config

log = logging.getLogger(__name__)

BOOTSTRAP = "bootstrap"


class NameTaken(Exception):
    """The first administrator cannot be made under this name."""


def ensure_admin(config: Config) -> str | None:
    """Make an administrator if there is none; the generated password, or None if none had to be generated.

    Raises NameTaken: a viewer does not become an administrator by being called so.
    """
    if User.objects.filter(role=Role.ADMIN).exists():
        return None
    if User.objects.filter(username=config.admin_username).exists():
        raise NameTaken(
            f"there is no administrator, and the user {config.admin_username!r} is a viewer: "
            "set ROUTERDASH_ADMIN_USERNAME to another name"
        )
    generated = None if config.admin_password else secrets.token_urlsafe(12)
    User.objects.create_superuser(
        config.admin_username, config.admin_password or str(generated), must_change_password=generated is not None
    )
    log.info("made the administrator %s", config.admin_username)
    return generated


def ensure_bootstrap_key(config: Config) -> None:
    """While ROUTERDASH_BOOTSTRAP_API_KEY is set it is a key of the oldest administrator; otherwise there is none."""
    wanted = hash_key(config.bootstrap_api_key) if config.bootstrap_api_key else None
    with transaction.atomic():
        for row in ApiKey.objects.filter(name=BOOTSTRAP):
            if row.key_hash != wanted:
                row.delete()
        if wanted is None or ApiKey.objects.filter(key_hash=wanted).exists():
            return
        owner = User.objects.filter(role=Role.ADMIN).order_by("created_at").first()
        if owner is None:
            return
        try:
            ApiKey.issue(owner, BOOTSTRAP, PERMISSIONS, key=config.bootstrap_api_key)
        except IntegrityError as error:
            log.error("the bootstrap key could not be made: %s", error)
