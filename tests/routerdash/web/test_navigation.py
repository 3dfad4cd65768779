"""The navigation marks the current page, and hides pages without access."""

from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.test import RequestFactory
from django.urls import resolve

from access.models import User
from routerdash.web import navigation


def request_for(path: str, user: User | AnonymousUser) -> HttpRequest:
    request = RequestFactory().get(path)
    request.user = user
    request.resolver_match = resolve(path)
    return request


def names(user: User | AnonymousUser) -> list[str]:
    return [link.name for group in navigation.links(request_for("/", user)) for link in group]


def test_only_administrators_see_the_admin() -> None:
    assert "admin:index" in names(User(role="admin"))
    assert "admin:index" not in names(User(role="viewer"))
    assert "admin:index" not in names(AnonymousUser())


def test_one_entry_is_the_current_one() -> None:
    links = navigation.links(request_for("/", User(role="admin")))
    assert [link.name for group in links for link in group if link.current] == ["overview"]


def test_every_entry_has_its_own_shortcut() -> None:
    keys = [place.key for group in navigation.groups() for place in group]
    assert len(set(keys)) == len(keys)


def test_a_small_screen_has_every_entry() -> None:
    groups = navigation.links(request_for("/", User(role="admin")))
    some, rest = navigation.small(groups)
    assert len(some) + len(rest) == sum(map(len, groups))
    assert some[0].name == "overview"
