"""Admission of requests by their header block: host, path, API key, origin, method and size."""

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from gateway.base.bounds import FORWARDED_BODY
from gateway.base.config import Config
from gateway.base.errors import (
    HOST_NOT_ALLOWED,
    INVALID_API_KEY,
    INVALID_REQUEST,
    KEY_DISABLED,
    METHOD_NOT_ALLOWED,
    NETWORK_NOT_ALLOWED,
    NOT_FOUND,
    NOT_READY,
    ORIGIN_NOT_ALLOWED,
    PERMISSION_DENIED,
    REQUEST_TOO_LARGE,
    UPGRADE_REQUIRED,
    Refusal,
    error_body,
)
from gateway.base.request_kinds import BY_NAME, BY_PATH, OLLAMA_KINDS, RESPONSES
from gateway.http.clients import AllowedHosts, TrustedProxies, host_name
from gateway.http.control_proxy import MAX_FORWARDED_BODY
from gateway.http.cors import Cors
from gateway.http.exchange import JSON, AdmittedRequest, Exchange, HttpRoute
from gateway.http.ollama.paths import ROOT, is_ollama, take_key
from gateway.registry.schema import ApiKey
from gateway.routing.roster import Roster

_NOT_ALLOWED_HOST = "This host name is not allowed; add it to ROUTERDASH_ALLOWED_HOSTS."
_RESPONSES_PATH = BY_NAME[RESPONSES].path.encode()
_OF_BROWSERS = frozenset((b"origin", b"sec-fetch-site", b"sec-fetch-mode"))  # headers of requests from any page
_OLLAMA_PATHS = ", ".join(
    [kind.endpoint_path for kind in OLLAMA_KINDS] + ["/api/tags", "/api/show", "/api/ps", "/api/version"]
)
_KEY_NEEDED = "An API key is needed: send it as `Authorization: Bearer sk_…` or `X-API-Key: sk_…`."


class HttpRoutes:
    """The table of paths that the gateway handles itself; control handles all others."""

    def __init__(
        self,
        paths: dict[bytes, HttpRoute],
        prefixes: dict[bytes, Callable[[bytes], HttpRoute | None]],
        pages: dict[tuple[bytes, bytes], HttpRoute],
    ) -> None:
        """`paths` and `prefixes` are those below /v1 and /ollama; `pages` maps methods and paths outside of them."""
        self.paths = paths
        self.pages = pages
        self._prefixes = prefixes

    def find(self, path: bytes) -> HttpRoute | None:
        """Return the route of a path below /v1 or /ollama."""
        route = self.paths.get(path)
        if route is not None:
            return route
        for prefix, route_of in self._prefixes.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return route_of(path)
        return None


class Admission:
    """Decides whether a request is admitted, before any of its body is stored."""

    def __init__(self, config: Config, roster: Roster, refresh: Callable[[], None]) -> None:
        """`refresh()` reads the registry store as soon as there is one."""
        self.routes = HttpRoutes({}, {}, {})
        self.cors = Cors(config.cors_origins) if config.cors_origins else None
        self._require_api_key = config.require_api_key
        self._roster = roster
        self._refresh = refresh
        self._hosts = AllowedHosts(config)
        self._proxies = TrustedProxies(config.trusted_proxies, config.scheme)

    def admit(self, exchange: Exchange, socket_ip: str | None) -> Refusal | None:
        """Return the refusal of a request that is not admitted."""
        head = exchange.head
        admitted = head.admitted
        if (
            admitted is not None
            and exchange.line.path == admitted.path
            and exchange.line.method == admitted.method
            and self._is_current(admitted)
        ):
            exchange.cors = self.cors
            exchange.route = admitted.route
            exchange.api_key = admitted.api_key
            return None
        head.peer = self._proxies.client(socket_ip, head.headers)
        host = head.fields.get(b"host")
        if host is None and exchange.line.version != "1.0":
            return Refusal(400, INVALID_REQUEST, "The Host header is missing.")
        if host is not None and not self._hosts.allow(host):
            return Refusal(400, HOST_NOT_ALLOWED, _NOT_ALLOWED_HOST)
        if exchange.line.path.startswith(b"/v1/"):
            return self._admit_api(exchange)
        if is_ollama(exchange.line.path):
            take_key(exchange)
            return self._admit_api(exchange)
        return self._admit_page(exchange)

    def check_key(self, exchange: Exchange) -> Refusal | None:
        """Return a refusal if the API key of an admitted request has been revoked or has expired since."""
        key, route, admitted = exchange.api_key, exchange.route, exchange.head.admitted
        if key is None or route is None:
            return None
        unchanged = admitted is not None and admitted.api_key is key and self._is_current(admitted)
        return None if unchanged else self._admit_key(exchange, route)

    def _is_current(self, admitted: AdmittedRequest) -> bool:
        """Return True if no API key has changed since then, and that of the request has not expired."""
        return admitted.keys_version == self._roster.keys_version and not _expired(admitted.api_key)

    def may_send_large_body(self, exchange: Exchange) -> bool:
        """Return True if a request for a page bears a cookie, which control checks, or a valid API key."""
        fields = exchange.head.fields
        if b"cookie" in fields:
            return True
        secret = fields.get(b"x-api-key") or bearer(fields.get(b"authorization"))
        try:
            return secret is not None and self._roster.key(secret) is not None
        except Refusal:
            return False

    def _admit_page(self, exchange: Exchange) -> Refusal | None:
        """Admit a request for a path outside of /v1; control checks the rest."""
        route = self.routes.pages.get((exchange.line.method, exchange.line.path))
        if route is not None:
            if (refusal := _check_encoding(exchange)) is not None:
                return refusal
            exchange.route = route
        if exchange.length is not None and exchange.length > MAX_FORWARDED_BODY:
            message = f"The body has more than {MAX_FORWARDED_BODY >> 20} MiB."
            return Refusal(413, REQUEST_TOO_LARGE, message, bound=FORWARDED_BODY)
        return None

    def _admit_api(self, exchange: Exchange) -> Refusal | None:
        """Admit a request for a path below /v1 or /ollama, and store the facts by which it was admitted."""
        if self.cors is not None:
            exchange.cors = self.cors
            if self.cors.is_preflight(exchange.line.method, exchange.head.fields):
                exchange.route = HttpRoute(b"OPTIONS", "", self._respond_preflight)
                return None
        if not self._roster.version:
            self._refresh()
        if not self._roster.version:
            return Refusal(503, NOT_READY, "RouterDash is starting.", headers=((b"retry-after", b"2"),))
        route = self.routes.find(exchange.line.path)
        if route is None:
            return _no_such_path(exchange.line.path)
        if exchange.line.method == b"GET" and _wants_websocket(exchange):
            route = HttpRoute(b"GET", route.permission, _refuse_websocket)
        refusal = self._admit_key(exchange, route) or _check_method(exchange, route) or _check_encoding(exchange)
        if refusal is not None:
            return refusal
        exchange.route = route
        if exchange.line.version != "1.0" and route.handle is not _refuse_websocket:
            line = exchange.line
            exchange.head.admitted = AdmittedRequest(
                self._roster.keys_version, line.method, line.path, route, exchange.api_key
            )
        return None

    def _admit_key(self, exchange: Exchange, route: HttpRoute) -> Refusal | None:
        """Find the API key of a request, and check its permission."""
        if not route.permission:
            return None
        secret = exchange.head.fields.get(b"x-api-key") or bearer(exchange.head.fields.get(b"authorization"))
        try:
            key = self._roster.key(secret) if secret else None
        except Refusal as refusal:
            return refusal
        if key is not None and (not_allowed := _check_use(exchange, key)) is not None:
            return not_allowed
        if not self._require_api_key:
            exchange.api_key = key
            return self._admit_without_key(exchange, route)
        if secret is None:
            return Refusal(401, INVALID_API_KEY, _KEY_NEEDED)
        if key is None:
            return Refusal(401, INVALID_API_KEY, "This API key is not known.")
        if _expired(key):
            return Refusal(401, INVALID_API_KEY, "This API key has expired.")
        exchange.api_key = key
        if route.permission not in key.permissions:
            return Refusal(403, PERMISSION_DENIED, f"This API key lacks the permission {route.permission}.")
        return None

    def _admit_without_key(self, exchange: Exchange, route: HttpRoute) -> Refusal | None:
        """Refuse requests that a page of another origin could have the browser of its visitor send."""
        origin = exchange.head.fields.get(b"origin")
        if origin is not None and not self._allows_origin(origin, exchange.head.fields.get(b"host", b"")):
            return Refusal(403, ORIGIN_NOT_ALLOWED, "Pages of other origins may not use this API without a key.")
        if route.any_type and not exchange.head.fields.keys() & _OF_BROWSERS:
            return None
        media_type = exchange.head.fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
        expected = b"multipart/form-data" if route.streams else b"application/json"
        if exchange.line.method == b"POST" and media_type != expected:
            return Refusal(415, INVALID_REQUEST, f"Send the body as {expected.decode()}.")
        return None

    def _allows_origin(self, origin: bytes, host: bytes) -> bool:
        if self.cors is not None and self.cors.allows(origin):
            return True
        return (_host_of(origin) or "null") == host_name(host.decode("latin-1"))

    async def _respond_preflight(self, exchange: Exchange) -> None:
        assert self.cors is not None
        exchange.reply(204, self.cors.preflight_headers(exchange.head.fields), b"")


def _check_use(exchange: Exchange, key: ApiKey) -> Refusal | None:
    """Refuse a key that was disabled, or that a client of this network may not use."""
    if not key.enabled:
        return Refusal(401, KEY_DISABLED, "This API key is disabled.")
    if key.allowed is not None and not key.allowed.allows_address(exchange.head.peer.ip):
        return Refusal(403, NETWORK_NOT_ALLOWED, "This API key may not be used from this network.")
    return None


def _no_such_path(path: bytes) -> Refusal:
    if path.startswith(ROOT):  # it is not repeated: a part of it may be an API key
        return Refusal(404, NOT_FOUND, f"There is no such path here; Ollama's API offers {_OLLAMA_PATHS}.")
    shown = path.decode("latin-1")
    return Refusal(404, NOT_FOUND, f"There is no {shown} here; the API offers {', '.join(BY_PATH)}.")


def _check_method(exchange: Exchange, route: HttpRoute) -> Refusal | None:
    methods = route.methods
    allowed = methods.split(b", ")
    if exchange.line.method in allowed or (exchange.line.method == b"HEAD" and b"GET" in allowed):
        return None
    message = f"This path accepts only {methods.decode()}."
    return Refusal(405, METHOD_NOT_ALLOWED, message, headers=((b"allow", methods),))


def _wants_websocket(exchange: Exchange) -> bool:
    """Return True for a client of Responses that tries a WebSocket first, as Codex does."""
    upgrade = exchange.head.fields.get(b"upgrade")
    return upgrade is not None and exchange.line.path == _RESPONSES_PATH and upgrade.lower() == b"websocket"


async def _refuse_websocket(exchange: Exchange) -> None:
    """Answer 426, by which clients go on over HTTP at once; on 404 or 405 they try again for seconds.

    It is no refusal: each start of a client would add a rejected request to the records.
    """
    message = "This path has no WebSocket; send POST requests over HTTP."
    body = error_body(426, UPGRADE_REQUIRED, message)
    exchange.reply(426, (JSON, (b"upgrade", b"HTTP/1.1")), body)


def _check_encoding(exchange: Exchange) -> Refusal | None:
    """Refuse a compressed body: it would be taken for broken JSON."""
    if b"content-encoding" not in exchange.head.fields:
        return None
    codings = b",".join(value for name, value in exchange.head.headers if name == b"content-encoding")
    if all(coding.strip().lower() in (b"", b"identity") for coding in codings.split(b",")):
        return None
    message = "The body has a Content-Encoding, which is not supported: send it uncompressed, without that header."
    return Refusal(415, INVALID_REQUEST, message)


def _expired(key: ApiKey | None) -> bool:
    return key is not None and key.expires_at is not None and key.expires_at <= time.time()


def _host_of(origin: bytes) -> str | None:
    try:
        return urlsplit(origin.decode("latin-1")).hostname
    except ValueError:  # brackets that hold no address
        return None


def bearer(authorization: bytes | None) -> bytes | None:
    """Return the API key in an Authorization header."""
    if authorization is None or authorization[:7].lower() != b"bearer ":
        return None
    return authorization[7:].strip() or None
