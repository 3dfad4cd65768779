"""Connections to the port of Ollama's own API (ROUTERDASH_OLLAMA_PORT)."""

from gateway.http.exchange import RequestHead
from gateway.http.ollama.paths import on_own_port
from gateway.http.protocol import GatewayProtocol


class OllamaProtocol(GatewayProtocol):
    """One client's connection. Its paths become those below /ollama; apart from that, it is one like any other."""

    __slots__ = ()

    def begin_request(self, method: bytes, target: bytes, head: RequestHead, length: int | None, version: str) -> None:
        super().begin_request(method, on_own_port(target), head, length, version)
