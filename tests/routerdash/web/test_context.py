"""Template context of all pages."""

from dataclasses import replace

import pytest
from django.conf import settings
from django.test import RequestFactory

from routerdash import __version__
from routerdash.web.context import site


@pytest.mark.parametrize(
    ("cookie", "theme"), [(None, "system"), ("light", "light"), ("dark", "dark"), ('"><script>', "system")]
)
def test_the_theme_is_the_selected_one(cookie: str | None, theme: str) -> None:
    request = RequestFactory().get("/")
    if cookie is not None:
        request.COOKIES["routerdash_theme"] = cookie
    assert site(request)["theme"] == theme


def test_the_release_and_the_zone_are_in_the_context() -> None:
    context = site(RequestFactory().get("/"))
    assert (context["version"], context["time_zone"]) == (__version__, "UTC")


def test_the_url_is_that_of_the_request() -> None:
    assert site(RequestFactory().get("/", headers={"host": "gpu-box:8080"}))["public_url"] == "http://gpu-box:8080"
    assert site(RequestFactory().get("/", secure=True))["public_url"] == "https://testserver"


def test_a_configured_url_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "ROUTERDASH", replace(settings.ROUTERDASH, public_url="https://llm.example.com"))
    assert site(RequestFactory().get("/"))["public_url"] == "https://llm.example.com"
