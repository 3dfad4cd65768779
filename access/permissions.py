"""Permissions of callers of the JSON API.

A view names its permission in `permission_needed`; the defaults are the permissions for endpoints.
"""

from typing import Any

from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from access.directory import KeyEntry
from access.models import MANAGE_ENDPOINTS, READ_ENDPOINTS, User

PUBLIC = "public"
SESSION = "session"  # a session of any user, never an API key


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
