"""Logins that fail, through a gateway behind a proxy: each client is counted by itself."""

import http.cookiejar
import urllib.error
import urllib.parse
import urllib.request

import pytest

from access.logins import MOST_FAILURES
from tests.conftest import Install
from tests.router import RouterDash

pytestmark = pytest.mark.one_database


def fail(router: RouterDash, name: str, client: str) -> int:
    """The status that a wrong password of this name gets, sent by this client."""
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    browser.addheaders = [("X-Forwarded-For", client)]
    browser.open(f"{router.url}/login", timeout=30).read()
    token = next(cookie.value for cookie in jar if cookie.name == "routerdash_csrf")
    form = urllib.parse.urlencode({"username": name, "password": "wrong", "csrfmiddlewaretoken": token}).encode()
    try:
        return int(browser.open(f"{router.url}/login", form, timeout=30).status)
    except urllib.error.HTTPError as error:
        return error.code


def test_clients_behind_a_proxy_are_counted_each(install: Install) -> None:
    router = install(ROUTERDASH_TRUSTED_PROXIES="127.0.0.1").start()
    given = [fail(router, f"name{number}", "192.0.2.1") for number in range(MOST_FAILURES + 1)]
    assert given == [200] * MOST_FAILURES + [429]
    assert fail(router, "another", "192.0.2.2") == 200
