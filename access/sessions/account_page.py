"""Account page: lists the user's sessions and ends them; administrators can end those of other users too.

The page reads memory alone, so it works while the database is unavailable.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache

from access.directory import access
from access.models import User
from access.sessions.browsers import browser_of
from access.sessions.engine import SessionStore
from access.sessions.file import Session
from access.sessions.store import sessions

log = logging.getLogger(__name__)

SHORT_ID = 16  # digits of a session's id that identify it on the page
MAX_USERS = 200  # users whose sessions an administrator sees


@dataclass(frozen=True, slots=True)
class ShownSession:
    """One session, as the page shows it."""

    id: str
    browser: str
    address: str
    created: datetime
    seen: datetime
    current: bool


@dataclass(frozen=True, slots=True)
class UserSessions:
    """Sessions of another user: their number and the one used last."""

    user: User
    count: int
    last: ShownSession


@never_cache
@login_required
def account(request: HttpRequest) -> HttpResponse:
    user, session = request.user, request.session
    assert isinstance(user, User)
    assert isinstance(session, SessionStore)
    if request.method == "POST":
        return _end(request, user, session.id)
    own = [_shown(one, session.id) for one in sessions.of(str(user.pk))]
    users = _other_users(user) if user.is_admin else []
    context = {
        "own": own,
        "others": any(not one.current for one in own),
        "users": users[:MAX_USERS],
        "more_users": max(0, len(users) - MAX_USERS),
        "problem": sessions.problem,
    }
    return render(request, "account.html", context)


def _shown(session: Session, current: str) -> ShownSession:
    return ShownSession(
        id=session.id[:SHORT_ID],
        browser=browser_of(session.agent),
        address=session.address,
        created=datetime.fromtimestamp(session.created, UTC),
        seen=datetime.fromtimestamp(session.seen, UTC),
        current=session.id == current,
    )


def _other_users(user: User) -> list[UserSessions]:
    """Return the other users that are logged in, the one with the latest use first."""
    by_user: dict[str, list[Session]] = {}
    for session in sorted(sessions.all(), key=lambda one: -one.seen):
        by_user.setdefault(session.user_id, []).append(session)
    users = access.users()
    return [
        UserSessions(users[user_id], len(rows), _shown(rows[0], ""))
        for user_id, rows in by_user.items()
        if user_id in users and user_id != str(user.pk)
    ]


def _end(request: HttpRequest, user: User, current: str) -> HttpResponse:
    """End the sessions that the form names: one of the user's, all the user's others, or all of another user."""
    own, user_id = str(user.pk), request.POST.get("user", "")
    if user_id and user_id != own:
        if not user.is_admin:
            return render(request, "error.html", {"status": 403}, status=403)
        end_of_user(request, user_id)
    elif request.POST.get("end") == "others":
        _show_result(request, *sessions.end_all_of(own, excluded=current))
    else:
        short_id = request.POST.get("end", "")
        ids = [one.id for one in sessions.of(own) if len(short_id) == SHORT_ID and one.id.startswith(short_id)]
        _show_result(request, len(ids), sessions.end(ids))
    return redirect("account")


def end_of_user(request: HttpRequest, user_id: str) -> int:
    """End all sessions of a user for an administrator, show a message about it, and return their number."""
    count, durable = sessions.end_all_of(user_id)
    user = access.user(user_id)
    log.info("%s ended %d sessions of %s", request.user.get_username(), count, user or user_id)
    _show_result(request, count, durable)
    return count


def _show_result(request: HttpRequest, count: int, durable: bool) -> None:
    if not durable:
        messages.error(request, not_durable())
    elif count:
        text = ngettext("%(count)d session has ended.", "%(count)d sessions have ended.", count)
        messages.success(request, text % {"count": count})
    else:
        messages.warning(request, _("This session no longer exists."))


def not_durable() -> str:
    return _(
        "The session ended, but the change could not be written to disk. A restart before it "
        "is written can restore the session."
    )


def not_stored() -> str:
    """Return the warning for a login while sessions cannot be written to disk."""
    text = _("Sessions cannot be written to disk (%(why)s). A login made now is lost at the next restart.")
    return text % {"why": sessions.problem}
