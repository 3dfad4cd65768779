"""Normalised base URLs: the form in which pasted URLs are stored."""

import ipaddress
import socket
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from endpoints.text import validate_line
from gateway.base.destinations import LINK_LOCAL, Destinations
from gateway.providers.table import provider_at

_PORTS = {"http": 80, "https": 443}


def normalise(url: str) -> str:
    """Return the URL without `/v1`, trailing slashes and surrounding blanks, its host in lower case.

    An address without a scheme, such as `127.0.0.1:11434`, is one of `http`; of a cloud, and at port 443, of `https`.
    Raises ValueError with a sentence for the user.
    """
    url = _with_scheme(url.strip())
    parts = urlsplit(url)  # drops line breaks and tabs
    try:
        validate_line(url)
        port = parts.port
    except ValidationError as error:
        raise ValueError(error.message) from None
    except ValueError:
        raise ValueError(_("The port must be a number between 1 and 65535.")) from None
    if port == 0:
        raise ValueError(_("The port must be a number between 1 and 65535."))
    if parts.scheme not in ("http", "https") or not parts.hostname or any(map(str.isspace, parts.netloc)):
        raise ValueError(_("Enter a URL such as http://192.168.1.10:8000."))
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            _("The URL must not contain a user name, password, query or fragment. Enter an API key in its own field.")
        )
    _check_address(parts.hostname)
    path = parts.path.rstrip("/")
    while path.endswith("/v1"):
        path = path.removesuffix("/v1").rstrip("/")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit((parts.scheme, host if port is None else f"{host}:{port}", path, "", ""))


def _with_scheme(url: str) -> str:
    """Return the URL with a scheme, if it begins with a host instead. Raises ValueError for a bare IPv6 address."""
    host = url.partition("/")[0]
    if "://" in url or host in ("", "http:", "https:") or host.endswith(":"):
        return url
    if _is_ipv6(host):
        raise ValueError(_("Write an IPv6 address in brackets, such as http://[::1]:8080."))
    secure = f"https://{url}"
    # A key must never go to a cloud in clear text.
    return secure if host.endswith(":443") or provider_at(secure) else f"http://{url}"


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6  # the number of the protocol
    except ValueError:
        return False


def same_server(one: str, other: str) -> bool:
    """Return True if both URLs have the same scheme, host and port. An invalid URL equals no other."""
    server = _server(one)
    return server is not None and server == _server(other)


def _server(url: str) -> tuple[str, str, int | None] | None:
    try:
        parts = urlsplit(url.strip())
        return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None


def _check_address(host: str) -> None:
    """Verify that an endpoint may have this address, in any spelling that resolvers accept, such as 0xA9FEA9FE.

    A host name is resolved and verified when a connection is opened. Raises ValueError.
    """
    try:
        addresses = socket.getaddrinfo(host.partition("%")[0], None, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        return
    allowed = Destinations.of(settings.ROUTERDASH)
    refusals = {allowed.refusal(str(address[0])) for *_, address in addresses}
    if LINK_LOCAL in refusals:
        raise ValueError(_("Link-local and metadata addresses are refused unless ROUTERDASH_ALLOW_LINK_LOCAL is set."))
    if None not in refusals:
        raise ValueError(_("This address is outside the networks in ROUTERDASH_ENDPOINT_NETWORKS."))
