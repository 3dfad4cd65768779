"""Endpoints that answer what no server should: to probes of control, and to requests that a gateway sends them."""

import contextlib
import gzip
import json
import time
from collections.abc import Iterator

import pytest

from endpoints.models import MAX_MODELS, TOO_MANY_MODELS
from gateway import upstream as client
from tests.gateway.scripted import Talk, always, answer, chunk, stream, upstream
from tests.gateway.test_inference import error_of, outcomes
from tests.hostile.measured import MOST_TURN_MS, Bystander, memory_mb
from tests.router import KEY, RouterDash, until

pytestmark = pytest.mark.timeout(300)


# Control's probes


def listing(count: int) -> bytes:
    models = (f'{{"id":"model-{at}","object":"model","created":1,"owned_by":"somebody"}}' for at in range(count))
    return f'{{"object":"list","data":[{",".join(models)}]}}'.encode()


def flood(talk: Talk) -> None:
    """A list without end."""
    talk.request()
    talk.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    talk.send(b'e\r\n{"data":[{"id"\r\n')
    with contextlib.suppress(OSError):
        while True:
            talk.send(b"10000\r\n%b\r\n" % (b':"a"},{"id"' * 5958)[:0x10000])


@contextlib.contextmanager
def watched(router: RouterDash) -> Iterator[Bystander]:
    """Somebody who asks control for its health meanwhile."""
    asking = Bystander(router.port, KEY, path="/health", address="127.0.0.1")
    with asking.asking():
        yield asking
    asking.assert_served()


@pytest.mark.one_database
def test_an_endpoint_with_100000_models_gets_2000_and_control_goes_on(router: RouterDash, full: bool) -> None:
    count = 100_000 if full else 20_000
    before = memory_mb(router.pid_of("control"))
    with upstream(always(answer(listing(count)))) as server, watched(router):
        given = router.post("/api/endpoints", {"name": "huge", "base_url": server.url})
        assert given.status == 201, given
        path = f"/api/endpoints/{given.json()['id']}"
        router.post(f"{path}/sync", {})
        told = until(lambda: len((it := router.get(path).json())["models"]) >= MAX_MODELS and it, 60)
        assert len(told["models"]) == MAX_MODELS
        assert told["last_error"] == TOO_MANY_MODELS
        until(lambda: router.get(path).json()["status"] == "online", 60)  # by checks, which leave the remark
        assert router.get(path).json()["last_error"] == TOO_MANY_MODELS
        assert sum(it["owned_by"] is not None for it in router.get("/v1/models").json()["data"]) >= MAX_MODELS
    assert memory_mb(router.pid_of("control"), "VmHWM") - before < 200


HOSTILE_LISTS = {
    "gzip bomb": answer(gzip.compress(bytes(100 << 20)), 200, "application/json", "Content-Encoding: gzip"),
    "only brackets": answer(b'{"data":[' + b"[]," * 2_600_000 + b"[]]}"),
    "depth": answer(b'{"data":' + b"[" * (8 << 20)),
    "blanks": answer(b" " * (8 << 20)),
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "line breaks in names": answer(json.dumps({"data": [{"id": "a\r\nX-Evil: 1"}]}).encode()),
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % at for at in range(100_000)) + b"\r\n",
    "a header without end": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * (8 << 20),
}


@pytest.mark.one_database
def test_detection_of_hostile_servers_ends_in_one_clear_error(router: RouterDash) -> None:
    before = memory_mb(router.pid_of("control"))
    with watched(router):
        for name, given in HOSTILE_LISTS.items():
            with upstream(always(given)) as server:
                found = router.post("/api/endpoints", {"name": name, "base_url": server.url})
            assert found.status in (201, 400, 422, 502), (name, found)
            assert "Traceback" not in found.body.decode()
        with upstream(flood) as server:
            assert router.post("/api/endpoints", {"name": "endless", "base_url": server.url}).status in (201, 400, 422)
    assert memory_mb(router.pid_of("control"), "VmHWM") - before < 250
    assert "Traceback" not in router.log_text()


# What a gateway gets for requests
