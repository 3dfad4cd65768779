"""What all connections of clients to one gateway have in common."""

from gateway.base import bounds
from gateway.http.client_shares import Buffers, Pacer
from gateway.http.clients import ConnectionBound, TrustedProxies
from gateway.http.interface import Application


class Shared:
    """The gateway, its bounds of connections and of memory, and its writes."""

    __slots__ = ("buffers", "connection_bound", "gateway", "pacer", "writes")

    def __init__(self, gateway: Application) -> None:
        config = gateway.config
        self.gateway = gateway
        self.writes = gateway.writes
        self.connection_bound = ConnectionBound(
            config.max_connections_per_client, TrustedProxies(config.trusted_proxies)
        )
        self.buffers = Buffers(config.max_buffered_mb << 20)
        self.pacer = Pacer(gateway.writes, lambda: gateway.bound_hits.hit(bounds.CLIENT_STEPS))
