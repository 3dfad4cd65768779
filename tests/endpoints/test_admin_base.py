"""The admin, asked what no page of it asks."""

from typing import Any

import pytest

from access.models import User
from endpoints.models import Endpoint
from tests.access.people import Api

ENDPOINTS, USERS, KEYS = "/admin/endpoints/endpoint/", "/admin/access/user/", "/admin/access/apikey/"


@pytest.mark.parametrize(
    "address",
    [
        f"{ENDPOINTS}?api_key_encrypted__regex=^s",
        f"{ENDPOINTS}?name__regex=(",
        f"{USERS}?password__startswith=$2b",
        f"{USERS}?api_keys__key_hash__startswith=a",
        f"{KEYS}?key_hash__startswith=a",
        f"{KEYS}?created_by__password__startswith=a",
    ],
)
def test_no_filter_but_the_offered_ones_is_applied(as_admin: Api, address: str) -> None:
    response = as_admin.get(address)
    assert response.status_code in (302, 400)


@pytest.mark.parametrize(
    "address",
    [f"{ENDPOINTS}?status__exact=online", f"{USERS}?role__exact=viewer", "/admin/metrics/requesthistory/?outcome=ok"],
)
def test_offered_filters_are_applied(as_admin: Api, address: str) -> None:
    assert as_admin.get(address).status_code == 200


def test_an_id_that_is_none_is_not_found(as_admin: Api) -> None:
    response: Any = as_admin.post(f"{ENDPOINTS}xyz/change/", {"base_url": "http://x.invalid"})
    assert response.status_code in (302, 404)


def test_actions_leave_out_what_is_no_id(as_admin: Api) -> None:
    response: Any = as_admin.post(ENDPOINTS, {"action": "enable", "_selected_action": ["zz"]})
    assert response.status_code in (200, 302)


def test_nothing_is_filled_in_from_the_address(as_admin: Api, admin: User) -> None:
    assert as_admin.get(f"{KEYS}add/?expires_at=zz").status_code == 200
    assert Endpoint.objects.count() == 0
