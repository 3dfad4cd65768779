"""Program of tests: what RouterDash reaches only through a proxy. It runs in a network namespace of its own.

    python -m tests.e2e.outside HOST PROXY_PORT LOGIN DIRECTORY

HOST is the address of the proxy. At ENDPOINTS, on the ports below, is one simulated server. DIRECTORY has the
certificates of the server and the CA of clients.
"""

import asyncio
import ssl
import sys
from pathlib import Path

from benchmarks.simulator import Simulator
from tests.connect_proxy import ConnectProxy
from tests.relay import relay_port

ENDPOINTS = "10.99.2.1", "10.99.2.2"  # not routed to: only the proxy reaches them
PLAIN, TLS, MUTUAL_TLS = 8000, 8443, 8444


async def serve(host: str, port: int, login: str, directory: Path, upstream: int) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "server.pem")
    mutual = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mutual.load_cert_chain(directory / "server.pem")
    mutual.load_verify_locations(directory / "clients.pem")
    mutual.verify_mode = ssl.CERT_REQUIRED
    proxy = await ConnectProxy(login, host=host).start(port)
    servers = [
        await relay_port(address, own_port, upstream, context)
        for address in ENDPOINTS
        for own_port, context in ((PLAIN, None), (TLS, tls), (MUTUAL_TLS, mutual))
    ]
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in (proxy, *servers)))


def main(host: str, port: str, login: str, directory: str) -> None:
    with Simulator() as simulator:
        upstream = simulator.add(models=["tiny"]).port
        asyncio.run(serve(host, int(port), login, Path(directory), upstream))


if __name__ == "__main__":
    main(*sys.argv[1:])
