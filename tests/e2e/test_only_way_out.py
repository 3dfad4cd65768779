"""RouterDash in a network namespace whose only way out is a CONNECT proxy with a login."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.base import causes, sealing
from gateway.upstream.connection_settings import ConnectionSettings
from tests.certificates import Authority
from tests.e2e.outside import ENDPOINTS, MUTUAL_TLS, PLAIN, TLS
from tests.router import ROOT, RouterDash, clean_environment, until

pytestmark = [pytest.mark.one_database, pytest.mark.needs("ip")]  # a server of PostgreSQL is outside

INSIDE, OUTSIDE = "10.99.1.1", "10.99.1.2"
LOGIN, PROXY_PORT = "router:let:me:out", 3128
PROXY = f"http://router:let%3Ame%3Aout@{OUTSIDE}:{PROXY_PORT}"
USUAL, EXCLUDED = ENDPOINTS  # the second one is in ROUTERDASH_UPSTREAM_NO_PROXY


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no network namespaces: ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Two connected namespaces. Of the addresses of the second one, the first one reaches only OUTSIDE."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    inside, outside = f"rd{os.getpid()}in", f"rd{os.getpid()}out"
    with ExitStack() as made:
        for name in (inside, outside):
            ip("netns", "add", name)
            made.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "rd0", "netns", inside, "type", "veth", "peer", "name", "rd0", "netns", outside)
        for name, address in ((inside, INSIDE), (outside, OUTSIDE)):
            ip("-n", name, "address", "add", f"{address}/30", "dev", "rd0")
            ip("-n", name, "link", "set", "rd0", "up")
        for address in ENDPOINTS:
            ip("-n", outside, "address", "add", f"{address}/32", "dev", "lo")
        yield inside, outside


@contextmanager
def running(*command: str) -> Iterator[None]:
    """Run a program of tests, which prints a line when it is ready."""
    process = subprocess.Popen(command, cwd=ROOT, env=clean_environment({}), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make()


@pytest.fixture
def enclosed(tmp_path: Path, authority: Authority, install: Callable[..., RouterDash]) -> Iterator[RouterDash]:
    authority.issue("endpoint.example", *ENDPOINTS).write(tmp_path / "server.pem")
    (tmp_path / "clients.pem").write_text(authority.pem)
    with namespaces() as (inside, outside):
        within = ["ip", "netns", "exec", inside]
        router = install(
            ROUTERDASH_UPSTREAM_PROXY=PROXY, ROUTERDASH_UPSTREAM_NO_PROXY=EXCLUDED, HTTP_PROXY="http://127.0.0.1:9"
        )
        router.program = [*within, *router.program]
        socket, port = str(tmp_path / "socket"), str(router.port)
        program = [sys.executable, "-m", "tests.e2e.outside", OUTSIDE, str(PROXY_PORT), LOGIN, str(tmp_path)]
        with (
            running("ip", "netns", "exec", outside, *program),
            running(*within, sys.executable, "-m", "tests.relay", "from-unix", socket, port),
            running(sys.executable, "-m", "tests.relay", "to-unix", port, socket),
        ):
            yield router.start()
            router.end()


def register(router: RouterDash, name: str, url: str, **connection: Any) -> str:
    fields: dict[str, Any] = {"health_check_interval_secs": 1}
    if connection:
        fields["connection"] = connection
    response = router.post("/api/endpoints", {"name": name, "base_url": url, **fields})
    assert response.status in (201, 202), response
    endpoint_id: str = response.json()["id"]
    until(lambda: router.serves(endpoint_id, 1))
    return endpoint_id


def connect_by(router: RouterDash, endpoint_id: str, connection: Any) -> None:
    response = router.request("PATCH", f"/api/endpoints/{endpoint_id}", {"connection": connection})
    assert response.status in (200, 202), response


def becomes(router: RouterDash, endpoint_id: str, cause: str) -> None:
    """Wait until the overview names the cause among what needs attention."""

    def named() -> bool:
        items = router.get("/api/dashboard/attention").json()
        return any(item["endpoint_id"] == endpoint_id and item["cause"] == cause for item in items)

    until(named)


def store(router: RouterDash, endpoint_id: str, settings: ConnectionSettings) -> None:
    """Store settings that no form takes any more, as they are after their certificate has expired."""
    sealed = sealing.load((), router.data_dir / "encryption-key").seal(settings.dump())
    statement = "UPDATE endpoint_options SET sealed_connection = ? WHERE replace(endpoint_id, '-', '') = ?"
    router.query(statement, sealed, endpoint_id.replace("-", ""))


def test_everything_passes_by_the_proxy_and_each_mistake_is_named(enclosed: RouterDash, authority: Authority) -> None:
    router = enclosed

    # By the usual proxy: detection, sync, health, list, chat and stream
    plain = register(router, "usual", f"http://{USUAL}:{PLAIN}")
    assert router.endpoint(plain)["status"] == "online"
    until(lambda: router.lists(plain, 1))
    assert router.chat("tiny").status == 200
    assert b"[DONE]" in router.chat("tiny", stream=True).body

    # By a proxy of its own; wrong logins, and none
    connect_by(router, plain, {"proxy_url": PROXY.replace("out@", "in@")})
    becomes(router, plain, causes.PROXY_LOGIN)
    connect_by(router, plain, {"proxy_url": f"http://{OUTSIDE}:{PROXY_PORT}"})
    becomes(router, plain, causes.PROXY_WITHOUT_LOGIN)
    connect_by(router, plain, {"proxy_url": f"http://{OUTSIDE}:{PROXY_PORT + 1}"})
    becomes(router, plain, "its proxy cannot be reached: connection refused")
    connect_by(router, plain, {"proxy_url": PROXY})
    until(lambda: router.serves(plain, 1))
    assert router.chat("tiny").status == 200

    # An endpoint that NO_PROXY excludes, though only the proxy reaches it
    excluded = register(router, "excluded", f"http://{EXCLUDED}:{PLAIN}", proxy_url=PROXY)
    connect_by(router, excluded, None)
    becomes(router, excluded, causes.EXCLUDED.format(cause="network is unreachable"))

    # Private CAs
    tls = register(router, "tls", f"https://{USUAL}:{TLS}", ca_bundle=authority.pem)
    connect_by(router, tls, None)
    becomes(router, tls, causes.UNKNOWN_ISSUER)
    connect_by(router, tls, {"ca_bundle": Authority.make("Another CA").pem})
    becomes(router, tls, causes.OTHER_ISSUER)
    connect_by(router, tls, {"ca_bundle": authority.pem})
    until(lambda: router.serves(tls, 1))

    # Client certificates
    client, expired = authority.issue(), authority.issue(expired=True)
    entered = {"ca_bundle": authority.pem, "client_certificate": client.pem, "client_key": client.key}
    mutual = register(router, "mutual", f"https://{USUAL}:{MUTUAL_TLS}", **entered)
    connect_by(router, mutual, {"client_certificate": None, "client_key": None})
    becomes(router, mutual, causes.CLIENT_MAY_BE_NEEDED)  # a server on asyncio sends no alert
    store(
        router,
        mutual,
        ConnectionSettings(
            ca_bundle=authority.pem,
            client_certificate=expired.pem,
            client_key=expired.key,
            client_certificate_expires=expired.certificate.not_valid_after_utc.timestamp(),
        ),
    )
    becomes(router, mutual, causes.CLIENT_EXPIRED)

    # No secret is in a log or on a page
    shown = router.log_text() + router.get("/api/endpoints").body.decode()
    for secret in ("let:me", "let%3Ame", "PRIVATE KEY", "BEGIN CERTIFICATE"):
        assert secret not in shown
    assert "Traceback" not in router.log_text()
