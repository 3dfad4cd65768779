"""The account page: where one is logged in, and the ends of sessions, one's own and, for administrators, of others.

From memory alone: it works while the database is away.
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

from access.agents import browser_of
from access.directory import access
from access.models import User
from access.session_engine import SessionStore
from access.session_file import Session
from access.sessions import sessions

log = logging.getLogger(__name__)

SHORT_ID = 16  # digits of a session's id that a page needs to name it
MOST_PEOPLE = 200  # of whom an administrator is shown the sessions


@dataclass(frozen=True, slots=True)
class Shown:
    """A session as the page has it."""

    id: str
    browser: str
    address: str
    created: datetime
    seen: datetime
    current: bool


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody else's sessions."""

    user: User
    count: int
    last: Shown


@never_cache
@login_required
def account(request: HttpRequest) -> HttpResponse:
    user, session = request.user, request.session
    assert isinstance(user, User)
    assert isinstance(session, SessionStore)
    if request.method == "POST":
        return _end(request, user, session.id)
    own = [_shown(it, session.id) for it in sessions.of(str(user.pk))]
    people = _people(user) if user.is_admin else []
    context = {
        "own": own,
        "others": any(not it.current for it in own),
        "people": people[:MOST_PEOPLE],
        "more_people": max(0, len(people) - MOST_PEOPLE),
        "problem": sessions.problem,
    }
    return render(request, "account.html", context)


def _shown(session: Session, current: str) -> Shown:
    return Shown(
        id=session.id[:SHORT_ID],
        browser=browser_of(session.agent),
        address=session.address,
        created=datetime.fromtimestamp(session.created, UTC),
        seen=datetime.fromtimestamp(session.seen, UTC),
        current=session.id == current,
    )


def _people(user: User) -> list[Person]:
    """Others who are logged in, whoever was here last first."""
    found: dict[str, list[Session]] = {}
    for session in sorted(sessions.all(), key=lambda it: -it.seen):
        found.setdefault(session.user_id, []).append(session)
    users = access.users()
    return [
        Person(users[user_id], len(rows), _shown(rows[0], ""))
        for user_id, rows in found.items()
        if user_id in users and user_id != str(user.pk)
    ]


def _end(request: HttpRequest, user: User, current: str) -> HttpResponse:
    """What the form says: one of one's own sessions, all others of them, or all of another user."""
    own, whose = str(user.pk), request.POST.get("user", "")
    if whose and whose != own:
        if not user.is_admin:
            return render(request, "error.html", {"status": 403}, status=403)
        end_of_user(request, whose)
    elif request.POST.get("end") == "others":
        _tell(request, *sessions.end_all_of(own, but=current))
    else:
        wanted = request.POST.get("end", "")
        found = [it.id for it in sessions.of(own) if len(wanted) == SHORT_ID and it.id.startswith(wanted)]
        _tell(request, len(found), sessions.end(found))
    return redirect("account")


def end_of_user(request: HttpRequest, user_id: str) -> int:
    """All sessions of a user, by an administrator, who is told; how many there were."""
    count, durable = sessions.end_all_of(user_id)
    found = access.user(user_id)
    log.info("%s ended %d sessions of %s", request.user.get_username(), count, found or user_id)
    _tell(request, count, durable)
    return count


def _tell(request: HttpRequest, count: int, durable: bool) -> None:
    if not durable:
        messages.error(request, not_durable())
    elif count:
        text = ngettext("%(count)d session has ended.", "%(count)d sessions have ended.", count)
        messages.success(request, text % {"count": count})
    else:
        messages.warning(request, _("There was no such session any more."))


def not_durable() -> str:
    return _("Ended, but the disk does not take it: a restart before it does could bring the session back.")


def not_stored() -> str:
    """What somebody is told who has logged in meanwhile."""
    text = _("Sessions cannot be written to disk (%(why)s). Whoever logs in now has to do it again after a restart.")
    return text % {"why": sessions.problem}
