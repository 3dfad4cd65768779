"""Endpoints with connection settings: a proxy, certificates and extra headers."""

from msgspec.structs import replace

from gateway.base import causes, sealing
from gateway.base.sealing import Sealer
from gateway.upstream.connection_settings import ConnectionSettings
from tests.certificates import Authority
from tests.connect_proxy import ConnectProxy
from tests.gateway.samples import OTHER_KEY
from tests.gateway.scripted import always, chunk, http_response, stream, upstream
from tests.router import until

ANSWER = http_response(b'{"choices": [{"message": {"role": "assistant", "content": "hi"}}]}')


def seal(gateway, **settings):
    sealer = sealing.load((), gateway.config.key_file)
    return sealer.seal(ConnectionSettings(**settings).dump())


def test_chat_and_stream_through_a_proxy_with_login(gateway):
    events = stream(chunk("a"), b"data: [DONE]\n\n")
    with ConnectProxy() as proxy, upstream(always(ANSWER)) as whole, upstream(always(events)) as streamed:
        connection = seal(gateway, proxy_url=proxy.url)
        model = gateway.add(whole, sealed_connection=connection)
        assert gateway.chat(model).json()["choices"][0]["message"]["content"] == "hi"
        model = gateway.add(streamed, sealed_connection=connection)
        assert b"[DONE]" in gateway.chat(model, stream=True).body
    assert proxy.targets == [f"127.0.0.1:{server.server_address[1]}" for server in (whole, streamed)]
    assert b"proxy-authorization" not in b"".join(whole.requests + streamed.requests).lower()


def test_a_wrong_login_is_the_recorded_error(gateway):
    with ConnectProxy() as proxy, upstream(always(ANSWER)) as server:
        model = gateway.add(server, sealed_connection=seal(gateway, proxy_url=proxy.bare_url))
        assert gateway.chat(model).status == 502
        assert server.connections == 0
    (record,) = gateway.records()
    assert [attempt.error for attempt in record.attempts] == ["its proxy asks for a login (HTTP 407)"]


def test_an_edit_closes_idle_connections_and_the_next_request_uses_it(gateway):
    with ConnectProxy() as proxy, upstream(always(ANSWER)) as server:
        model = gateway.add(server)
        assert gateway.chat(model).status == 200
        assert len(server.open) == 1
        gateway.endpoints |= {
            endpoint.id: replace(endpoint, sealed_connection=seal(gateway, proxy_url=proxy.url))
            for endpoint in gateway.endpoints_of(model)
        }
        gateway.publish()
        gateway.wait_until_followed()
        until(lambda: not server.open)
        assert gateway.chat(model).status == 200
        assert (len(proxy.targets), server.connections) == (1, 2)


def test_certificates_of_both_sides(gateway, tmp_path):
    authority = Authority.make()
    client = authority.issue()
    context = authority.issue("127.0.0.1").server_context(tmp_path, clients=authority)
    with upstream(always(ANSWER), tls=context) as server:
        connection = seal(gateway, ca_bundle=authority.pem, client_certificate=client.pem, client_key=client.key)
        assert gateway.chat(gateway.add(server, sealed_connection=connection)).status == 200
        model = gateway.add(server, sealed_connection=seal(gateway, ca_bundle=authority.pem))
        assert gateway.chat(model).status == 502
    # The server's alert, or the reset that may overtake it
    assert gateway.records()[-1].attempts[0].error in (causes.CLIENT_NEEDED, "the connection broke off")


def test_extra_headers_replace_those_of_clients(gateway):
    with upstream(always(ANSWER)) as server:
        headers = (("X-Org", "blue"), ("User-Agent", "router"))
        model = gateway.add(server, sealed_connection=seal(gateway, headers=headers))
        assert gateway.chat_with(model, {"User-Agent": "client", "Accept": "text/plain"}).status == 200
    head = server.requests[0].partition(b"\r\n\r\n")[0].lower()
    assert head.count(b"x-org: blue") == head.count(b"user-agent: router") == head.count(b"user-agent") == 1
    assert b"accept: text/plain" in head


def test_a_value_of_an_extra_header_is_removed_from_errors(gateway):
    with upstream(always(http_response(b'{"error": {"message": "no such org: secret-org-17"}}', 400))) as server:
        model = gateway.add(server, sealed_connection=seal(gateway, headers=(("X-Org", "secret-org-17"),)))
        response = gateway.chat(model)
    assert b"secret-org" not in response.body


def test_an_endpoint_whose_settings_cannot_be_opened_gets_no_requests(gateway):
    sealed = Sealer([OTHER_KEY]).seal(ConnectionSettings(proxy_url="http://127.0.0.1:9").dump())
    with upstream(always(ANSWER)) as server:
        model = gateway.add(server, sealed_connection=sealed)
        assert gateway.chat(model).status in (404, 503)
        assert server.connections == 0
