"""How administrators edit and see the connection settings of an endpoint: proxy, certificates and extra headers.

They are sealed as one text, as an API key is. A mask stands for each stored secret; a form that sends it back keeps
what is stored. Settings of one server are never used for another one.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypedDict

from django.utils.translation import gettext as _

from endpoints import sealer
from endpoints.connections import certificates
from gateway.base.connecting.forward_proxy import EXAMPLE, MASK, ForwardProxy
from gateway.base.sealing import Unsealable
from gateway.providers.table import Provider
from gateway.upstream import extra_headers
from gateway.upstream.connection_settings import PLAIN, ConnectionSettings, load
from gateway.upstream.dialer import tls_context
from gateway.upstream.errors import UpstreamError

PROXY, CA, CERTIFICATE, KEY, HEADERS = "proxy_url", "ca_bundle", "client_certificate", "client_key", "headers"
FIELDS = (PROXY, CA, CERTIFICATE, KEY, HEADERS)


class InvalidConnection(ValueError):
    """Values that cannot be used: a sentence for each field."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(errors.values()))
        self.errors = errors


class ShownConnection(TypedDict):
    """Connection settings with a mask for each secret. null is not set."""

    proxy_url: str | None
    ca_bundle: str | None
    client_certificate: str | None
    client_certificate_expires: datetime | None
    client_key: str | None
    headers: dict[str, str]


@lru_cache(maxsize=1024)
def opened(sealed: str | None) -> ConnectionSettings:
    """Return sealed settings. Raises Unsealable."""
    if sealed is None:
        return PLAIN
    try:
        return load(sealer.sealer().open(sealed))
    except ValueError as error:
        raise Unsealable(str(error)) from None


def sealed(settings: ConnectionSettings) -> str | None:
    """Return settings as they are stored; None if nothing is set."""
    return None if settings.is_plain else sealer.sealer().seal(settings.dump())


def shown(stored: str | None) -> ShownConnection | None:
    """Return stored settings with masks; None if there are none. Settings that cannot be opened are all masked."""
    if stored is None:
        return None
    try:
        settings = opened(stored)
    except Unsealable:
        return ShownConnection(
            proxy_url=MASK,
            ca_bundle=MASK,
            client_certificate=MASK,
            client_certificate_expires=None,
            client_key=MASK,
            headers={},
        )
    expires = settings.client_certificate_expires
    return ShownConnection(
        proxy_url=settings.proxy_url and ForwardProxy.parse(settings.proxy_url).masked,
        ca_bundle=settings.ca_bundle and MASK,
        client_certificate=settings.client_certificate and MASK,
        client_certificate_expires=None if expires is None else datetime.fromtimestamp(expires, UTC),
        client_key=settings.client_key and MASK,
        headers={name: MASK for name, _value in settings.headers},
    )


def merged(
    sealed: str | None, entered: Mapping[str, Any], provider: Provider | None, *, moves: bool = False
) -> ConnectionSettings:
    """Return the settings after an edit. Fields that were not entered, and masked ones, keep what is stored.

    `moves`: the address now leads to another server, so that nothing is kept. Raises InvalidConnection.
    """
    try:
        stored = PLAIN if moves else opened(sealed)
    except Unsealable:
        if any(name not in entered or _is_masked(entered[name]) for name in FIELDS):
            text = _(
                "The stored connection settings cannot be opened with this encryption key. Enter all of them again."
            )
            raise InvalidConnection({PROXY: text}) from None
        stored = PLAIN
    editor = _Editor(stored, entered, provider, moves=moves)
    certificate, key = editor.client()
    settings = ConnectionSettings(
        editor.take(PROXY, editor.proxy),
        editor.take(CA, certificates.authorities),
        certificate,
        key,
        None if certificate is None else certificates.expiry(certificate),
        editor.take(HEADERS, editor.headers) or (),
    )
    if not editor.errors:
        editor.try_tls(settings)
    if editor.errors:
        raise InvalidConnection(editor.errors)
    return settings


def _is_masked(value: object) -> bool:
    return MASK in value if isinstance(value, str) else isinstance(value, Mapping) and MASK in value.values()


class _Editor:
    def __init__(
        self, stored: ConnectionSettings, entered: Mapping[str, Any], provider: Provider | None, *, moves: bool
    ) -> None:
        self._stored, self._entered, self._provider, self._moves = stored, entered, provider, moves
        self.errors: dict[str, str] = {}

    def take(self, name: str, parse: Any) -> Any:
        """Return the new value of a field; None deletes it."""
        if name not in self._entered:
            return getattr(self._stored, name)
        value = self._entered[name]
        if isinstance(value, str):
            value = value.strip()
        if not value:
            return None
        if value == MASK:
            return getattr(self._stored, name)
        try:
            return parse(value)
        except ValueError as error:
            self.errors[name] = str(error)
            return None

    def proxy(self, url: str) -> str | None:
        stored = self._stored.proxy_url
        if stored is not None and url == ForwardProxy.parse(stored).masked:
            return stored
        if MASK in url:
            if self._moves:
                return None
            raise ValueError(_("Enter the login of the proxy again: it is kept only with the proxy's own address."))
        if url.lower().startswith("https:"):
            raise ValueError(_("Enter the proxy with http://, because RouterDash speaks to proxies without TLS."))
        try:
            return ForwardProxy.parse(url).url
        except ValueError:
            raise ValueError(
                _("Enter the proxy as a URL with its port, such as %(example)s.") % {"example": EXAMPLE}
            ) from None

    def headers(self, entered: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        if len(entered) > extra_headers.MAX_HEADERS:
            raise ValueError(
                _("An endpoint may have at most %(most)d extra headers.") % {"most": extra_headers.MAX_HEADERS}
            )
        if (twice := extra_headers.repeated(entered)) is not None:
            raise ValueError(_("The header %(name)s occurs twice.") % {"name": twice})
        kept = {name.lower(): value for name, value in self._stored.headers}
        reserved = extra_headers.reserved_for(self._provider)
        headers: list[tuple[str, str]] = []
        for name, value in entered.items():
            if not extra_headers.is_name(name):
                raise ValueError(_("%(name)r cannot be the name of a header.") % {"name": name[:100]})
            if name.lower() in reserved:
                raise ValueError(_("RouterDash sets the header %(name)s itself.") % {"name": name})
            if value == MASK:
                value = kept.get(name.lower())
                if value is None:
                    if self._moves:
                        continue
                    raise ValueError(_("Enter the value of the header %(name)s: none is stored.") % {"name": name})
            if not isinstance(value, str) or not extra_headers.is_value(value):
                raise ValueError(
                    _("The value of the header %(name)s must be 1 to %(most)d visible ASCII characters in one line.")
                    % {"name": name, "most": extra_headers.MAX_VALUE}
                )
            headers.append((name, value))
        return tuple(headers)

    def client(self) -> tuple[str | None, str | None]:
        """Return certificate and key of the client: both or none."""
        certificate = self.take(CERTIFICATE, certificates.of_client)
        key = self.take(KEY, certificates.key)
        if self.errors.keys() & {CERTIFICATE, KEY} or not (certificate or key):
            return None, None
        if not certificate:
            self.errors[CERTIFICATE] = _("Enter the client certificate that belongs to the key.")
            return None, None
        if not key:
            self.errors[KEY] = _("Enter the key that belongs to the client certificate.")
            return None, None
        if not certificates.belong_together(certificate, key):
            self.errors[KEY] = _("This key does not belong to the client certificate.")
            return None, None
        return certificate, key

    def try_tls(self, settings: ConnectionSettings) -> None:
        """Have the TLS library take the certificates: it refuses weak ones, for example."""
        if settings.ca_bundle is None and settings.client_certificate is None:
            return
        try:
            tls_context(settings)
        except UpstreamError:
            name = CERTIFICATE if settings.ca_bundle is None else CA
            self.errors[name] = _("The TLS library does not accept these certificates. Their keys may be too short.")
