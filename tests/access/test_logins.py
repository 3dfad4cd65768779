"""The rate limit of failed logins, with a fake clock and on the page."""

from threading import Thread
from typing import Any

import pytest
from django.test import RequestFactory

from access import logins
from access.logins import MAX_FAILURES, MAX_KEPT, WINDOW_SECONDS, Failures
from access.models import User
from tests.access.people import PASSWORD, Api, make_user
from tests.access.test_views import change, logged_in, login


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures(clock: Clock) -> Failures:
    return Failures(clock)


def fail(failures: Failures, *keys: str, times: int = MAX_FAILURES) -> list[float]:
    return [failures.attempt(keys) for _ in range(times)]


def test_after_the_limit_the_next_attempt_has_to_wait(failures: Failures) -> None:
    assert fail(failures, "a") == [0.0] * MAX_FAILURES
    assert failures.attempt(["a"]) == WINDOW_SECONDS
    assert failures.attempt(["b"]) == 0


def test_the_wait_ends_when_the_first_failure_expires(failures: Failures, clock: Clock) -> None:
    failures.attempt(["a"])
    clock.now += 100
    fail(failures, "a", times=MAX_FAILURES - 1)
    assert failures.attempt(["a"]) == WINDOW_SECONDS - 100
    clock.now += WINDOW_SECONDS - 100
    assert failures.attempt(["a"]) == 0
    assert failures.attempt(["a"]) == 100


def test_a_refused_attempt_is_not_counted(failures: Failures, clock: Clock) -> None:
    fail(failures, "a", times=50)
    clock.now += WINDOW_SECONDS
    assert failures.attempt(["a"]) == 0


def test_one_blocked_key_refuses_and_the_other_is_not_counted(failures: Failures) -> None:
    fail(failures, "client 1", "name admin")
    assert fail(failures, "client 2", "name admin", times=20) == [WINDOW_SECONDS] * 20
    assert failures.attempt(["client 2", "name other"]) == 0


def test_a_success_resets(failures: Failures) -> None:
    fail(failures, "a", "b")
    failures.forget(["a", "b"])
    assert fail(failures, "a", "b") == [0.0] * MAX_FAILURES


def test_concurrent_attempts_do_not_exceed_the_limit(failures: Failures) -> None:
    waits: list[float] = []
    threads = [Thread(target=lambda: waits.append(failures.attempt(["a"]))) for _ in range(3 * MAX_FAILURES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert waits.count(0.0) == MAX_FAILURES


def test_the_number_of_stored_failures_is_bounded(failures: Failures) -> None:
    for number in range(MAX_KEPT + 5):
        failures.attempt([str(number)])
    assert len(failures) == MAX_KEPT


# Keys under which failures are counted


def keys(name: str = "admin", ip: str = "192.0.2.1") -> tuple[str, ...]:
    return logins.keys(RequestFactory().post("/login", REMOTE_ADDR=ip), name)


def test_a_name_is_counted_in_normal_form() -> None:
    assert keys("ａdmin ") == keys("admin") != keys("Admin")
    assert "admin" not in str(keys("admin"))


def test_an_ipv6_client_is_counted_by_network() -> None:
    assert keys(ip="2001:db8::1") == keys(ip="2001:db8::ffff:1") != keys(ip="2001:db8:0:1::1")
    assert keys(ip="192.0.2.1") != keys(ip="192.0.2.2")


@pytest.mark.parametrize("odd", ["", "x" * 100_000, "\0", "\ud800"])
def test_each_name_has_its_own_short_key(odd: str) -> None:
    assert len(keys(odd)[1]) == len(keys("admin")[1])
    assert keys(odd) != keys("admin")


# The login page


def log_in_with(api: Api, times: int = MAX_FAILURES, name: str = "vera", **sent: Any) -> list[int]:
    form = {"username": name, "password": "wrong"}
    return [api.post("/login", form, **sent).status_code for _ in range(times)]


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["vera", "nobody"])
def test_after_the_limit_the_page_shows_when_to_try_again(anybody: Api, viewer: User, name: str) -> None:
    assert log_in_with(anybody, name=name) == [200] * MAX_FAILURES
    response = login(anybody, name)
    assert (response.status_code, logged_in(anybody)) == (429, False)
    assert 0 < int(response["Retry-After"]) <= WINDOW_SECONDS
    assert "There were too many failed logins. Try again in 5 minutes." in response.content.decode()
    assert f'value="{name}"' in response.content.decode()


@pytest.mark.django_db
def test_a_name_is_counted_over_all_clients(anybody: Api, viewer: User) -> None:
    for number in range(MAX_FAILURES):
        log_in_with(anybody, 1, REMOTE_ADDR=f"192.0.2.{number}")
    assert log_in_with(anybody, 1) == [429]
    assert log_in_with(anybody, 1, "other") == [200]


@pytest.mark.django_db
def test_a_client_is_counted_over_all_names(anybody: Api) -> None:
    for number in range(MAX_FAILURES):
        log_in_with(anybody, 1, f"name{number}")
    assert log_in_with(anybody, 1, "another") == [429]
    assert log_in_with(anybody, 1, "another", REMOTE_ADDR="192.0.2.1") == [200]


@pytest.mark.django_db
def test_a_successful_login_resets_the_limit(anybody: Api, viewer: User) -> None:
    log_in_with(anybody, MAX_FAILURES - 1)
    assert login(anybody).status_code == 302
    assert log_in_with(Api(), MAX_FAILURES) == [200] * MAX_FAILURES


@pytest.mark.django_db
def test_failures_of_others_do_not_block_a_known_browser(anybody: Api, viewer: User) -> None:
    login(anybody)
    anybody.post("/logout")
    log_in_with(Api())
    assert login(Api()).status_code == 429
    assert login(anybody).status_code == 302


@pytest.mark.django_db
def test_a_known_browser_has_its_own_limit_for_one_user(anybody: Api, viewer: User) -> None:
    login(anybody)
    anybody.post("/logout")
    assert log_in_with(anybody, MAX_FAILURES + 1) == [200] * MAX_FAILURES + [429]
    assert log_in_with(anybody, MAX_FAILURES + 1, "other") == [200] * MAX_FAILURES + [429]


@pytest.mark.django_db
def test_a_forged_cookie_does_not_make_a_known_browser(anybody: Api, viewer: User) -> None:
    anybody.cookies[logins.COOKIE] = f"{keys('vera')[1].removeprefix('name ')}:1abcde:forged"
    assert log_in_with(anybody, MAX_FAILURES + 1)[-1] == 429


@pytest.mark.django_db
def test_the_admins_own_login_form_accepts_no_password(anybody: Api) -> None:
    make_user("ada", "admin")
    response = anybody.post("/admin/login/", {"username": "ada", "password": PASSWORD})
    assert response["Location"].startswith("/login")
    assert not logged_in(anybody)


# Forms that require the old password


@pytest.mark.django_db
def test_a_wrong_old_password_counts_as_a_failed_login(as_viewer: Api, viewer: User) -> None:
    assert [change(as_viewer, old="wrong").status_code for _ in range(MAX_FAILURES)] == [200] * MAX_FAILURES
    response = change(as_viewer)
    assert response.status_code == 429
    assert 0 < int(response["Retry-After"]) <= WINDOW_SECONDS
    assert "There were too many wrong passwords. Try again in 5 minutes." in response.content.decode()
    assert PASSWORD not in response.content.decode()
    assert User.objects.get().check_password(PASSWORD)
    assert login(Api()).status_code == 429


@pytest.mark.django_db
def test_failed_logins_count_for_the_password_change_of_the_same_browser(anybody: Api, viewer: User) -> None:
    login(anybody)
    anybody.post("/logout")
    log_in_with(anybody, MAX_FAILURES - 1)
    login(anybody)  # a successful login clears the failures
    assert [change(anybody, old="wrong").status_code for _ in range(MAX_FAILURES + 1)][-2:] == [200, 429]
    assert log_in_with(Api(), 1) == [200]


@pytest.mark.django_db
def test_a_refused_new_password_is_not_a_failed_login(as_viewer: Api, viewer: User) -> None:
    assert {change(as_viewer, new="short").status_code for _ in range(MAX_FAILURES + 1)} == {200}


@pytest.mark.django_db(transaction=True)
def test_a_successful_change_clears_the_failures(as_viewer: Api, viewer: User) -> None:
    for _ in range(MAX_FAILURES - 1):
        change(as_viewer, old="wrong")
    assert change(as_viewer).status_code == 302
    assert log_in_with(Api(), MAX_FAILURES) == [200] * MAX_FAILURES
