"""Which version of an endpoint somebody has before them, so that no edit is saved over a newer one unseen.

A version is made of what staff may edit, and of nothing that checks, counters or an operator's word change meanwhile.
No column keeps it: two equal states are one version.
"""

import json

from django.utils.crypto import salted_hmac

from endpoints.models import LIMITS, STAFF_FIELDS, Endpoint
from endpoints.registry import Entry, entry_of

CHARACTERS = 16


def of(endpoint: Endpoint) -> str:
    return of_entry(entry_of(endpoint))


def of_entry(entry: Entry) -> str:
    """The fields, and the stored secret, so that one can tell which of both has changed."""
    fields = [getattr(entry, name) for name in (*STAFF_FIELDS, *LIMITS, "tags")]
    secret = entry.sealed_api_key or entry.plain_api_key
    return f"{_mark(json.dumps(fields, default=str))}-{_mark(secret or '')}"


def same_secret(one: str, other: str) -> bool:
    return one.partition("-")[2] == other.partition("-")[2]


def _mark(text: str) -> str:
    """Keyed: it goes to browsers, and an adopted secret is in plain text."""
    return salted_hmac(__name__, text).hexdigest()[:CHARACTERS]
