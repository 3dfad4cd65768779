"""Replayed, forged, old and stolen session cookies against real processes."""

import http.client
import json
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.cookies import SimpleCookie
from urllib.parse import urlencode

import pytest
from django.core import signing

from tests.conftest import Install
from tests.router import PASSWORD, RouterDash, until

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(180)]

SESSION, CSRF = "routerdash_session", "routerdash_csrf"
NEW_PASSWORD = "another battery staple"
VIEWER = "vera"


class Browser:
    """Sends requests with the cookies that it received."""

    def __init__(self, router: RouterDash, session: str = "") -> None:
        self.router = router
        self.cookies = {SESSION: session} if session else {}

    def send(self, method: str, path: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Send a request and keep new cookies. Returns status, Location and body."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.router.port, timeout=90)) as connection:
            headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
            body = None
            if form is not None:
                headers["Content-Type"] = "application/x-www-form-urlencoded"
                body = urlencode({"csrfmiddlewaretoken": self.cookies[CSRF], **form})
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            for header in response.headers.get_all("Set-Cookie", []):
                for name, morsel in SimpleCookie(header).items():
                    self.cookies[name] = morsel.value
            return response.status, response.headers.get("Location", ""), response.read().decode()

    def get(self, path: str) -> tuple[int, str, str]:
        return self.send("GET", path)

    def log_in(self, name: str = "admin", password: str = PASSWORD) -> "Browser":
        self.get("/login")
        status, _, body = self.send("POST", "/login", {"username": name, "password": password})
        assert status == 302, body
        return self

    @property
    def session(self) -> str:
        return self.cookies[SESSION]

    @contextmanager
    def stream(self, path: str) -> Iterator[http.client.HTTPResponse]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.router.port, timeout=90)) as connection:
            connection.request("GET", path, headers={"Cookie": f"{SESSION}={self.session}"})
            response = connection.getresponse()
            assert response.status == 200
            yield response


PATHS = ("/admin/", "/", "/account", "/api/me/api-keys", "/api/dashboard/events?once", "/api/requests/export")


def accessible_paths(router: RouterDash, cookie: str) -> list[str]:
    """Return the paths that the cookie gives access to."""
    return [path for path in PATHS if _is_accessible(router, cookie, path)]


def _is_accessible(router: RouterDash, cookie: str, path: str) -> bool:
    try:
        return Browser(router, cookie).get(path)[0] == 200
    except http.client.IncompleteRead:  # the session ended during the download
        return False


@pytest.fixture(scope="module")
def served(shared_router: RouterDash) -> RouterDash:
    return shared_router


def make_viewer(router: RouterDash) -> None:
    code = f"from access.models import User; User.objects.create_user({VIEWER!r}, {PASSWORD!r})"
    assert router.manage("shell", "-c", code).returncode == 0
    until(lambda: "302" in str(_try_login(router)))


def _try_login(router: RouterDash) -> int:
    browser = Browser(router)
    browser.get("/login")
    return browser.send("POST", "/login", {"username": VIEWER, "password": PASSWORD})[0]


def test_a_cookie_is_invalid_after_its_logout(served: RouterDash) -> None:
    browser = Browser(served).log_in()
    copy = browser.session
    assert accessible_paths(served, copy) == list(PATHS)
    assert browser.send("POST", "/logout", {})[:2] == (302, "/login")
    assert accessible_paths(served, copy) == []


def test_an_open_event_stream_ends_at_logout(served: RouterDash) -> None:
    browser = Browser(served).log_in()
    with browser.stream("/api/dashboard/events") as stream:
        assert stream.readline() == b"retry: 2000\n"
        browser.send("POST", "/logout", {})
        stream.read()  # to its end; a stream that stays open would time out


def test_a_download_breaks_off_at_logout(router: RouterDash) -> None:
    fill_history(router, 40_000)
    browser = Browser(router).log_in()
    with browser.stream("/api/requests/export?format=jsonl") as download:
        download.read(1000)
        browser.send("POST", "/logout", {})
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            download.read()


def fill_history(router: RouterDash, rows: int) -> None:
    """Insert rows of half a kilobyte, together more than all buffers on the way hold."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    router.query(
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "
        "INSERT INTO request_history (id, timestamp, request_type, model, endpoint_id, endpoint_name, endpoint_ip, "
        "request_body, duration_ms, status, completed_at, outcome, kind) "
        "SELECT printf('00000000-0000-4000-8000-%012x', n), ?, 'chat', ?, ?, 'server', '127.0.0.1', '{}', 1, "
        "'success', ?, 'ok', 'chat' FROM numbers",
        rows,
        now,
        "m" * 500,
        "00000000-0000-4000-8000-000000000000",
        now,
    )


def test_forged_and_truncated_cookies_are_invalid(served: RouterDash) -> None:
    real = Browser(served).log_in().session
    token, signature = real.rsplit(":", 1)
    forged = [
        real[:-1],
        real[1:],
        token,
        f"{token}:",
        f"{token}:{signature[:-1]}",
        f"{secrets.token_urlsafe(32)}:{signature}",
        f"{token[:-1]}:{signature}",
        f"{signature}:{token}",
        ":" * 2000,
        "%00" * 20,
        "é".encode().decode("latin-1"),
        json.dumps({"_auth_user_id": "1"}),
        "../../sessions.sqlite3",
        "' OR 1=1 --",
        real + real,
    ]
    for cookie in forged:
        assert accessible_paths(served, cookie) == [], cookie
    assert accessible_paths(served, real) == list(PATHS)
    assert "Traceback" not in served.log_text()


def test_a_signed_token_that_no_login_created_is_invalid(served: RouterDash) -> None:
    """The secret key does not suffice for a login."""
    secret = (served.data_dir / "secret-key").read_text().strip()
    signer = signing.Signer(key=secret, salt="access.sessions.store")
    assert accessible_paths(served, signer.sign(secrets.token_urlsafe(32))) == []


def test_a_local_key_is_not_accepted_through_a_gateway(served: RouterDash) -> None:
    secret = (served.data_dir / "secret-key").read_text().strip()
    key = signing.TimestampSigner(key=secret, salt="access.local").sign("local")
    assert served.request("GET", "/api/dashboard/overview", key=key).status == 401


def old_cookie(router: RouterDash) -> str:
    """A cookie with the whole session and a valid signature, as older releases made it."""
    code = (
        "from access.models import User; from django.contrib.sessions.backends.signed_cookies import SessionStore\n"
        "u = User.objects.get(username='admin'); s = SessionStore()\n"
        "s.update({'_auth_user_id': str(u.pk), '_auth_user_backend': 'access.backends.Backend', "
        "'_auth_user_hash': u.get_session_auth_hash()}); s.save(); print(s.session_key)"
    )
    return router.manage("shell", "-c", code).stdout.strip().splitlines()[-1]


def test_a_cookie_from_before_the_upgrade_is_removed_and_the_login_page_gives_the_reason(served: RouterDash) -> None:
    old = old_cookie(served)
    assert old.count(":") == 2
    assert accessible_paths(served, old) == []
    browser = Browser(served, old)
    status, location, _ = browser.get("/")
    assert (status, location) == (302, "/login?next=/")
    assert "You were logged out because RouterDash was updated." in browser.get(location)[2]
    assert not browser.session
    del browser.cookies[SESSION]
    assert "because RouterDash was updated" not in browser.get(location)[2]
    assert accessible_paths(served, browser.log_in().session) == list(PATHS)


def test_session_fixation_is_prevented(served: RouterDash) -> None:
    planted = Browser(served).log_in().session
    Browser(served, planted).get("/")
    for given in (f"{secrets.token_urlsafe(32)}:{planted.rsplit(':', 1)[1]}", "attacker-knows-this"):
        victim = Browser(served, given)
        victim.log_in()
        assert victim.session != given
        assert accessible_paths(served, given) == []


def test_a_cookie_gives_access_to_its_own_user_only(served: RouterDash) -> None:
    make_viewer(served)
    viewer = Browser(served).log_in(VIEWER)
    admin = Browser(served).log_in()
    assert viewer.get("/admin/")[0] == 302
    # A viewer cannot end sessions of other users.
    viewer.get("/account")
    user_id = served.query("SELECT id FROM users WHERE username = 'admin'")[0][0]
    assert viewer.send("POST", "/account", {"user": user_id})[0] == 403
    assert accessible_paths(served, admin.session) == list(PATHS)
    # An administrator can.
    viewers = served.query("SELECT id FROM users WHERE username = ?", VIEWER)[0][0]
    admin.get("/account")
    assert admin.send("POST", "/account", {"user": viewers})[:2] == (302, "/account")
    assert viewer.get("/")[0] == 302


def test_a_new_password_ends_sessions_with_stolen_cookies(router: RouterDash) -> None:
    owner, thief = Browser(router).log_in(), Browser(router).log_in()
    stolen_before_change = owner.session
    owner.get("/account/password")
    form = {"old_password": PASSWORD, "new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
    assert owner.send("POST", "/account/password", form)[0] == 302
    assert accessible_paths(router, thief.session) == []
    assert accessible_paths(router, stolen_before_change) == []
    assert accessible_paths(router, owner.session) == list(PATHS)
    assert router.manage("changepassword", "admin").returncode != 0  # needs a terminal
    code = "from access.models import User; u = User.objects.get(); u.set_password('a third pass phrase'); u.save()"
    assert router.manage("shell", "-c", code).returncode == 0
    until(lambda: accessible_paths(router, owner.session) == [], 10)


def test_a_logout_survives_an_immediate_kill(router: RouterDash) -> None:
    ended, kept = Browser(router).log_in(), Browser(router).log_in()
    copy = ended.session
    assert ended.send("POST", "/logout", {})[0] == 302
    router.kill()
    router.start()
    assert accessible_paths(router, copy) == []
    assert accessible_paths(router, kept.session) == list(PATHS)


def test_logins_and_logouts_work_without_the_database_and_survive_a_kill(install: Install) -> None:
    router = install(DATABASE_URL="").start()
    before, ended = Browser(router).log_in(), Browser(router).log_in()
    router.stop()
    away = router.directory / "away"
    away.mkdir()
    for path in router.data_dir.glob("routerdash.sqlite3*"):
        path.rename(away / path.name)
    start_degraded(router)
    live = ["/", "/account", "/api/dashboard/events?once"]
    assert [path for path in PATHS if before.get(path)[0] == 200][:2] == live[:2]
    copy = ended.session
    assert ended.send("POST", "/logout", {})[0] == 302
    during = Browser(router).log_in()
    assert during.get("/account")[0] == 200
    router.kill()
    start_degraded(router)
    assert accessible_paths(router, copy) == []
    for browser in (before, during):
        assert [browser.get(path)[0] for path in live] == [200, 200, 200]
    for path in away.iterdir():
        path.rename(router.data_dir / path.name)
    until(lambda: router.get("/health").json()["status"] == "ok", 60)
    assert accessible_paths(router, copy) == []
    for browser in (before, during):
        assert accessible_paths(router, browser.session) == list(PATHS)
    assert "Traceback" not in router.log_text()


def start_degraded(router: RouterDash) -> None:
    router.start(wait=False)
    until(lambda: _status(router) == "degraded", 60)


def _status(router: RouterDash) -> str:
    try:
        status: str = router.get("/health").json()["status"]
    except OSError:
        return ""
    return status


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_without_the_sessions_file_all_users_log_in_again(router: RouterDash, damage: str) -> None:
    browser = Browser(router).log_in()
    router.kill()
    path = router.data_dir / "sessions.sqlite3"
    path.unlink() if damage == "missing" else path.write_bytes(secrets.token_bytes(20_000))
    router.start()
    assert accessible_paths(router, browser.session) == []
    assert accessible_paths(router, Browser(router).log_in().session) == list(PATHS)
    assert "Traceback" not in router.log_text()


def test_a_new_secret_key_ends_all_sessions_of_a_running_routerdash(router: RouterDash) -> None:
    browser = Browser(router).log_in()
    with browser.stream("/api/dashboard/events") as stream:
        stream.readline()
        done = router.manage("rotate_secret_key")
        assert done.returncode == 0, done.stderr
        stream.read()  # to its end
    assert accessible_paths(router, browser.session) == []
    again = Browser(router).log_in()
    assert accessible_paths(router, again.session) == list(PATHS)
    router.kill()
    router.start()
    assert accessible_paths(router, again.session) == list(PATHS)
