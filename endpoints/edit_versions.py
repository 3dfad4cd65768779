"""Version of an endpoint, which prevents an edit from silently overwriting a newer one.

A version is computed from the fields that administrators may edit. Health checks, counters and the administrative
state do not change it. No column stores it: two equal states have the same version.
"""

import json

from django.utils.crypto import salted_hmac

from endpoints.models import EDITED_FIELDS, EDITED_OPTIONS, Endpoint
from endpoints.registry import Entry, entry_of

CHARACTERS = 16
SALT = "endpoints.versions"  # must not change: scripts may hold an ETag of an earlier release


def of(endpoint: Endpoint) -> str:
    return of_entry(entry_of(endpoint))


def of_entry(entry: Entry) -> str:
    """Return the version: one part for the fields, one for the API key, and one for connection settings."""
    fields = [getattr(entry, name) for name in (*EDITED_FIELDS, *EDITED_OPTIONS)]
    while fields[-1] is None:  # options of later releases stand at the end, and change no version until they are set
        fields.pop()
    secret = entry.sealed_api_key or entry.plain_api_key
    version = f"{_digest(json.dumps(fields, default=str))}-{_digest(secret or '')}"
    return version if entry.sealed_connection is None else f"{version}-{_digest(entry.sealed_connection)}"


def matches(if_match: str, version: str) -> bool:
    """Return True if an If-Match header matches (RFC 9110): `*`, or a list that contains the version."""
    versions = [each.strip().removeprefix("W/").strip('"') for each in if_match.split(",")]
    return "*" in versions or version in versions


def same_secret(one: str, other: str) -> bool:
    return one.split("-")[1:2] == other.split("-")[1:2]


def same_connection(one: str, other: str) -> bool:
    return one.split("-")[2:] == other.split("-")[2:]


def _digest(text: str) -> str:
    """Return a keyed digest, because browsers receive it and an adopted secret is plain text."""
    return salted_hmac(SALT, text).hexdigest()[:CHARACTERS]
