"""Failed logins through a gateway behind a proxy: each client is counted separately."""

import http.cookiejar
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from access.logins import MAX_FAILURES
from tests.conftest import Install
from tests.gateway import certificates
from tests.router import PASSWORD, RouterDash, until

pytestmark = pytest.mark.one_database


def fail(router: RouterDash, name: str, client: str) -> int:
    """Return the status of a login with a wrong password, sent by this client."""
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


def test_clients_behind_a_proxy_are_counted_separately(install: Install) -> None:
    router = install(ROUTERDASH_TRUSTED_PROXIES="127.0.0.1").start()
    given = [fail(router, f"name{number}", "192.0.2.1") for number in range(MAX_FAILURES + 1)]
    assert given == [200] * MAX_FAILURES + [429]
    assert fail(router, "another", "192.0.2.2") == 200


def test_tls_sets_host_cookies_and_hsts(install: Install, tmp_path: Path) -> None:
    certificate, key = certificates.make(tmp_path)
    router = install(ROUTERDASH_TLS_CERTIFICATE=str(certificate), ROUTERDASH_TLS_KEY=str(key)).start(wait=False)
    jar = http.cookiejar.CookieJar()
    secure = urllib.request.HTTPSHandler(context=certificates.trusting(certificate))
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar), secure)
    url = f"https://127.0.0.1:{router.port}"
    until(lambda: _is_ready(browser, url), 60)
    assert browser.open(f"{url}/login").headers["Strict-Transport-Security"] == "max-age=31536000"
    token = next(cookie.value for cookie in jar if cookie.name == "__Host-routerdash_csrf")
    form = urllib.parse.urlencode({"username": "admin", "password": PASSWORD, "csrfmiddlewaretoken": token})
    sent = urllib.request.Request(f"{url}/login", form.encode(), {"Referer": f"{url}/login"})
    assert browser.open(sent).url == f"{url}/"
    made = {cookie.name: cookie for cookie in jar}
    assert set(made) >= {"__Host-routerdash_session", "__Host-routerdash_csrf"}
    assert not {"routerdash_session", "routerdash_csrf"} & set(made)
    session = made["__Host-routerdash_session"]
    assert (session.secure, session.path, session.domain_specified) == (True, "/", False)
    assert browser.open(f"{url}/account").url == f"{url}/account"


def _is_ready(browser: urllib.request.OpenerDirector, url: str) -> bool:
    try:
        return bool(browser.open(f"{url}/ready", timeout=5).status == 200)
    except OSError:
        return False
