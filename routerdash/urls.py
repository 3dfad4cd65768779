"""Every path of the control process. /v1 is the gateway's own and never comes here."""

from typing import Any

from django.contrib import admin
from django.urls import URLPattern, include, path
from django.views.generic import RedirectView

from access import api as access_api
from access import pages as access_pages
from access import views as access_views
from access.account import account
from endpoints import api as endpoints_api
from endpoints import views as endpoints_views
from gateway.kinds import BY_PATH
from metrics import api as metrics_api
from metrics import catalogue_api, clients_api, overview_api, prometheus, queries, reference_api, usage_api
from metrics.pages import clients as clients_page
from metrics.pages import endpoint, endpoints, live, models, overview, requests
from metrics.pages import usage as usage_page
from routerdash import api_docs, playground, search, views


def _api(urls: list[tuple[str, Any, str]]) -> list[URLPattern]:
    return [path(route, view.as_view(), name=name) for route, view, name in urls]


_BESIDE_V1 = ("v1", *(path.removeprefix("/v1/") for path in BY_PATH))

urlpatterns = [
    *overview.URLS,
    *endpoints_views.URLS,
    *endpoints.URLS,
    *endpoint.URLS,
    *requests.URLS,
    path("keys", access_pages.keys, {"used": queries.keys_used}, name="keys"),
    path("keys/<uuid:key_id>/delete", access_pages.delete, name="key-delete"),
    *live.URLS,
    path("models", views.models, name="models"),
    *models.URLS,
    *playground.PAGES,
    *usage_page.URLS,
    *clients_page.URLS,
    *search.URLS,
    *api_docs.URLS,
    path("login", access_views.Login.as_view(), name="login"),
    path("logout", access_views.Logout.as_view(), name="logout"),
    path("account", account, name="account"),
    path("account/theme", access_views.theme, name="theme"),
    path("account/password", access_views.PasswordChange.as_view(), name="password-change"),
    path("i18n/", include("django.conf.urls.i18n")),
    path("admin", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
    path("health", views.health, name="health"),
    path("ready", views.ready, name="ready"),
    path("metrics", prometheus.Metrics.as_view(), name="metrics"),
    path("api/version", views.Version.as_view(), name="api-version"),
    path("api/schema/", api_docs.SchemaView.as_view(), name="api-schema"),
    path("api/dashboard/events", metrics_api.events, name="api-events"),
    *_api(metrics_api.URLS),
    *_api(overview_api.URLS),
    *_api(catalogue_api.URLS),
    *_api(playground.URLS),
    *_api(usage_api.URLS),
    *_api(clients_api.URLS),
    *_api(reference_api.URLS),
    *_api(endpoints_api.URLS),
    *_api(access_api.URLS),
    *_api(search.API_URLS),
    *(path(route, views.beside_v1, name=f"beside-{route}") for route in _BESIDE_V1),
]

handler403 = "routerdash.errors.forbidden"
handler404 = "routerdash.errors.not_found"
handler500 = "routerdash.errors.server_error"
