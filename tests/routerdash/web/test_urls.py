"""All paths: complete and unique."""

from typing import Any

import pytest
from django.urls import Resolver404, URLPattern, resolve, reverse
from rest_framework.views import APIView

from access import api as access_api
from access.models import INFERENCE, MANAGE_ENDPOINTS, PERMISSIONS, READ_ENDPOINTS, READ_MODELS
from access.permissions import EFFECTS, PUBLIC, SESSION
from endpoints import api as endpoints_api
from metrics.api import clients, dashboard, endpoint, llmlb, models, requests, running, usage
from routerdash.web import playground
from routerdash.web.urls import urlpatterns
from tests.metrics.records import A

PLAIN = [url_pattern for url_pattern in urlpatterns if isinstance(url_pattern, URLPattern)]
API = [url_pattern for url_pattern in PLAIN if str(url_pattern.pattern).startswith("api/")]

CONTRACT = [
    "api/version", "api/dashboard/overview", "api/dashboard/stats", "api/dashboard/endpoints",
    "api/dashboard/request-history", "api/dashboard/events", "api/endpoints", f"api/endpoints/{A}",
    f"api/endpoints/{A}/models", f"api/endpoints/{A}/test", f"api/endpoints/{A}/sync",
    f"api/endpoints/{A}/today-stats", f"api/endpoints/{A}/daily-stats", f"api/endpoints/{A}/model-stats",
    f"api/endpoints/{A}/model-tps", "api/me/api-keys", f"api/me/api-keys/{A}", "api/requests", "api/requests/export",
    f"api/live/{A}/cancel", "api/dashboard/models",
    "api/dashboard/model-stats", "api/playground/chat",
    "api/usage", "api/usage/export", f"api/requests/{A}", "api/route", "api/live", "api/dashboard/clients",
    "api/dashboard/clients/timeline", "api/dashboard/clients/models", "api/dashboard/clients/heatmap",
    "api/dashboard/clients/192.0.2.1/detail", "api/dashboard/clients/2001:db8::/64/api-keys",
    "api/dashboard/settings/ip_alert_threshold", "api/dashboard/stats/tokens", "api/dashboard/stats/tokens/daily",
    "api/dashboard/stats/tokens/monthly", "api/search",
]  # fmt: skip


@pytest.mark.parametrize("path", CONTRACT)
def test_the_paths_of_llmlb_exist(path: str) -> None:
    assert resolve(f"/{path}")


@pytest.mark.parametrize("path", [path for path in CONTRACT if path != "api/schema/"])
def test_paths_of_the_api_have_no_trailing_slash(path: str) -> None:
    with pytest.raises(Resolver404):
        resolve(f"/{path}/")


def test_every_path_has_a_unique_name() -> None:
    names = [url_pattern.name for url_pattern in PLAIN if str(url_pattern.pattern) != "admin"]
    assert None not in names
    assert len(names) == len(set(names))


def test_every_url_list_of_the_api_is_included() -> None:
    modules: tuple[Any, ...] = (
        access_api, models, clients, dashboard, endpoint, endpoints_api, llmlb, playground, requests, running, usage,
    )  # fmt: skip
    listed = {name for module in modules for *_, name in module.URLS}
    assert listed <= {url_pattern.name for url_pattern in API}


def test_each_permission_that_a_path_needs_has_its_effect_named_and_no_other() -> None:
    needed: set[str] = set()
    for pattern in PLAIN:
        view = getattr(pattern.callback, "view_class", None)
        if view is not None and issubclass(view, APIView):
            needed.add(getattr(view, "permission_needed", READ_ENDPOINTS))
    by_control = needed - {PUBLIC, SESSION} | {MANAGE_ENDPOINTS}
    assert by_control | {INFERENCE, READ_MODELS} == set(EFFECTS)
    assert set(EFFECTS) < set(PERMISSIONS)


def test_paths_of_the_gateway_are_not_in_control() -> None:
    with pytest.raises(Resolver404):
        resolve("/v1/models")


def test_pages_have_names() -> None:
    paths = [reverse(name) for name in ("overview", "login", "logout", "password-change", "health", "ready", "metrics")]
    assert paths == ["/", "/login", "/logout", "/account/password", "/health", "/ready", "/metrics"]
    paths = [reverse(name) for name in ("models", "live", "playground")]
    assert paths == ["/models", "/live", "/playground"]
    assert reverse("model", args=["meta/llama?#"]) == "/models/meta/llama%3F%23"
    assert reverse("endpoint", args=[A]) == f"/endpoints/{A}"
    assert reverse("request", args=[A]) == f"/requests/{A}"


def test_admin_without_a_slash_redirects_to_it(client: Any) -> None:
    assert client.get("/admin")["Location"] == "/admin/"


@pytest.mark.parametrize("old", ["api/nodes", "api/tasks", "api/models/available", "api/api-keys"])
def test_removed_paths_stay_removed(old: str) -> None:
    with pytest.raises(Resolver404):
        resolve(f"/{old}")
