"""An API key of a minute, with which a process of this installation reads figures at control's own socket.

It is signed with the secret key, so that only a process that can read that can make one. Gateways forward none to
control: a request with one must come over the socket, which no other user of the machine can open.
"""

from django.core import signing

PREFIX, SALT, SECONDS = "local", "access.local", 60


def local_key() -> str:
    """Return a key that is valid for a minute."""
    return signing.TimestampSigner(salt=SALT).sign(PREFIX)


def is_local_key(key: str) -> bool:
    """Return True if a process of this installation made the key within the last minute."""
    try:
        return signing.TimestampSigner(salt=SALT).unsign(key, max_age=SECONDS) == PREFIX
    except signing.BadSignature:
        return False
