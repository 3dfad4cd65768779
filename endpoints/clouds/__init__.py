"""Clouds as types of endpoints: how they are recognised by their address, and the address that a type offers."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from django.utils.translation import gettext as _

from gateway.base import causes
from gateway.providers.errors import ErrorCause, classify, report_of
from gateway.providers.table import GEMINI, PROVIDERS, Provider, complete_url, provider_at

ADDRESSES: Mapping[str, str] = {kind: cloud.base_url for kind, cloud in PROVIDERS.items() if cloud.base_url}
CHECK_SECONDS = 300  # between two health checks, unless an administrator chooses another interval
KEY_REFUSED = causes.KEY_REJECTED
NO_CREDIT = causes.NO_CREDIT
LIMITED = causes.LIMITED
NOT_PERMITTED = causes.NOT_PERMITTED
REMARKS = (KEY_REFUSED, NOT_PERMITTED, NO_CREDIT)  # that need an administrator
_REMARKS: Mapping[ErrorCause, str] = {
    ErrorCause.KEY_REFUSED: KEY_REFUSED,
    ErrorCause.NOT_PERMITTED: NOT_PERMITTED,
    ErrorCause.MONEY: NO_CREDIT,
    ErrorCause.LIMITED: LIMITED,
}
_GEMINI_NATIVE = "/v1beta"  # where Gemini's own API is; ours is below it
_API_VERSION = re.compile(r"20\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(-preview)?")


def recognise(base_url: str) -> str | None:
    """Return the type of the cloud that has this address; None for any other server."""
    cloud = provider_at(base_url)
    return None if cloud is None else cloud.kind


def complete(base_url: str) -> str:
    """Return a normalised address of a known cloud with the path of its API, if it has none."""
    cloud = provider_at(base_url)
    if cloud is None:
        return base_url
    parts = urlsplit(base_url)
    if cloud.kind == GEMINI and parts.path == _GEMINI_NATIVE:
        base_url = urlunsplit(parts._replace(path=""))
    return complete_url(cloud, base_url)


def address_of(cloud_type: str) -> str:
    """Return the address that a cloud offers. Raises ValueError with a sentence for the user if it has none."""
    if address := ADDRESSES.get(cloud_type):
        return address
    raise ValueError(_("Enter the address of the resource."))


def remark(provider: Provider, status: int, body: object) -> str | None:
    """Return what an administrator must do about a cloud that answers with this error; None if it failed otherwise.

    The status alone does not decide: some clouds answer a wrong key with 400 and an empty balance with 429.
    """
    return _REMARKS.get(classify(provider, status, report_of(body)))


def check_api_version(text: str) -> str:
    """Return the API version. Raises ValueError with a sentence for the user."""
    if _API_VERSION.fullmatch(text) is None:
        raise ValueError(_("Enter a date such as 2024-10-21 or 2025-03-01-preview."))
    return text
