"""Permissions of callers of the JSON API.

A view names its permission in `permission_needed`; the defaults are the permissions for endpoints.
"""

from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from access.directory import KeyEntry
from access.models import (
    INFERENCE,
    MANAGE_ENDPOINTS,
    MANAGE_KEYS,
    MANAGE_USERS,
    READ_ENDPOINTS,
    READ_METRICS,
    READ_MODELS,
    READ_REGISTRY,
    User,
)

PUBLIC = "public"
SESSION = "session"  # a session of any user, never an API key

# What the permissions of an API key allow. The others in PERMISSIONS come from llmlb and allow nothing.
EFFECTS = {
    INFERENCE: _("Send inference requests (/v1)"),
    READ_MODELS: _("List models (/v1/models)"),
    READ_ENDPOINTS: _("Read endpoints, requests and figures (/api)"),
    READ_METRICS: _("Read Prometheus metrics (/metrics)"),
    READ_REGISTRY: _("List models in llmlb's form (/api/models)"),
    MANAGE_ENDPOINTS: _("Change endpoints, model names and prices, and cancel requests (/api)"),
    MANAGE_KEYS: _("Read and change limits and budgets of API keys and of everyone (/api/limits)"),
    MANAGE_USERS: _("Read and change limits and budgets of users (/api/limits)"),
}


class HasPermission(BasePermission):
    """Check of a key's permissions or a session's role.

    Sessions of administrators may do everything. Those of viewers may read, and use views that require a session.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        reads = request.method in SAFE_METHODS
        default = READ_ENDPOINTS if reads else MANAGE_ENDPOINTS
        needed = getattr(view, "permission_needed", default)
        if needed == PUBLIC:
            return True
        if not isinstance(request.user, User):
            return False
        if isinstance(request.auth, KeyEntry):
            return _key_may(request.auth, needed)
        return _user_may(request.user, needed, reads=reads)


def _key_may(key: KeyEntry, needed: str) -> bool:
    if needed == SESSION:
        raise PermissionDenied("This requires a login. An API key is not sufficient.")
    if needed not in key.permissions:
        raise PermissionDenied(f"This API key lacks the permission {needed}.")
    return True


def _user_may(user: User, needed: str, *, reads: bool) -> bool:
    if user.must_change_password:
        raise PermissionDenied("password_change_required")
    if not (user.is_admin or reads or needed == SESSION):
        raise PermissionDenied("Administrators only.")
    return True
