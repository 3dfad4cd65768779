from typing import Any, cast

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import path, reverse
from django.utils.translation import gettext_lazy as _
from django.views.generic import RedirectView
from django.views.i18n import JavaScriptCatalog

from access.views import Logout
from endpoints.admin_base import FactsAdmin


class ScriptTexts(JavaScriptCatalog):
    """Catalogue of the admin's scripts: Django's translations, then those in locale/, which replace them."""

    def get_paths(self, packages: Any) -> list[Any]:
        return [*super().get_paths(packages), *settings.LOCALE_PATHS]


class AdminSite(admin.AdminSite):
    """Django's admin under RouterDash's own login, logout and password page."""

    site_header = site_title = "RouterDash"
    index_title = _("Administration")

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        """Register models, except those of django-q2.

        A schedule created in the pages of django-q2 may call any function, even `os.system`.

        Read-only lists (FactsAdmin) of models with a composite primary key bypass Django's check. Django rejects such
        models because of the pages of single rows, which these lists do not have.
        """
        models: Any = [model_or_iterable] if isinstance(model_or_iterable, type) else model_or_iterable
        allowed = [model for model in models if model._meta.app_label != "django_q"]
        for model in allowed:
            if model._meta.is_composite_pk and issubclass(admin_class, FactsAdmin):
                self._registry[model] = admin_class(model, self)
            else:
                super().register(model, admin_class, **options)

    def i18n_javascript(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return cast(HttpResponse, ScriptTexts.as_view(packages=["django.contrib.admin"])(request))

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.user.is_authenticated:  # a viewer: another login would not help
            return redirect("overview")
        target = request.GET.get("next") or reverse("admin:index")
        return redirect_to_login(target, reverse("login"))

    def get_urls(self) -> list[Any]:
        """Return the URLs. Those of RouterDash precede Django's of the same name."""
        own = [
            path("password_change/", RedirectView.as_view(pattern_name="password-change"), name="password_change"),
            path("logout/", Logout.as_view(), name="logout"),
        ]
        return [*own, *super().get_urls()]
