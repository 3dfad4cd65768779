"""Whichever path and query a client sends, an endpoint receives the path of the kind and no other."""

import asyncio
import itertools
import json
import socket

import pytest

from endpoints import engines, probe
from gateway.base import request_kinds
from gateway.base.sealing import Sealer
from tests.gateway.process import KEY, GatewayProcess
from tests.hostile.nginx import Nginx
from tests.router import until

SECRET = "sk-upstream-master-key"

DOTS = (b"..", b"%2e%2e", b"%2E.", b".%2e", b"%252e%252e", b"%c0%ae%c0%ae", b"%e0%80%ae%e0%80%ae", b"%uff0e%uff0e")
SLASHES = (b"/", b"%2f", b"%2F", b"%252f", b"%25252f", b"%c0%af", b"%e0%80%af", b"%2f%2f", b"/./", b"//")
BACKSLASHES = (b"\\", b"%5c", b"%5C", b"%255c", b"%c1%9c", b"/\\", b"%5c%2f")
SEMICOLONS = (b";", b";a=b", b"%3b", b"%253b", b"%c0%bb", b"%00;")
NULS = (b"\0", b"%00", b"%2500", b"%c0%80", b"%u0000")
BREAKS = (b"\r\n", b"\n", b"\r", b"%0d%0a", b"%0a", b"%250d%250a", b"%c0%8d%c0%8a", b"%e5%98%8d%e5%98%8a")
OTHERS = (
    b"?",
    b"%3f",
    b"#",
    b"%23",
    b"%",
    b"%2",
    b"%zz",
    b" ",
    b"%20",
    b"\t",
    b"+",
    b"*",
    b":",
    b"%80",
    b"\xff",
    b"@x",
)
EVIL = b"internal"
HEADER = b"X-Evil: 1"


def traversals() -> set[bytes]:
    """Response ids that lead to another path if a server decodes them or resolves their dots."""
    ids = {b".", *DOTS, b"...", b"%2e", b"~", b""}
    for dots, slash in itertools.product(DOTS, (*SLASHES, *BACKSLASHES)):
        ids |= {
            dots + slash + EVIL + slash + b"secrets",
            dots + slash + dots + slash + EVIL + slash + b"secrets",
            b"resp_a" + slash + dots + slash + dots + slash + dots + slash + EVIL + slash + b"secrets",
            b"resp_a" + slash + dots,
            slash + EVIL,
        }
    for dots, semicolon, slash in itertools.product(DOTS, SEMICOLONS, (b"/", b"%2f", b"%5c")):
        ids.add(dots + semicolon + slash + dots + semicolon + slash + EVIL)
    for odd in (*NULS, *BREAKS, *OTHERS, *SEMICOLONS):
        ids |= {odd, b"resp_a" + odd, odd + b"resp_a", b"resp_a" + odd + HEADER, b"..%2f" + odd + EVIL}
    return ids


def values() -> set[bytes]:
    """Query values that would be several parameters if they were passed on unescaped."""
    every = (*DOTS, *SLASHES, *BACKSLASHES, *SEMICOLONS, *NULS, *BREAKS, *OTHERS)
    query_values = {b"a" + odd + b"b" for odd in every} | set(every)
    return (
        query_values
        | {odd + HEADER for odd in (*BREAKS, *NULS)}
        | {b"x" * 257, b"%26other=1", b"%3d", b"'", b'"', b"<"}
    )


class Client:
    """Sends bytes on one connection, reconnects when it is closed, and returns statuses."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._connection: socket.socket | None = None

    def status(self, method: bytes, target: bytes, body: bytes = b"", *headers: bytes) -> int:
        if self._connection is None:
            self._connection = socket.create_connection(("127.0.0.1", self._gateway.port), timeout=30)
        lines = (
            method + b" " + target + b" HTTP/1.1", b"host: 127.0.0.1", b"authorization: Bearer " + KEY.encode(),
            b"content-type: application/json", b"content-length: %d" % len(body), *headers,
        )  # fmt: skip
        self._connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        with self._connection.makefile("rb") as response:
            status = int(response.readline().split()[1])
            fields = dict(line.strip().lower().split(b": ", 1) for line in iter(response.readline, b"\r\n"))
            response.read(int(fields[b"content-length"]))
        if fields.get(b"connection") == b"close":
            self.close()
        return status

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


pytestmark = pytest.mark.needs("nginx")


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    running = Nginx(tmp_path_factory.mktemp("nginx"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def serving(tmp_path_factory, nginx):
    """Allow responses of unknown owners: otherwise no endpoint would be requested for these ids."""
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), ROUTERDASH_OPEN_RESPONSES="true").start()
    until(process.config.key_file.exists)
    model = process.add(nginx, sealed_key=Sealer([process.config.key_file.read_bytes()]).seal(SECRET))
    yield process, model
    log = process.log()
    process.kill()
    assert "Traceback" not in log


@pytest.fixture
def gateway(serving):
    return serving[0]


@pytest.fixture
def model(serving):
    return serving[1]


@pytest.fixture
def client(gateway):
    made = Client(gateway)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("method", "action"),
    [(b"GET", b""), (b"DELETE", b""), (b"POST", b"/cancel"), (b"GET", b"/input_items"), (b"POST", b"")],
)
def test_no_response_id_changes_the_path_at_the_endpoint(nginx, client, method, action):
    for evil in sorted(traversals()):
        client.status(method, b"/v1/responses/" + evil + action)
    # Only valid ids are requested, some of which had a space, a fragment or an unknown query.
    assert {request["raw"] for request in nginx.seen()} <= {
        f"/v1/responses/resp_a{action.decode()}",
        "/v1/responses/resp_a",
    }


def test_a_valid_response_id_is_in_the_path_at_the_endpoint(nginx, client):
    for method, path in ((b"GET", "resp_a-B_9"), (b"DELETE", "x"), (b"POST", "x/cancel"), (b"GET", "x/input_items")):
        assert client.status(method, b"/v1/responses/" + path.encode()) == 200
        (seen,) = nginx.seen()
        assert (seen["method"], seen["raw"]) == (method.decode(), f"/v1/responses/{path}")
        assert seen["key"] == f"Bearer {SECRET}"


def test_known_query_parameters_of_a_kind_are_passed_on(nginx, client):
    query = b"include[]=a.b&include=c&stream=false&starting_after=4&unknown=1"
    assert client.status(b"GET", b"/v1/responses/x?" + query) == 200
    assert client.status(b"GET", b"/v1/responses/x/input_items?limit=2&order=asc&after=msg_1") == 200
    assert [request["query"] for request in nginx.seen()] == [
        "include%5B%5D=a.b&include=c&stream=false&starting_after=4",
        "limit=2&order=asc&after=msg_1",
    ]


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        (b"GET", b"/v1/responses/resp_a", b"starting_after"),
        (b"GET", b"/v1/responses/resp_a", b"include%5B%5D"),
        (b"GET", b"/v1/responses/resp_a/input_items", b"after"),
        (b"POST", b"/v1/responses/resp_a/cancel", b"limit"),
        (b"DELETE", b"/v1/responses/resp_a", b"include[]"),
        *((b"POST", kind.path.encode(), b"beta") for kind in request_kinds.KINDS if not kind.multipart),
    ],
)
def test_no_query_adds_unknown_parameters_at_the_endpoint(nginx, model, client, method, path, query):
    body = json.dumps({"model": model, "messages": [], "input": "", "max_tokens": 1}).encode()
    wanted = next((kind.endpoint_path for kind in request_kinds.KINDS if kind.path.encode() == path), path.decode())
    for evil in sorted(values()):
        for written in (query + b"=" + evil, evil + b"=1", query + b"=ok&x=" + evil, b"?" + query + b"=" + evil):
            client.status(method, path + b"?" + written, body if method == b"POST" else b"")
    seen = nginx.seen()
    assert seen, "no request reached the endpoint"
    assert {request["uri"] for request in seen} == {wanted}
    assert {request["query"] for request in seen} <= {
        "",
        f"{query.decode().replace('[', '%5B').replace(']', '%5D')}=ok",
        *valid_queries(query),
    }


def valid_queries(query: bytes) -> set[str]:
    """Queries whose values stay the same when decoded."""
    name = query.decode().replace("[", "%5B").replace("]", "%5D")
    return {f"{name}={value}" for value in ("..", "a..b", "x", "a", "b")}


def test_the_body_and_query_of_a_form_do_not_change_its_path(nginx, gateway, model):
    boundary = "x"
    form = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="../../internal"\r\n\r\nsound\r\n'
        f"--{boundary}--\r\n"
    ).encode()
    for evil in ("..%2f..%2finternal", "%0d%0aX:%20y", "a/../../internal", "a;b"):
        for kind in (request_kind for request_kind in request_kinds.KINDS if request_kind.multipart):
            headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
            assert gateway.post(f"{kind.path}?beta={evil}&model=x", form, headers=headers).status == 200
            assert [(request["uri"], request["query"]) for request in nginx.seen()] == [(kind.path, "")]


def test_an_id_in_a_body_stays_in_the_body(nginx, gateway, model):
    for evil in ("../../internal", "..%2f..%2finternal", "resp_a\r\nX: y", "resp_a\0"):
        fields = {"model": model, "input": "", "previous_response_id": evil}
        assert gateway.post("/v1/responses", fields).status in (200, 404)
        assert {request["uri"] for request in nginx.seen()} <= {"/v1/responses"}


MODELS = (
    "../../internal", "..", "a/../../../internal", "a/..", "..;/internal", "a\\..\\..\\internal", "%2e%2e%2finternal",
    "a%00", "a\0b", "a\r\nX: y", "./a", "a//b", "a?x=y", "a#b",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["xllm", "lm_studio"])
def test_no_model_name_changes_the_path_of_a_probe(nginx, kind):
    async def probe_models() -> None:
        async with probe.session() as session:
            await engines.query(probe.Probe(session, nginx.url, SECRET), kind, ["org/model:7b", *MODELS])

    asyncio.run(probe_models())
    paths = {request["uri"] for request in nginx.seen()} - {"/api/v1/models", "/api/v0/models"}
    assert paths == {"/api/models/org/model:7b/info" if kind == "xllm" else "/api/v1/models/org/model:7b"}
