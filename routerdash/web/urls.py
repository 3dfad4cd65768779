"""URLs of the control process. The gateway serves /v1 itself and never forwards it."""

from itertools import chain

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from access import api as access_api
from access import pages as access_pages
from access import views as access_views
from access.limits import api as limits_api
from access.limits import pages as limits_pages
from access.limits import use_api as limits_use_api
from access.limits.reading import read_limits
from access.sessions.account_page import account
from endpoints import api as endpoints_api
from endpoints import views as endpoints_views
from endpoints.slices import api_urls, slices
from gateway.base.request_kinds import BY_PATH
from gateway.health_paths import LIVENESS, READINESS
from gateway.ipc.counters.limit_use import LimitUse
from metrics.api import clients, conversations, dashboard, events, llmlb, running, usage
from metrics.api import endpoint as api_endpoint
from metrics.api import models as api_models
from metrics.api import requests as api_requests
from metrics.memory.runtime import runtime
from metrics.pages import clients as clients_page
from metrics.pages import conversations as conversations_page
from metrics.pages import endpoint, endpoints, live, models, overview, request, requests
from metrics.pages import usage as usage_page
from metrics.queries.api_keys import keys_used
from routerdash.web import api_docs, playground, search, styles, views


def _limit_use(level: str, subject_id: str) -> LimitUse:
    return runtime.installation.limit_use(level, subject_id)


_USE_OF_LIMITS = {"use": _limit_use}
_BESIDE_V1 = ("v1", *(path.removeprefix("/v1/") for path in BY_PATH))

urlpatterns = [
    *overview.URLS,
    *endpoints_views.URLS,
    *endpoints.URLS,
    *endpoint.URLS,
    *requests.URLS,
    *request.URLS,
    *conversations_page.URLS,
    path("keys", access_pages.keys, {"used": keys_used}, name="keys"),
    path("keys/clients", access_pages.connect, name="connect"),
    path("keys/<uuid:key_id>", access_pages.key, _USE_OF_LIMITS, name="key"),
    path("keys/<uuid:key_id>/delete", access_pages.delete, name="key-delete"),
    path("keys/<uuid:key_id>/rotate", access_pages.rotation, name="key-rotate"),
    path("keys/<uuid:key_id>/enabled", access_pages.enabled, name="key-enabled"),
    path("limits", limits_pages.limits, _USE_OF_LIMITS, name="limits"),
    path("limits/everyone", limits_pages.of_everyone, name="limits-everyone"),
    path("limits/keys", limits_pages.of_keys, name="limits-keys"),
    path("limits/key/<uuid:key_id>", limits_pages.of_key, name="limits-key"),
    path("limits/user/<uuid:user_id>", limits_pages.of_user, name="limits-user"),
    *live.URLS,
    path("models", views.models, name="models"),
    *models.URLS,
    *playground.PAGES,
    *usage_page.URLS,
    *clients_page.URLS,
    *search.URLS,
    *api_docs.URLS,
    *styles.URLS,
    path("login", access_views.Login.as_view(), name="login"),
    path("logout", access_views.Logout.as_view(), name="logout"),
    path("account", account, name="account"),
    path("account/theme", access_views.theme, name="theme"),
    path("account/password", access_views.PasswordChange.as_view(), name="password-change"),
    path("i18n/", include("django.conf.urls.i18n")),
    path("admin", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
    *(path(route.removeprefix("/"), views.health, name=route.removeprefix("/")) for route in LIVENESS),
    *(path(route.removeprefix("/"), views.ready, name=route.removeprefix("/")) for route in READINESS),
    path("metrics", views.PrometheusMetrics.as_view(), name="metrics"),
    path("api/metrics/cloud", RedirectView.as_view(url="/metrics", permanent=True), name="cloud-metrics"),
    path("api/version", views.Version.as_view(), name="api-version"),
    path("api/dashboard/events", events.events, name="api-events"),
    *api_urls(dashboard.URLS),
    *api_urls(api_requests.URLS),
    *api_urls(conversations.URLS),
    *api_urls(running.URLS),
    path("api/route", running.RoutePreview.as_view(), {"limits_of": read_limits}, name="api-route"),
    *api_urls(api_endpoint.URLS),
    *api_urls(api_models.URLS),
    *api_urls(playground.URLS),
    *api_urls(usage.URLS),
    *api_urls(clients.URLS),
    *api_urls(llmlb.URLS),
    *api_urls(endpoints_api.URLS),
    *api_urls(access_api.URLS),
    *api_urls(limits_api.URLS),
    *(path(route, view.as_view(), _USE_OF_LIMITS, name=name) for route, view, name in limits_use_api.URLS),
    *api_urls(search.API_URLS),
    *chain.from_iterable(one.urls() for one in slices()),
    *(path(route, views.beside_v1, name=f"beside-{route}") for route in _BESIDE_V1),
]

handler403 = "routerdash.web.errors.forbidden"
handler404 = "routerdash.web.errors.not_found"
handler500 = "routerdash.web.errors.server_error"
