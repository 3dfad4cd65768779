"""The admin ignores parameters that none of its pages uses."""

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
def test_only_offered_filters_are_applied(as_admin: Api, address: str) -> None:
    response = as_admin.get(address)
    assert response.status_code in (302, 400)


@pytest.mark.parametrize(
    "address",
    [f"{ENDPOINTS}?status__exact=online", f"{USERS}?role__exact=viewer", "/admin/metrics/requesthistory/?outcome=ok"],
)
def test_offered_filters_are_applied(as_admin: Api, address: str) -> None:
    assert as_admin.get(address).status_code == 200


def test_a_malformed_id_is_not_found(as_admin: Api) -> None:
    response: Any = as_admin.post(f"{ENDPOINTS}xyz/change/", {"base_url": "http://x.invalid"})
    assert response.status_code in (302, 404)


def test_actions_ignore_malformed_ids(as_admin: Api) -> None:
    response: Any = as_admin.post(ENDPOINTS, {"action": "enable", "_selected_action": ["zz"]})
    assert response.status_code in (200, 302)


def test_query_parameters_fill_in_no_fields(as_admin: Api, admin: User) -> None:
    assert as_admin.get(f"{KEYS}add/?expires_at=zz").status_code == 200
    assert Endpoint.objects.count() == 0
