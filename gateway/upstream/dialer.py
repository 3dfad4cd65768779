"""Opening connections to endpoints: directly, or by CONNECT of an HTTP proxy. Gateways and control use this alone.

The host of an endpoint is resolved here once, and its addresses are checked; a proxy gets the checked address, never
the name, which it might resolve to another one. TLS still names and verifies the host. No proxy variable is read.
"""

import asyncio
import socket
import ssl
import tempfile
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from gateway.base import causes
from gateway.base.addresses import normalise_ip
from gateway.base.config import Config
from gateway.base.connecting.forward_proxy import ForwardProxy, NoProxy, authority, is_loopback
from gateway.base.destinations import Destinations
from gateway.upstream.connection_settings import PLAIN, ConnectionSettings
from gateway.upstream.errors import (
    CONNECT,
    UpstreamError,
    cause_of,
    connect_error,
    proxy_refusal,
    proxy_unreachable,
)

P = TypeVar("P", bound=asyncio.Protocol)

MAX_PROXY_HEAD = 16 << 10  # bytes of a proxy's response to CONNECT
CONTEXTS = 256  # TLS contexts that are kept: one for each set of certificates


class Dialer:
    """Opens connections, with what the installation allows and sets for all endpoints."""

    def __init__(
        self,
        destinations: Destinations | None = None,
        proxy: ForwardProxy | None = None,
        no_proxy: NoProxy | None = None,
    ) -> None:
        """`proxy`: for endpoints without one of their own, except those in `no_proxy`."""
        self._destinations = destinations or Destinations()
        self._proxy = proxy
        self._no_proxy = no_proxy or NoProxy()

    @classmethod
    def of(cls, config: Config) -> "Dialer":
        return cls(Destinations.of(config), config.upstream_proxy, config.upstream_no_proxy)

    async def open(
        self,
        factory: Callable[[], P],
        host: str,
        port: int,
        *,
        tls: bool,
        timeout: float,
        settings: ConnectionSettings = PLAIN,
    ) -> P:
        """Open a connection to an endpoint within `timeout` seconds, and return its protocol. Raises UpstreamError."""
        place = _Place()
        try:
            context = tls_context(settings) if tls else None
            async with asyncio.timeout(timeout):
                return await self._open(factory, host, port, context, settings, place)
        except TimeoutError as error:
            if error.errno is None and place.in_proxy:
                raise UpstreamError(CONNECT, causes.PROXY_TIMEOUT.format(seconds=f"{timeout:g}")) from None
            raise self._direct_error(error, timeout, settings, place) from None
        except (OSError, ValueError) as error:  # ValueError: the host is no valid name
            raise self._direct_error(error, timeout, settings, place) from None

    async def _open(
        self,
        factory: Callable[[], P],
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        settings: ConnectionSettings,
        place: "_Place",
    ) -> P:
        name = None if context is None else host
        loop = asyncio.get_running_loop()
        last: Exception | None = None
        for address in await self.addresses(host, port):
            tunnel = None
            try:
                proxy = self._proxy_for(host, address, settings, place)
                if proxy is None:
                    return (await loop.create_connection(factory, address, port, ssl=context, server_hostname=name))[1]
                place.in_proxy = True
                tunnel = await self._tunnel(proxy, address, port, is_usual=settings.proxy_url is None)
                place.in_proxy = False
                return (await loop.create_connection(factory, sock=tunnel, ssl=context, server_hostname=name))[1]
            except (OSError, UpstreamError) as error:  # OSError includes ssl.SSLError; another address may work
                last = error
                if tunnel is not None:
                    tunnel.close()
            except BaseException:
                if tunnel is not None:
                    tunnel.close()
                raise
        assert last is not None
        try:
            raise last
        finally:
            del last  # it holds this frame

    def _direct_error(
        self, error: Exception, timeout: float, settings: ConnectionSettings, place: "_Place"
    ) -> UpstreamError:
        """Return the error of a connection, with a hint if a proxy might be missing."""
        mapped = connect_error(error, timeout, settings)
        if place.is_excluded and not isinstance(error, ssl.SSLError):
            return UpstreamError(CONNECT, causes.EXCLUDED.format(cause=mapped))
        return mapped

    async def addresses(self, host: str, port: int) -> list[str]:
        """Resolve a host, and return the addresses that the configuration allows. No other code resolves it: a second
        lookup could return addresses that were not checked. Raises UpstreamError if none is allowed, and OSError.
        """
        if normalise_ip(host) is not None:
            resolved = [host]
        else:
            infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            resolved = [str(address[0]) for *_, address in infos]
        refusals = {address: self._destinations.refusal(address) for address in resolved}
        allowed = [address for address in resolved if refusals[address] is None]
        if not allowed:
            raise UpstreamError(CONNECT, next(filter(None, refusals.values()), causes.NO_ADDRESS))
        return allowed

    def _proxy_for(self, host: str, address: str, settings: ConnectionSettings, place: "_Place") -> ForwardProxy | None:
        """Return the proxy to an address, if there is one."""
        place.is_excluded = False
        if settings.proxy_url is not None:
            return ForwardProxy.parse(settings.proxy_url)
        if self._proxy is None:
            return None
        if not self._no_proxy.includes(host, address):
            return self._proxy
        place.is_excluded = not is_loopback(address)
        return None

    async def _tunnel(self, proxy: ForwardProxy, address: str, port: int, *, is_usual: bool) -> socket.socket:
        """Return a socket that leads through the proxy to an address. Raises UpstreamError."""
        opened = await self._socket_to(proxy)
        try:
            status = await _open_tunnel(opened, proxy, authority(address.partition("%")[0], port))
            if not 200 <= status < 300:
                raise proxy_refusal(status, has_login=proxy.login is not None, is_usual=is_usual)
        except (OSError, ValueError):
            opened.close()
            raise UpstreamError(CONNECT, causes.PROXY_SILENT) from None
        except BaseException:
            opened.close()
            raise
        return opened

    async def _socket_to(self, proxy: ForwardProxy) -> socket.socket:
        """Return a socket to the proxy, whose addresses obey the same rules as those of endpoints. Raises
        UpstreamError.
        """
        loop = asyncio.get_running_loop()
        cause = ""
        try:
            for address in await self.addresses(proxy.host, proxy.port):
                infos = await loop.getaddrinfo(
                    address, proxy.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
                )
                opened = socket.socket(infos[0][0], socket.SOCK_STREAM)
                try:
                    opened.setblocking(False)
                    await loop.sock_connect(opened, infos[0][4])
                except OSError as error:
                    opened.close()
                    cause = cause_of(error)
                except BaseException:
                    opened.close()
                    raise
                else:
                    return opened
        except UpstreamError as error:  # of `addresses`
            cause = str(error)
        except (OSError, ValueError) as error:
            cause = cause_of(error)
        raise proxy_unreachable(cause)


class _Place:
    """Where the opening of a connection is, for its error."""

    __slots__ = ("in_proxy", "is_excluded")

    def __init__(self) -> None:
        self.in_proxy = False  # a proxy has not yet opened the connection
        self.is_excluded = False  # the usual proxy is left out, because a setting says so


async def _open_tunnel(opened: socket.socket, proxy: ForwardProxy, target: str) -> int:
    """Have a proxy connect to `target`, and return the status of its response. Raises OSError or ValueError."""
    loop = asyncio.get_running_loop()
    host = target.encode()
    await loop.sock_sendall(opened, b"CONNECT %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (host, host, proxy.authorization))
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        part = await loop.sock_recv(opened, 4096)
        received += part
        if not part or len(received) > MAX_PROXY_HEAD:
            raise ValueError("no response")
    version, status, *_ = received[:end].split(None, 2)
    if not version.startswith(b"HTTP/1.") or len(status) != 3:
        raise ValueError("no HTTP")
    code = int(status)
    if 200 <= code < 300 and len(received) > end + 4:
        raise ValueError("bytes behind the response: no endpoint speaks first")
    return code


def tls_context(settings: ConnectionSettings) -> ssl.SSLContext:
    """Return the TLS context for an endpoint. Raises UpstreamError if its certificates cannot be used."""
    try:
        return _context(settings.ca_bundle, settings.client_certificate, settings.client_key)
    except (OSError, ValueError):  # includes ssl.SSLError
        raise UpstreamError(CONNECT, causes.UNUSABLE) from None


@lru_cache(maxsize=CONTEXTS)
def _context(ca_bundle: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    """Return a context, which connections share. Reading the machine's certificates takes milliseconds."""
    context = ssl.create_default_context(cadata=ca_bundle)
    # Python 3.13 made this the default. It refuses certificates of private authorities that lack optional fields, which
    # earlier Pythons, browsers and curl accept.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if certificate is not None and key is not None:
        # The library reads a certificate from a file only. This one has no name, or is readable by its owner alone
        # and removed at once.
        with tempfile.NamedTemporaryFile() as file:
            file.write(f"{key}\n{certificate}".encode())
            file.flush()
            context.load_cert_chain(file.name, password=_no_password)
    return context


def _no_password() -> bytes:
    """Refuse an encrypted key: else OpenSSL would ask for its password on the terminal."""
    raise ValueError("the key is encrypted")
