"""Version of an endpoint, which prevents an edit from silently overwriting a newer one.

A version is computed from the fields that staff may edit. Health checks, counters and the operator state do not change
it. No column stores it: two equal states have the same version.
"""

import json

from django.utils.crypto import salted_hmac

from endpoints.models import EDITED_OPTIONS, STAFF_FIELDS, Endpoint
from endpoints.registry import Entry, entry_of

CHARACTERS = 16
SALT = "endpoints.versions"  # must not change: scripts may hold an ETag of an earlier release


def of(endpoint: Endpoint) -> str:
    return of_entry(entry_of(endpoint))


def of_entry(entry: Entry) -> str:
    """Return the version: one part for the fields and one for the stored secret, so that each change is detectable."""
    fields = [getattr(entry, name) for name in (*STAFF_FIELDS, *EDITED_OPTIONS)]
    while fields[-1] is None:  # options of later releases stand at the end, and change no version until they are set
        fields.pop()
    secret = entry.sealed_api_key or entry.plain_api_key
    return f"{_digest(json.dumps(fields, default=str))}-{_digest(secret or '')}"


def same_secret(one: str, other: str) -> bool:
    return one.partition("-")[2] == other.partition("-")[2]


def _digest(text: str) -> str:
    """Return a keyed digest, because browsers receive it and an adopted secret is plain text."""
    return salted_hmac(SALT, text).hexdigest()[:CHARACTERS]
