"""Models of the adopted tables of users and API keys."""

import hashlib
import secrets
import string
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.hashers import make_password
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from access.limits import tables as _limit_tables  # noqa: F401  # Django finds the models of an app here
from endpoints.fields import ExpiryField, IsoDateTimeField, LineField, TextUUIDField

MAX_PASSWORD_BYTES = 72  # bcrypt ignores the rest

DISABLED_BY_ADMIN = _("An administrator disabled this API key; only an administrator can enable it again.")

INFERENCE = "openai.inference"
READ_MODELS = "openai.models.read"
READ_ENDPOINTS = "endpoints.read"
MANAGE_ENDPOINTS = "endpoints.manage"
READ_METRICS = "metrics.read"
READ_REGISTRY = "registry.read"
MANAGE_KEYS = "api_keys.manage"
MANAGE_USERS = "users.manage"

PERMISSIONS = (
    INFERENCE,
    READ_MODELS,
    READ_ENDPOINTS,
    MANAGE_ENDPOINTS,
    MANAGE_KEYS,
    MANAGE_USERS,
    "invitations.manage",
    "models.manage",
    READ_REGISTRY,
    "logs.read",
    READ_METRICS,
)
VIEW_BODIES = "metrics.view_bodies"  # a permission of users only: no key has it
VIEWER_PERMISSIONS = (INFERENCE, READ_MODELS)
READING = (*VIEWER_PERMISSIONS, READ_ENDPOINTS, READ_METRICS)  # upper bound of the permissions of a viewer's key


class Role(models.TextChoices):
    ADMIN = "admin", _("Administrator")
    VIEWER = "viewer", _("Viewer")


DELETED = "(deleted user)"  # name of the user to which log entries of deleted users are assigned


def too_long(password: str) -> str:
    """Return the error message for a password that bcrypt would truncate."""
    return gettext(
        "A password may have at most 72 bytes; this one has %(bytes)d. That is 72 unaccented "
        "letters or 24 Japanese characters."
    ) % {"bytes": len(password.encode())}


class PasswordHashField(models.TextField):  # type: ignore[type-arg]
    """Field for a bare bcrypt hash (`$2b$12$…`) in the database, with Django's algorithm prefix in Python."""

    _prefix = "bcrypt$"

    def from_db_value(self, value: str | None, expression: object, connection: object) -> str | None:
        return self._prefix + value if value is not None and value.startswith("$2") else value

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        return value.removeprefix(self._prefix) if isinstance(value, str) else value


class UserManager(BaseUserManager["User"]):
    def create_user(self, username: str, password: str, role: str = Role.VIEWER, **fields: Any) -> "User":
        user = self.model(username=username, role=role, **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, username: str, password: str, **fields: Any) -> "User":
        return self.create_user(username, password, Role.ADMIN, **fields)

    def deleted_user(self) -> "User":
        """Return the user to which log entries of deleted users are assigned.

        It is created at the first deletion of a user with log entries, and has an unusable password.
        """
        return self.get_or_create(username=DELETED, defaults={"password": make_password(None)})[0]


class User(AbstractBaseUser):
    """User of RouterDash.

    Administrators are `is_staff` and `is_superuser`. Viewers have read access without the administrators' pages; they
    can view bodies of requests only if an administrator permits it.
    """

    id = TextUUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    username = LineField(_("username"), unique=True)
    password = PasswordHashField(_("password"), db_column="password_hash")
    role = LineField(_("role"), choices=Role.choices, default=Role.VIEWER)
    created_at = IsoDateTimeField(_("created"), default=timezone.now)
    last_login = IsoDateTimeField(_("last login"), null=True, blank=True)
    must_change_password = models.BooleanField(_("must change password"), default=False, db_default=False)
    # llmlb has no such column. Administrators may always view bodies.
    view_bodies = models.BooleanField(_("may see bodies of requests"), null=True)

    USERNAME_FIELD = "username"
    REQUIRED_FIELDS: ClassVar = []
    is_active = True

    objects: ClassVar[UserManager] = UserManager()

    class Meta:
        db_table = "users"
        ordering: ClassVar = ["username"]
        verbose_name = _("user")
        verbose_name_plural = _("users")
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(role__in=["admin", "viewer"]), name="users_role")
        ]

    def __str__(self) -> str:
        return str(self.username)

    def set_password(self, raw_password: str | None) -> None:
        """Set the password. Raises ValidationError for more than 72 bytes, because bcrypt would ignore the rest."""
        if raw_password is not None and len(raw_password.encode()) > MAX_PASSWORD_BYTES:
            raise ValidationError(too_long(raw_password), code="password_too_long")
        super().set_password(raw_password)

    @property
    def is_admin(self) -> bool:
        return bool(self.role == Role.ADMIN)

    # The admin site reads these attributes.
    is_staff = is_superuser = is_admin

    def has_perm(self, perm: str, obj: object = None) -> bool:
        return self.is_admin or (perm == VIEW_BODIES and bool(self.view_bodies))

    def has_perms(self, perms: Iterable[str], obj: object = None) -> bool:
        return all(self.has_perm(perm, obj) for perm in perms)

    def has_module_perms(self, app_label: str) -> bool:
        return self.is_admin


def hash_key(key: str) -> str:
    """Return the SHA-256 of the key in lower-case hexadecimal.

    A fast hash is sufficient for 190 random bits, and every request computes it.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    alphabet = string.ascii_letters + string.digits
    return "sk_" + "".join(secrets.choice(alphabet) for _unused in range(32))


class ApiKey(models.Model):
    """API key of a script or client. Only its hash is stored; the key itself is shown once, at its creation."""

    id = TextUUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    key_hash = LineField(unique=True, editable=False)
    name = LineField(_("name"))
    created_by = models.ForeignKey(
        User, models.CASCADE, db_column="created_by", related_name="api_keys", verbose_name=_("owner")
    )
    created_at = IsoDateTimeField(_("created"), default=timezone.now, editable=False)
    expires_at = ExpiryField(_("expires"), null=True, blank=True)
    scopes = models.TextField(null=True, editable=False)  # noqa: DJ001  # legacy column of llmlb; never read
    key_prefix = LineField(_("key prefix"), null=True, editable=False)
    permissions = models.JSONField(_("permissions"), null=True, blank=True, default=list)
    # llmlb has no such column: null means no.
    external = models.BooleanField(_("may use external endpoints"), null=True)
    enabled = models.BooleanField(_("enabled"), null=True)  # null means yes
    # Only an administrator enables it again; null means no.
    disabled_by_admin = models.BooleanField(null=True, editable=False)
    rules = models.JSONField(_("restrictions"), null=True, blank=True)  # see access.keys.rules
    bulk = models.BooleanField(_("bulk requests"), null=True)  # null means no
    # The key that this one replaced, and when that one expires.
    replaced_hash = LineField(null=True, editable=False)
    replaced_until = ExpiryField(_("replaced key expires"), null=True, editable=False)

    class Meta:
        db_table = "api_keys"
        ordering: ClassVar = ["-created_at"]
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["created_by", "name"],
                name="api_keys_owner_name",
                violation_error_message=_("This user already has an API key with this name."),
            )
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["replaced_hash"],
                condition=models.Q(replaced_hash__isnull=False),
                name="api_keys_replaced",
            ),
            models.Index(fields=["created_at", "id"], name="api_keys_created"),  # the order of lists
        ]

    def __str__(self) -> str:
        return str(self.name)

    @classmethod
    def issue(
        cls,
        owner: User,
        name: str,
        permissions: Iterable[str],
        expires_at: datetime | None = None,
        key: str | None = None,
        **fields: Any,
    ) -> tuple["ApiKey", str]:
        """Create a key; return its row and the key itself, which cannot be recovered later."""
        key = key or new_key()
        row = cls(created_by=owner, name=name, permissions=sorted(permissions), expires_at=expires_at, **fields)
        row.set_key(key)
        row.save(force_insert=True)
        return row, key

    def set_key(self, key: str) -> None:
        self.key_hash = hash_key(key)
        self.key_prefix = key[:10]

    def set_enabled(self, by: User, *, enabled: bool) -> tuple[str, ...]:
        """Enable or disable the key for a user; return the columns to save. See `may_enable`."""
        if enabled:
            self.disabled_by_admin = None
        elif by.is_admin and by.pk != self.created_by_id:
            self.disabled_by_admin = True
        self.enabled = enabled
        return "enabled", "disabled_by_admin"

    def may_enable(self, by: User) -> bool:
        """Return False if only an administrator may enable the key again, because one has disabled it."""
        return by.is_admin or not self.disabled_by_admin

    def rotate(self, overlap: timedelta) -> str:
        """Give the key another value, and return it, which cannot be recovered later.

        The old value stays valid for the time of the overlap. Both are one key: they have the same id, permissions and
        figures. An earlier value that was still valid ends.
        """
        key = new_key()
        self.replaced_hash, self.replaced_until = self.key_hash, timezone.now() + overlap
        self.set_key(key)
        self.save(update_fields=["key_hash", "key_prefix", "replaced_hash", "replaced_until"])
        return key

    @property
    def granted(self) -> tuple[str, ...]:
        return granted_permissions(self.permissions)


def granted_permissions(column: object) -> tuple[str, ...]:
    """Return the permissions in the column of a key; empty if it contains no list."""
    names = column if isinstance(column, list) else []
    return tuple(name for name in names if isinstance(name, str))
