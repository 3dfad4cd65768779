"""A generated password opens nothing but the page that changes it. The API says so by itself (permissions)."""

from collections.abc import Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect

_OPEN = ("/login", "/logout", "/account/", "/static/", "/api/", "/metrics", "/health", "/ready", "/i18n/")


class ViewHook:
    """A middleware that only looks in around the view: it needs no thread of its own in an async stack."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)


class PasswordChangeRequired(ViewHook):
    """Sends a user who must change the password to where that is done."""

    def process_view(self, request: HttpRequest, *args: object) -> HttpResponseBase | None:
        if request.path.startswith(_OPEN) or not request.user.is_authenticated:
            return None
        if request.user.must_change_password:
            return redirect("password-change")
        return None
