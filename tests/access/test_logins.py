"""How often logins may fail: by a clock of their own, and on the page."""

from threading import Thread
from typing import Any

import pytest
from django.test import RequestFactory

from access import logins
from access.logins import MOST_FAILURES, MOST_KEPT, WINDOW_SECONDS, Failures
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


def fail(failures: Failures, *keys: str, times: int = MOST_FAILURES) -> list[float]:
    return [failures.attempt(keys) for _ in range(times)]


def test_so_many_may_fail_and_the_next_has_to_wait(failures: Failures) -> None:
    assert fail(failures, "a") == [0.0] * MOST_FAILURES
    assert failures.attempt(["a"]) == WINDOW_SECONDS
    assert failures.attempt(["b"]) == 0


def test_it_waits_until_the_first_of_them_is_long_ago(failures: Failures, clock: Clock) -> None:
    failures.attempt(["a"])
    clock.now += 100
    fail(failures, "a", times=MOST_FAILURES - 1)
    assert failures.attempt(["a"]) == WINDOW_SECONDS - 100
    clock.now += WINDOW_SECONDS - 100
    assert failures.attempt(["a"]) == 0
    assert failures.attempt(["a"]) == 100


def test_what_is_refused_does_not_count(failures: Failures, clock: Clock) -> None:
    fail(failures, "a", times=50)
    clock.now += WINDOW_SECONDS
    assert failures.attempt(["a"]) == 0


def test_one_of_the_keys_is_enough_and_spares_the_other(failures: Failures) -> None:
    fail(failures, "client 1", "name admin")
    assert fail(failures, "client 2", "name admin", times=20) == [WINDOW_SECONDS] * 20
    assert failures.attempt(["client 2", "name other"]) == 0


def test_a_success_resets(failures: Failures) -> None:
    fail(failures, "a", "b")
    failures.forget(["a", "b"])
    assert fail(failures, "a", "b") == [0.0] * MOST_FAILURES


def test_many_at_once_are_no_way_around(failures: Failures) -> None:
    waits: list[float] = []
    threads = [Thread(target=lambda: waits.append(failures.attempt(["a"]))) for _ in range(3 * MOST_FAILURES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert waits.count(0.0) == MOST_FAILURES


def test_it_does_not_grow_for_ever(failures: Failures) -> None:
    for number in range(MOST_KEPT + 5):
        failures.attempt([str(number)])
    assert len(failures) == MOST_KEPT


# What an attempt counts for


def keys(name: str = "admin", ip: str = "192.0.2.1") -> tuple[str, ...]:
    return logins.keys(RequestFactory().post("/login", REMOTE_ADDR=ip), name)


def test_a_name_is_the_same_however_it_is_typed() -> None:
    assert keys("ａdmin ") == keys("admin") != keys("Admin")
    assert "admin" not in str(keys("admin"))


def test_a_client_of_ipv6_is_its_network() -> None:
    assert keys(ip="2001:db8::1") == keys(ip="2001:db8::ffff:1") != keys(ip="2001:db8:0:1::1")
    assert keys(ip="192.0.2.1") != keys(ip="192.0.2.2")


@pytest.mark.parametrize("odd", ["", "x" * 100_000, "\0", "\ud800"])
def test_any_name_has_a_key_of_its_own_that_is_short(odd: str) -> None:
    assert len(keys(odd)[1]) == len(keys("admin")[1])
    assert keys(odd) != keys("admin")


# On the page


def knock(api: Api, times: int = MOST_FAILURES, name: str = "vera", **sent: Any) -> list[int]:
    form = {"username": name, "password": "wrong"}
    return [api.post("/login", form, **sent).status_code for _ in range(times)]


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["vera", "nobody"])
def test_after_so_many_failures_the_page_says_when_to_try_again(anybody: Api, viewer: User, name: str) -> None:
    assert knock(anybody, name=name) == [200] * MOST_FAILURES
    response = login(anybody, name)
    assert (response.status_code, logged_in(anybody)) == (429, False)
    assert 0 < int(response["Retry-After"]) <= WINDOW_SECONDS
    assert "Too many logins have failed. Try again in 5 minutes." in response.content.decode()
    assert f'value="{name}"' in response.content.decode()


@pytest.mark.django_db
def test_a_name_is_counted_over_all_clients(anybody: Api, viewer: User) -> None:
    for number in range(MOST_FAILURES):
        knock(anybody, 1, REMOTE_ADDR=f"192.0.2.{number}")
    assert knock(anybody, 1) == [429]
    assert knock(anybody, 1, "other") == [200]


@pytest.mark.django_db
def test_a_client_is_counted_over_all_names(anybody: Api) -> None:
    for number in range(MOST_FAILURES):
        knock(anybody, 1, f"name{number}")
    assert knock(anybody, 1, "another") == [429]
    assert knock(anybody, 1, "another", REMOTE_ADDR="192.0.2.1") == [200]


@pytest.mark.django_db
def test_a_login_that_succeeds_resets_it(anybody: Api, viewer: User) -> None:
    knock(anybody, MOST_FAILURES - 1)
    assert login(anybody).status_code == 302
    assert knock(Api(), MOST_FAILURES) == [200] * MOST_FAILURES


@pytest.mark.django_db
def test_nobody_keeps_a_known_browser_out(anybody: Api, viewer: User) -> None:
    login(anybody)
    anybody.post("/logout")
    knock(Api())
    assert login(Api()).status_code == 429
    assert login(anybody).status_code == 302


@pytest.mark.django_db
def test_a_known_browser_has_its_own_limit_and_one_user(anybody: Api, viewer: User) -> None:
    login(anybody)
    anybody.post("/logout")
    assert knock(anybody, MOST_FAILURES + 1) == [200] * MOST_FAILURES + [429]
    assert knock(anybody, MOST_FAILURES + 1, "other") == [200] * MOST_FAILURES + [429]


@pytest.mark.django_db
def test_a_forged_cookie_is_no_known_browser(anybody: Api, viewer: User) -> None:
    anybody.cookies[logins.COOKIE] = f"{keys('vera')[1].removeprefix('name ')}:1abcde:forged"
    assert knock(anybody, MOST_FAILURES + 1)[-1] == 429


@pytest.mark.django_db
def test_the_admins_own_login_takes_no_password(anybody: Api) -> None:
    make_user("ada", "admin")
    response = anybody.post("/admin/login/", {"username": "ada", "password": PASSWORD})
    assert response["Location"].startswith("/login")
    assert not logged_in(anybody)


# Where the old password is asked


@pytest.mark.django_db
def test_a_wrong_old_password_counts_as_a_failed_login(as_viewer: Api, viewer: User) -> None:
    assert [change(as_viewer, old="wrong").status_code for _ in range(MOST_FAILURES)] == [200] * MOST_FAILURES
    response = change(as_viewer)
    assert response.status_code == 429
    assert 0 < int(response["Retry-After"]) <= WINDOW_SECONDS
    assert "Too many wrong passwords. Try again in 5 minutes." in response.content.decode()
    assert PASSWORD not in response.content.decode()
    assert User.objects.get().check_password(PASSWORD)
    assert login(Api()).status_code == 429


@pytest.mark.django_db
def test_failed_logins_of_the_same_browser_count_for_its_change(anybody: Api, viewer: User) -> None:
    login(anybody)
    anybody.post("/logout")
    knock(anybody, MOST_FAILURES - 1)
    login(anybody)  # forgets them
    assert [change(anybody, old="wrong").status_code for _ in range(MOST_FAILURES + 1)][-2:] == [200, 429]
    assert knock(Api(), 1) == [200]


@pytest.mark.django_db
def test_a_new_password_that_is_refused_is_no_failure(as_viewer: Api, viewer: User) -> None:
    assert {change(as_viewer, new="short").status_code for _ in range(MOST_FAILURES + 1)} == {200}


@pytest.mark.django_db(transaction=True)
def test_a_change_that_succeeds_forgets_the_failures(as_viewer: Api, viewer: User) -> None:
    for _ in range(MOST_FAILURES - 1):
        change(as_viewer, old="wrong")
    assert change(as_viewer).status_code == 302
    assert knock(Api(), MOST_FAILURES) == [200] * MOST_FAILURES
