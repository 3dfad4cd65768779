from typing import Any

from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import path, reverse
from django.utils.translation import gettext_lazy as _
from django.views.generic import RedirectView

from access.views import Logout
from endpoints.admin_base import FactsAdmin


class AdminSite(admin.AdminSite):
    """Django's admin under RouterDash's own login, logout and password page."""

    site_header = site_title = "RouterDash"
    index_title = _("Administration")

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        """Not django-q2's pages: a schedule made there may name any function, `os.system` too. And lists of facts whose
        rows have a key of several columns: Django refuses these, for pages of rows that such lists do not have.
        """
        models: Any = [model_or_iterable] if isinstance(model_or_iterable, type) else model_or_iterable
        ours = [model for model in models if model._meta.app_label != "django_q"]
        for model in ours:
            if model._meta.is_composite_pk and issubclass(admin_class, FactsAdmin):
                self._registry[model] = admin_class(model, self)
            else:
                super().register(model, admin_class, **options)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.user.is_authenticated:  # a viewer: logging in again would not help
            return redirect("overview")
        target = request.GET.get("next") or reverse("admin:index")
        return redirect_to_login(target, reverse("login"))

    def get_urls(self) -> list[Any]:
        """Ours stand before Django's of the same name."""
        ours = [
            path("password_change/", RedirectView.as_view(pattern_name="password-change"), name="password_change"),
            path("logout/", Logout.as_view(), name="logout"),
        ]
        return [*ours, *super().get_urls()]
