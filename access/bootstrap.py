"""Creation of the first administrator and of the API key that the deployment configures."""

import logging
import secrets
import uuid

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction

from access.models import PERMISSIONS, ApiKey, Role, User, hash_key
from gateway.base.config import Config

log = logging.getLogger(__name__)

BOOTSTRAP = "bootstrap"
# A fixed id marks the key from the settings: a key that a user named "bootstrap" is not deleted.
BOOTSTRAP_ID = uuid.UUID("b0075742-0000-4000-8000-000000000001")


class NameTaken(Exception):
    """Error raised if the name of the first administrator belongs to a viewer."""


class WeakPassword(Exception):
    """Error raised if the configured password of the first administrator violates the password rules."""


def ensure_admin(config: Config) -> str | None:
    """Create an administrator if none exists; return the generated password, or None if none was generated.

    Raises NameTaken if the name belongs to a viewer: a setting must not promote an existing user.
    Raises WeakPassword if the configured password violates the rules of the password page.
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
    log.info("created the administrator %s", config.admin_username)
    return generated


def _check_password(config: Config) -> None:
    try:
        validate_password(config.admin_password, User(username=config.admin_username, role=Role.ADMIN))
    except ValidationError as error:
        raise WeakPassword("ROUTERDASH_ADMIN_PASSWORD cannot be used: " + " ".join(error.messages)) from None


def ensure_bootstrap_key(config: Config) -> None:
    """Store ROUTERDASH_BOOTSTRAP_API_KEY as a key of the oldest administrator.

    Delete the key of an earlier start if the setting is now empty or different. Nothing is stored if the same key
    exists already, or if there is no administrator.
    """
    hashed = hash_key(config.bootstrap_api_key) if config.bootstrap_api_key else None
    with transaction.atomic():
        ApiKey.objects.filter(pk=BOOTSTRAP_ID).exclude(key_hash=hashed or "").delete()
        for row in ApiKey.objects.filter(pk=BOOTSTRAP_ID):
            if bool(row.external) != config.bootstrap_external:
                row.external = config.bootstrap_external
                row.save(update_fields=["external"])
        if hashed is None or ApiKey.objects.filter(key_hash=hashed).exists():
            return
        owner = User.objects.filter(role=Role.ADMIN).order_by("created_at").first()
        if owner is None:
            return
        taken = ApiKey.objects.filter(created_by=owner, name=BOOTSTRAP).exists()
        name = f"{BOOTSTRAP} (ROUTERDASH_BOOTSTRAP_API_KEY)" if taken else BOOTSTRAP
        ApiKey.issue(
            owner,
            name,
            PERMISSIONS,
            key=config.bootstrap_api_key,
            pk=BOOTSTRAP_ID,
            external=config.bootstrap_external,
        )
