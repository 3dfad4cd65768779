"""The first administrator, and the key that a deployment brings along."""

import logging
import secrets
import uuid

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction

from access.models import PERMISSIONS, ApiKey, Role, User, hash_key
from gateway.config import Config

log = logging.getLogger(__name__)

BOOTSTRAP = "bootstrap"
BOOTSTRAP_ID = uuid.UUID("b0075742-0000-4000-8000-000000000001")  # ours; a key that others called so stays


class NameTaken(Exception):
    """The first administrator cannot be made under this name."""


class WeakPassword(Exception):
    """The first administrator cannot be made with this password."""


def ensure_admin(config: Config) -> str | None:
    """Make an administrator if there is none; the generated password, or None if none had to be generated.

    Raises NameTaken: a viewer does not become an administrator by being called so. Raises WeakPassword where the
    settings give a password that the page would refuse, too.
    """
    if User.objects.filter(role=Role.ADMIN).exists():
        return None
    if User.objects.filter(username=config.admin_username).exists():
        raise NameTaken(
            f"there is no administrator, and the user {config.admin_username!r} is a viewer: "
            "set ROUTERDASH_ADMIN_USERNAME to another name"
        )
    if config.admin_password:
        _check_password(config)
    generated = None if config.admin_password else secrets.token_urlsafe(12)
    User.objects.create_superuser(
        config.admin_username, config.admin_password or str(generated), must_change_password=generated is not None
    )
    log.info("made the administrator %s", config.admin_username)
    return generated


def _check_password(config: Config) -> None:
    try:
        validate_password(config.admin_password, User(username=config.admin_username, role=Role.ADMIN))
    except ValidationError as error:
        raise WeakPassword("ROUTERDASH_ADMIN_PASSWORD cannot be used: " + " ".join(error.messages)) from None


def ensure_bootstrap_key(config: Config) -> None:
    """While ROUTERDASH_BOOTSTRAP_API_KEY is set it is a key of the oldest administrator; otherwise there is none."""
    wanted = hash_key(config.bootstrap_api_key) if config.bootstrap_api_key else None
    with transaction.atomic():
        ApiKey.objects.filter(pk=BOOTSTRAP_ID).exclude(key_hash=wanted or "").delete()
        if wanted is None or ApiKey.objects.filter(key_hash=wanted).exists():
            return
        owner = User.objects.filter(role=Role.ADMIN).order_by("created_at").first()
        if owner is None:
            return
        taken = ApiKey.objects.filter(created_by=owner, name=BOOTSTRAP).exists()
        name = f"{BOOTSTRAP} (ROUTERDASH_BOOTSTRAP_API_KEY)" if taken else BOOTSTRAP
        ApiKey.issue(owner, name, PERMISSIONS, key=config.bootstrap_api_key, pk=BOOTSTRAP_ID)
