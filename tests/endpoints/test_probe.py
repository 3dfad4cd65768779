import asyncio
import gzip
import ipaddress
import ssl
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.process import free_port
from benchmarks.simulator import Simulator
from endpoints import detection, health, probe, sync
from endpoints.clouds.kinds import KIND_LABELS
from endpoints.probe import Probe, ProbeResponse, Unreachable
from tests.endpoints.conftest import Serve, break_off, hang, listing, run_probe

pytestmark = pytest.mark.every_database


def get(url: str, path: str = "/v1/models", **options: Any) -> ProbeResponse:
    async def run_request(server_probe: Probe) -> ProbeResponse:
        return await server_probe.get(path)

    response = run_probe(run_request, url, **options)
    assert isinstance(response, ProbeResponse)
    return response


@pytest.mark.parametrize(
    ("status", "ok"), [(200, True), (204, True), (299, True), (199, False), (302, False), (404, False)]
)
def test_only_a_2xx_is_ok(status: int, ok: bool) -> None:
    assert ProbeResponse(status).ok is ok


def test_a_response_has_status_json_and_server(sim: Simulator) -> None:
    response = get(sim.add(kind="vllm", models=["tiny"]).url)
    assert (response.status, response.server) == (200, "vllm")
    assert [model["id"] for model in response.body["data"]] == ["tiny"]


def test_an_error_is_a_response_too(sim: Simulator) -> None:
    response = get(sim.add(health_fault="500").url)
    assert (response.status, response.ok) == (500, False)


def test_the_key_is_sent_as_a_bearer_token(sim: Simulator) -> None:
    url = sim.add(api_key="sk-upstream").url
    assert get(url, key="sk-upstream").status == 200
    assert get(url).status == 401


def test_no_key_sends_no_header(serve: Serve) -> None:
    server = serve({})
    get(server.url)
    assert server.requests == [("GET", "/v1/models", "")]


def test_a_post_sends_json(serve: Serve) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response(await request.json())

    async def run_request(server_probe: Probe) -> ProbeResponse:
        return await server_probe.post("/api/show", {"model": "tiny"})

    server = serve({"/api/show": echo})
    assert run_probe(run_request, server.url).body == {"model": "tiny"}
    assert server.requests[0][0] == "POST"


@pytest.mark.parametrize("text", ["", "<html>", "{", '{"a": 1} {"b": 2}', b"\xff\xfe", "[" * 100_000])
def test_a_response_without_json_has_no_body(serve: Serve, text: str | bytes) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(body=text)

    response = get(serve({"/v1/models": page}).url)
    assert (response.status, response.body) == (200, None)


def test_an_endless_response_is_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b'"' * 4096)

    monkeypatch.setattr(probe, "MAX_RESPONSE_BYTES", 10_000)
    assert get(serve({"/v1/models": flood}).url).body is None


def test_a_chunked_response_is_joined(serve: Serve) -> None:
    async def slowly(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b'{"data"', b": [", b"]}"):
            await response.write(piece)
            await asyncio.sleep(0)
        return response

    assert get(serve({"/v1/models": slowly}).url).body == {"data": []}


def test_redirects_are_not_followed(serve: Serve, sim: Simulator) -> None:
    elsewhere = sim.add()

    async def away(request: web.Request) -> web.Response:
        raise web.HTTPFound(elsewhere.url + "/v1/models")

    assert get(serve({"/v1/models": away}).url).status == 302
    assert elsewhere.seen.probes == 0


def test_cookies_are_not_kept(serve: Serve) -> None:
    sent: list[str] = []

    async def cookie(request: web.Request) -> web.Response:
        sent.append(request.headers.get("Cookie", ""))
        return web.json_response({}, headers={"Set-Cookie": "a=b"})

    async def twice(server_probe: Probe) -> None:
        await server_probe.get("/v1/models")
        await server_probe.get("/v1/models")

    run_probe(twice, serve({"/v1/models": cookie}).url.replace("127.0.0.1", "localhost"))
    assert sent == ["", ""]


def test_proxy_variables_are_not_read(sim: Simulator, nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", nowhere)
    assert get(sim.add().url).status == 200


# Unreachable


def reason_of(url: str, **options: Any) -> str:
    with pytest.raises(Unreachable) as caught:
        get(url, **options)
    return str(caught.value)


def test_a_closed_port_refuses(nowhere: str) -> None:
    assert reason_of(nowhere) == "connection refused"


def test_a_closed_port_refuses_by_every_address_of_its_name() -> None:
    assert reason_of(f"http://localhost:{free_port()}") == "connection refused"


def test_an_unknown_name_cannot_be_resolved() -> None:
    assert reason_of("http://gpu-box.invalid:8000") == "its name cannot be resolved"


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "0xA9FEA9FE", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"]
)
def test_names_of_link_local_addresses_are_not_connected_to(host: str) -> None:
    assert "link-local" in reason_of(f"http://{host}:9")
    assert "169.254" not in reason_of(f"http://{host}:9")


def allow_networks(settings: Any, *networks: str) -> None:
    allowed = tuple(ipaddress.ip_network(network) for network in networks)
    settings.ROUTERDASH = replace(settings.ROUTERDASH, endpoint_networks=allowed)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_addresses_outside_allowed_networks_are_not_connected_to(sim: Simulator, settings: Any, host: str) -> None:
    simulated = sim.add()
    url = simulated.url.replace("127.0.0.1", host)
    allow_networks(settings, "10.0.0.0/8")
    assert "ROUTERDASH_ENDPOINT_NETWORKS" in reason_of(url)
    assert simulated.seen.probes == 0
    allow_networks(settings, "10.0.0.0/8", "127.0.0.0/8")
    assert get(url).status == 200


def test_the_settings_may_allow_link_local_addresses(sim: Simulator, settings: Any) -> None:
    settings.ROUTERDASH = replace(settings.ROUTERDASH, allow_link_local=True)
    assert get(sim.add().url).status == 200


def test_a_silent_server_times_out(sim: Simulator) -> None:
    assert reason_of(sim.add(health_fault="hang").url, timeout=0.05) == "no answer within 0.05 s"


def test_an_incomplete_response_times_out(serve: Serve) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{")
        return await hang(request)

    assert reason_of(serve({"/v1/models": half}).url, timeout=0.2).startswith("no answer")


def test_a_broken_connection_is_reported(serve: Serve) -> None:
    assert reason_of(serve({"/v1/models": break_off}).url) == "the connection broke off"


def test_a_server_without_http_is_a_broken_connection(simulator: Simulator) -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        writer.close()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(banner, "127.0.0.1", 0)

    async def stop() -> None:
        server.close()

    server = simulator.run(start())
    try:
        assert reason_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") == "the connection broke off"
    finally:
        simulator.run(stop())


def test_the_reason_contains_no_address(nowhere: str) -> None:
    assert "127.0.0.1" not in reason_of(nowhere)


def test_a_plain_server_has_no_tls(sim: Simulator) -> None:
    url = sim.add().url.replace("http:", "https:")
    assert reason_of(url) == "TLS failed; does it speak http:// instead of https://?"


def test_a_self_signed_certificate_is_not_trusted(simulator: Simulator, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))

    async def start() -> asyncio.Server:
        return await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)

    async def stop() -> None:
        server.close()

    server = simulator.run(start())
    try:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert reason_of(url) == "its TLS certificate has an unknown issuer; enter the certificate of its CA"
    finally:
        simulator.run(stop())


def self_signed(directory: Path) -> Path:
    """Write a self-signed certificate for 127.0.0.1 and its key to one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = directory / "server.pem"
    path.write_bytes(secret + made.sign(key, hashes.SHA256()).public_bytes(pem))
    return path


def test_a_key_does_not_show_where_a_probe_is_printed() -> None:
    with closing(asyncio.new_event_loop()) as loop:
        shown = loop.run_until_complete(_printed())
    assert "sk-upstream" not in shown


async def _printed() -> str:
    async with probe.session() as session:
        return repr(Probe(session, "http://a:1", "sk-upstream"))


# Responses that are too large


def models_json(count: int) -> bytes:
    return b'{"object":"list","data":[%b]}' % b",".join(
        b'{"id":"m%d","object":"model"}' % number for number in range(count)
    )


def test_the_beginning_of_a_too_long_list_is_read(serve: Serve) -> None:
    async def many(request: web.Request) -> web.Response:
        return web.Response(body=models_json(100_000), content_type="application/json")

    response = get(serve({"/v1/models": many}).url)
    assert response.cut
    assert 2000 < len(response.body["data"]) < 50_000
    assert response.body["data"][:2] == [{"id": "m0", "object": "model"}, {"id": "m1", "object": "model"}]


def test_a_list_of_normal_size_is_read_completely(serve: Serve) -> None:
    server = serve({"/v1/models": listing(*map(str, range(2000)), owned_by="me", meta={"n_ctx": 1, "n_vocab": 2})})
    response = get(server.url)
    assert (len(response.body["data"]), response.cut) == (2000, False)


@pytest.mark.parametrize(
    ("body", "beginning"),
    [
        (b'{"data":[{"id":"a"},{"id":"b"},{"id":"c', b'{"data":[{"id":"a"},{"id":"b"}]}'),
        (b'{"data":["a","b","c', b'{"data":["a","b"]}'),
        (b'{"data":[1,2,3', b'{"data":[1,2]}'),
        (b'{"data":[{"id":"]},{\\"a"},{"id":"b', b'{"data":[{"id":"]},{\\"a"}]}'),
        (b'{"data":[{"id":"a\\\\"},{"id":"b', b'{"data":[{"id":"a\\\\"}]}'),
        (b'{"data":[{"a":[{"b":1},{"c":2}]},{"id', b'{"data":[{"a":[{"b":1},{"c":2}]}]}'),
        (b'{"data":[{"id":"a"}],"has_more":tr', b'{"data":[{"id":"a"}]}'),
        (b'{"data":[{"id":"a', b""),
        (b'{"a":{"b":[1,2,3', b""),
        (b"[[1,2,3", b""),
        (b"]]]]", b""),
        (b'{"data', b""),
        (b"", b""),
    ],
)
def test_the_beginning_ends_after_an_item(body: bytes, beginning: bytes) -> None:
    assert probe.beginning(body) == beginning


def test_the_number_of_steps_to_find_the_beginning_is_bounded() -> None:
    assert probe.beginning(b'{"data":[' + b"{}," * 100 + b"{", max_marks=9) == b'{"data":[{},{}]}'


@pytest.mark.parametrize("item", [b"[],", b"{},", b'{"":{}},', b"0,", b'"",'])
def test_the_number_of_decoded_values_is_bounded(item: bytes) -> None:
    response = probe._parsed(200, b'{"data":[' + item * (3 * probe.MAX_VALUES) + b"0]}", "")
    assert response.cut
    assert response.body is None or len(response.body["data"]) <= probe.MAX_VALUES


def test_compressed_responses_are_not_decompressed(serve: Serve) -> None:
    encodings: list[str] = []

    async def bomb(request: web.Request) -> web.Response:
        encodings.append(request.headers["Accept-Encoding"])
        return web.Response(body=gzip.compress(models_json(2)), headers={"Content-Encoding": "gzip"})

    assert get(serve({"/v1/models": bomb}).url).body is None
    assert encodings == ["identity"]


def test_a_health_check_does_not_decode_the_response(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: Any) -> None:
        raise AssertionError("it was decoded")

    async def run_request(server_probe: Probe) -> ProbeResponse:
        return await server_probe.get_without_body("/v1/models")

    server = serve({"/v1/models": listing("a")})
    monkeypatch.setattr(probe, "_parsed", decode)
    assert run_probe(run_request, server.url).ok


# Servers that repeat the API key

QUOTED = "sk-upstream/master+key_0123456789"


def quotes(status: int, spelling: str) -> Any:
    async def respond(request: web.Request) -> web.Response:
        reported = '{"data":[{"id":"%s"}],"error":{"message":"%s"},"server":"%s"}' % ((spelling,) * 3)
        headers = {"Server": QUOTED, "Content-Type": "application/json"}
        return web.Response(body=reported, status=status, reason=QUOTED, headers=headers)

    return respond


@pytest.mark.parametrize("status", [200, 401, 500])
@pytest.mark.parametrize(
    "spelling", [QUOTED, "".join(f"\\u{ord(character):04x}" for character in QUOTED)], ids=["plain", "escaped"]
)
def test_results_of_probes_never_contain_the_key(serve: Serve, status: int, spelling: str) -> None:
    paths = ("/v1/models", "/api/health", "/api/system", "/api/v1/models", "/api/tags", "/v1/version", "/api/show")
    server = serve(dict.fromkeys(paths, quotes(status, spelling)))

    async def learn(server_probe: Probe) -> list[object]:
        questions = (
            detection.detect(server_probe),
            health.check(server_probe, "xllm"),
            *(sync.fetch(server_probe, kind) for kind in KIND_LABELS),
        )
        return list(await asyncio.gather(*questions, return_exceptions=True))

    results = run_probe(learn, server.url, key=QUOTED)
    assert isinstance(results, list)
    assert QUOTED not in repr(results) + "".join(map(str, results))
    assert ("[redacted]" in repr(results)) is (status == 200)
