"""Pages show which endpoints their provider has paused, why and until when, and which paths they lack."""

import re

import pytest

from gateway.inference.recording import SETTING_ASIDE
from gateway.routing.set_aside import AsideNote
from tests.access.people import Api
from tests.markup import one_line
from tests.metrics.api.test_prometheus import Scrape
from tests.metrics.records import AT, A
from tests.metrics.world import fake_installation

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock", "shown_world", "endpoints")]

PAGES = ("/", "/endpoints", f"/endpoints/{A}")
ADMIN_LIST = "/admin/endpoints/endpoint/"
UNTIL = int(AT) + 90  # 12:02:00 UTC


def badges(client: Api, path: str, language: str = "en") -> str:
    """Return the visible badges of the endpoint A without those of templates."""
    headers = {"accept-language": language}
    html = one_line(client.get(path, headers=headers).content.decode())
    html = re.sub(r"<template.*?</template>", "", html)
    if path == ADMIN_LIST or "/endpoints/" not in path:
        html = next(row for row in html.split("<tr")[1:] if A in row)
    matches = re.findall(r"<(span|small)[^<>]*data-(?:pause|lacks)(?![^<>]* hidden)[^<>]*>(.*?)</\1>", html)
    return " ".join(" ".join(re.sub(r"<[^>]+>", "", text).split()) for _, text in matches)


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    ("cause", "language", "text"),
    [
        ("limited", "en", "Paused until 12:02:00: rate limit reached"),
        ("overloaded", "en", "Paused until 12:02:00: overloaded"),
        ("money", "en", "Paused until 12:02:00: no credit left"),
        ("key_refused", "en", "Paused until 12:02:00: API key rejected"),
        ("key_refused", "ja", "12:02:00 まで一時停止（API キー拒否）"),
    ],
)
def test_a_pause_is_shown_with_its_cause_and_end(
    as_viewer: Api, path: str, cause: str, language: str, text: str
) -> None:
    fake_installation().aside = lambda: {A: AsideNote(UNTIL, cause, ())}
    assert badges(as_viewer, path, language) == text


@pytest.mark.parametrize("cause", [*sorted(SETTING_ASIDE), None])
def test_prometheus_has_the_cause_of_a_pause(cause: str | None) -> None:
    fake_installation().aside = lambda: {A: AsideNote(UNTIL if cause else 0, cause, ())}
    scrape = Scrape()
    values = {
        known_cause: scrape("endpoint_paused", endpoint_id=A, endpoint_name="a", cause=known_cause)
        for known_cause in SETTING_ASIDE
    }
    assert values == {known_cause: float(known_cause == cause) for known_cause in SETTING_ASIDE}


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    ("language", "text"), [("en", "Lacks /v1/rerank, /v1/responses"), ("ja", "非対応: /v1/rerank, /v1/responses")]
)
def test_missing_paths_are_shown(as_viewer: Api, path: str, language: str, text: str) -> None:
    fake_installation().aside = lambda: {A: AsideNote(0, None, ("rerank", "responses"))}
    assert badges(as_viewer, path, language) == text


def test_the_admin_lists_a_pause(as_admin: Api) -> None:
    assert "Paused" not in badges(as_admin, ADMIN_LIST)
    fake_installation().aside = lambda: {A: AsideNote(UNTIL, "money", ())}
    assert badges(as_admin, ADMIN_LIST) == "Paused until 12:02:00: no credit left"


@pytest.mark.parametrize("path", PAGES)
def test_an_endpoint_that_works_has_no_badge(as_viewer: Api, path: str) -> None:
    assert badges(as_viewer, path) == ""


@pytest.mark.parametrize(("until", "hidden"), [(UNTIL, False), (0, True)])
def test_a_pause_can_be_ended(as_admin: Api, until: int, hidden: bool) -> None:
    fake_installation().aside = lambda: {A: AsideNote(until, "money" if until else None, ())}
    html = one_line(as_admin.get(f"/endpoints/{A}").content.decode())
    assert ("data-reset hidden" in html) is hidden
