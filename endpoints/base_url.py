"""Base URLs as people paste them, in the one form we store."""

import socket
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from endpoints.text import validate_line
from gateway.destinations import LINK_LOCAL, Destinations

_PORTS = {"http": 80, "https": 443}


def normalise(url: str) -> str:
    """Without `/v1`, slashes and blanks at its ends, its host in lower case. Raises ValueError with a sentence."""
    url = url.strip()
    parts = urlsplit(url)  # which drops line breaks and tabs
    try:
        validate_line(url)
        port = parts.port
    except ValidationError as error:
        raise ValueError(error.message) from None
    except ValueError:
        raise ValueError(_("The port must be a number from 1 to 65535.")) from None
    if port == 0:
        raise ValueError(_("The port must be a number from 1 to 65535."))
    if parts.scheme not in ("http", "https") or not parts.hostname or any(map(str.isspace, parts.netloc)):
        raise ValueError(_("Give a URL such as http://192.168.1.10:8000."))
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(_("Leave user, password, query and fragment out of the URL; a key has its own field."))
    _check_address(parts.hostname)
    path = parts.path.rstrip("/")
    while path.endswith("/v1"):
        path = path.removesuffix("/v1").rstrip("/")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit((parts.scheme, host if port is None else f"{host}:{port}", path, "", ""))


def same_server(one: str, other: str) -> bool:
    """Have both the same scheme, host and port? What cannot be read is no server's address."""
    found = _server(one)
    return found is not None and found == _server(other)


def _server(url: str) -> tuple[str, str, int | None] | None:
    try:
        parts = urlsplit(url.strip())
        return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None


def _check_address(host: str) -> None:
    """May an endpoint be there? In any spelling that resolvers read, such as 0xA9FEA9FE. A name is looked up when it is
    connected to. Raises ValueError.
    """
    try:
        found = socket.getaddrinfo(host.partition("%")[0], None, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        return
    allowed = Destinations.of(settings.ROUTERDASH)
    refusals = {allowed.refusal(str(address[0])) for *_, address in found}
    if LINK_LOCAL in refusals:
        raise ValueError(
            _("Link-local and metadata addresses are refused, unless ROUTERDASH_ALLOW_LINK_LOCAL allows them.")
        )
    if None not in refusals:
        raise ValueError(_("This address is in none of the networks of ROUTERDASH_ENDPOINT_NETWORKS."))
