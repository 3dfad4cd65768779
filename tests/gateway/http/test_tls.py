"""TLS towards clients and inference servers."""

import http.client
import json
import ssl
from contextlib import closing

import pytest

from gateway.base.config import ConfigError, load
from gateway.certificate import Certificate, tls_context
from gateway.upstream.connection_settings import ConnectionSettings
from tests.gateway import certificates
from tests.gateway.client import fetch, in_loop, pool_to
from tests.gateway.process import KEY
from tests.gateway.scripted import always, http_response, upstream
from tests.router import until

JSON = b'{"model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
OK = http_response(JSON, 200, "application/json")


@pytest.fixture
def files(tmp_path):
    return certificates.make(tmp_path)


@pytest.fixture
def gateway(make_gateway, files):
    certificate, key = files
    return make_gateway(
        ROUTERDASH_TLS_CERTIFICATE=str(certificate),
        ROUTERDASH_TLS_KEY=str(key),
        ROUTERDASH_TRUSTED_PROXIES="127.0.0.1",
    ).start()


def send_request(gateway, context, method="GET", path="/v1/models", body=None):
    """Return status and body of one request over TLS."""
    with closing(http.client.HTTPSConnection("127.0.0.1", gateway.port, timeout=30, context=context)) as connection:
        connection.request(method, path, body, {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"})
        with connection.getresponse() as response:
            return response.status, response.read()


def test_clients_are_served_over_tls(gateway, files):
    with upstream(always(OK)) as server:
        body = json.dumps({"model": gateway.add(server), "messages": []})
        status, received = send_request(gateway, certificates.trusting(files[0]), "POST", "/v1/chat/completions", body)
    assert (status, json.loads(received)["usage"]["completion_tokens"]) == (200, 2)
    assert gateway.record().outcome == "ok"


def test_a_body_of_megabytes_over_tls(gateway, files):
    with upstream(always(OK)) as server:
        body = json.dumps({"model": gateway.add(server), "messages": ["x" * 5_000_000]})
        assert send_request(gateway, certificates.trusting(files[0]), "POST", "/v1/chat/completions", body)[0] == 200
        assert server.requests[0].endswith(b'x"]}')


def test_ollamas_port_is_served_over_tls_too(make_gateway, files):
    gateway = make_gateway(ROUTERDASH_TLS_CERTIFICATE=str(files[0]), ROUTERDASH_TLS_KEY=str(files[1]))
    gateway.start(ollama=True)
    gateway.port = gateway.ollama_port
    assert send_request(gateway, certificates.trusting(files[0]), path="/")[1] == b"Ollama is running"
    with gateway.connect() as connection:
        connection.sendall(gateway.head("GET /"))
        assert connection.recv(100) == b""


def test_plain_http_is_refused_on_a_tls_port(gateway):
    with gateway.connect() as connection:
        connection.sendall(gateway.head("GET /v1/models"))
        assert connection.recv(100) == b""


def test_a_client_that_does_not_trust_the_certificate_does_not_connect(gateway):
    with pytest.raises(ssl.SSLCertVerificationError):
        send_request(gateway, ssl.create_default_context())


def test_a_renewed_certificate_is_taken_over(gateway, tmp_path):
    certificates.make(tmp_path)  # replaces the certificate that the process has loaded
    renewed = certificates.trusting(tmp_path / "tls.crt")
    until(lambda: served(gateway, renewed), 20)


def served(gateway, context):
    try:
        return send_request(gateway, context)[0] == 200
    except ssl.SSLCertVerificationError:
        return False


def test_half_a_renewal_leaves_the_old_one(files):
    certificate, key = files
    config = load({"ROUTERDASH_TLS_CERTIFICATE": str(certificate), "ROUTERDASH_TLS_KEY": str(key)})
    context = tls_context(config)
    watched = Certificate(config, context)
    key.write_text("half")
    for _ in range(2):  # loading is repeated
        with pytest.raises(ConfigError):
            watched.refresh()


def test_without_a_certificate_there_is_no_tls():
    assert load({}).scheme == "http"


def test_an_invalid_certificate(tmp_path):
    file = tmp_path / "tls.pem"
    file.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"tls\.pem do not contain a certificate and its key; see ROUTERDASH_TLS"):
        tls_context(load({"ROUTERDASH_TLS_CERTIFICATE": str(file)}))


def test_a_missing_certificate(tmp_path):
    with pytest.raises(ConfigError, match="ROUTERDASH_TLS_CERTIFICATE must be a file that exists"):
        load({"ROUTERDASH_TLS_CERTIFICATE": str(tmp_path / "none")})


@in_loop
async def test_an_inference_server_over_tls(files):
    settings = ConnectionSettings(ca_bundle=files[0].read_text())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files)
    with upstream(always(http_response(b"x" * 3_000_000)), tls=context) as server:
        async with pool_to(server, settings=settings) as pool:
            for _ in range(2):
                assert len(await fetch(pool, body=b"y" * 1_000_000)) == 3_000_000
        assert server.connections == 1
