"""Base URLs as people paste them, in the one form we store."""

from urllib.parse import urlsplit, urlunsplit

from django.utils.translation import gettext as _


def normalise(url: str) -> str:
    """Without `/v1`, slashes and blanks at its ends, its host in lower case. Raises ValueError with a sentence."""
    parts = urlsplit(url.strip())
    try:
        port = parts.port
    except ValueError:
        raise ValueError(_("The port must be a number from 1 to 65535.")) from None
    if port == 0:
        raise ValueError(_("The port must be a number from 1 to 65535."))
    if parts.scheme not in ("http", "https") or not parts.hostname or any(map(str.isspace, parts.netloc)):
        raise ValueError(_("Give a URL such as http://192.168.1.10:8000."))
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(_("Leave user, password, query and fragment out of the URL; a key has its own field."))
    path = parts.path.rstrip("/")
    while path.endswith("/v1"):
        path = path.removesuffix("/v1").rstrip("/")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit((parts.scheme, host if port is None else f"{host}:{port}", path, "", ""))
