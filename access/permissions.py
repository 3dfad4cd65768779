"""What a caller may do. A view says what it needs in `permission_needed`; the default is the endpoints' permissions."""

from typing import Any

from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from access.directory import KeyEntry
from access.models import MANAGE_ENDPOINTS, READ_ENDPOINTS, User

ANYBODY = "anybody"
SESSION = "session"  # any person's session; a key never


class HasPermission(BasePermission):
    """Keys by their permissions; sessions by role: administrators everything, viewers what reads."""

    def has_permission(self, request: Request, view: Any) -> bool:
        reads = request.method in SAFE_METHODS
        default = READ_ENDPOINTS if reads else MANAGE_ENDPOINTS
        needed = getattr(view, "permission_needed", default)
        if needed == ANYBODY:
            return True
        if not isinstance(request.user, User):
            return False
        if isinstance(request.auth, KeyEntry):
            return _key_may(request.auth, needed)
        return _person_may(request.user, needed, reads=reads)


def _key_may(key: KeyEntry, needed: str) -> bool:
    if needed == SESSION:
        raise PermissionDenied("This needs a login; an API key cannot do it.")
    if needed not in key.permissions:
        raise PermissionDenied(f"This API key lacks the permission {needed}.")
    return True


def _person_may(user: User, needed: str, *, reads: bool) -> bool:
    if user.must_change_password:
        raise PermissionDenied("password_change_required")
    if not (user.is_admin or reads or needed == SESSION):
        raise PermissionDenied("Administrators only.")
    return True
