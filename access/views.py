"""Views for login, logout and password change, and for the theme in browsers without scripts."""

import math
from functools import partial
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth import views as auth_views
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.db import transaction
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse_lazy
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST
from django.views.generic import FormView

from access import logins
from access.models import User
from access.sessions.account_page import not_durable, not_stored
from access.sessions.store import sessions

THEMES = ("system", "light", "dark")
THEME_COOKIE, THEME_SECONDS = "routerdash_theme", 365 * 86400  # shell.js reads and writes the same cookie


def _refused(view: FormView[Any], form: BaseForm, wait: float) -> HttpResponse:
    """Return the form with the minutes to wait, as a response with status 429.

    `wait` is in seconds. The response does not depend on the password: it reveals nothing about it.
    """
    context = view.get_context_data(form=form, minutes=math.ceil(wait / 60))
    return view.render_to_response(context, status=429, headers={"Retry-After": str(math.ceil(wait))})


class Login(auth_views.LoginView):
    template_name = "login.html"
    redirect_authenticated_user = True

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Check the login, or respond with 429 and the time to wait after too many failures."""
        self.counted = logins.keys(request, request.POST.get("username", ""))
        wait = logins.failures.attempt(self.counted)
        if wait <= 0:
            return super().post(request, *args, **kwargs)
        return _refused(self, self.form_class(request, initial={"username": request.POST.get("username", "")}), wait)

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        logins.failures.forget(self.counted)
        response = super().form_valid(form)
        self.request.session.save()  # save it now, to detect a failed write to disk
        if sessions.problem:
            messages.warning(self.request, not_stored())
        logins.remember(response, form.get_user().get_username())
        return response

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(invalid_reason=getattr(self.request.session, "invalid_reason", ""), **kwargs)

    def get_redirect_url(self, *args: Any) -> str:
        """Return the URL in `next`, or "" if it is the login page: that would be a redirect loop."""
        url = super().get_redirect_url(*args)
        return "" if url.partition("?")[0] == self.request.path else url


class Logout(auth_views.LogoutView):
    """Logout by POST only, as in Django: a link on another page must not log a user out."""

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = super().post(request, *args, **kwargs)
        if not getattr(request.session, "end_is_durable", True):
            messages.error(request, not_durable())
        return response


class PasswordForm(PasswordChangeForm):
    """Django's password form, with the style of our inputs and the choice to keep the user's other sessions."""

    keep_sessions = forms.BooleanField(
        label=gettext_lazy("Stay logged in on my other browsers"),
        required=False,
        help_text=gettext_lazy("If this is not checked, all other sessions end."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            if not isinstance(field, forms.BooleanField):
                field.widget.attrs["class"] = "input"


class PasswordChange(auth_views.PasswordChangeView):
    template_name = "password.html"
    form_class = PasswordForm
    success_url = reverse_lazy("overview")  # the start page for a new user

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Count a wrong old password as a failed login: an open session must not allow guessing of the password."""
        self.counted = logins.keys(request, request.user.get_username())
        wait = logins.failures.attempt(self.counted)
        if wait <= 0:
            return super().post(request, *args, **kwargs)
        return _refused(self, self.form_class(request.user), wait)

    def form_invalid(self, form: PasswordChangeForm) -> HttpResponse:
        """Drop the counted failure if the old password was right and only the new one is rejected."""
        if "old_password" not in form.errors:
            logins.failures.forget(self.counted)
        return super().form_invalid(form)

    def form_valid(self, form: PasswordChangeForm) -> HttpResponse:
        """Store the new password, and end the user's other sessions unless the form keeps them.

        Only the columns of the password are written. The file with a generated password is deleted.
        """
        logins.failures.forget(self.counted)
        user = self.request.user
        assert isinstance(user, User)
        before = user.get_session_auth_hash()
        user.set_password(form.cleaned_data["new_password1"])
        user.must_change_password = False
        with transaction.atomic():
            if form.cleaned_data["keep_sessions"]:  # registered first: it must run before the reload on commit
                after = user.get_session_auth_hash()
                transaction.on_commit(partial(sessions.restamp, str(user.pk), before, after))
            user.save(update_fields=["password", "must_change_password"])
        update_session_auth_hash(self.request, user)
        if not form.cleaned_data["keep_sessions"]:
            sessions.end_all_of(str(user.pk), excluded=getattr(self.request.session, "id", ""))
        (settings.ROUTERDASH.data_dir / "initial-password").unlink(missing_ok=True)
        return redirect(self.get_success_url())


@require_POST
def theme(request: HttpRequest) -> HttpResponse:
    """Set the theme cookie. No login is required; users that must change their password can use it too."""
    back = request.POST.get("next", "")
    response = redirect(back if url_has_allowed_host_and_scheme(back, None) else "overview")
    if (chosen := request.POST.get("theme")) in THEMES:
        response.set_cookie(THEME_COOKIE, chosen, max_age=THEME_SECONDS, samesite="Lax")
    return response
