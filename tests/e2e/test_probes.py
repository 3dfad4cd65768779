"""The probes T1 to T6, by which other routers were measured too: two equal servers, one of which misbehaves.

The time until a server notices a disconnect is measured with the server's clock, and the best of a few tries counts: a
busy machine is not a failure.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from typing import Any

import pytest

from benchmarks.simulator import Endpoint, Simulator
from tests.router import KEY, RouterDash, until

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(180)]

TRIES = 5
SEEN_SECONDS = 0.2
REQUESTS = 12
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
every_path = pytest.mark.parametrize("path", PATHS)
numbers = count(1)


def serve(router: RouterDash, *simulated: Endpoint, **fields: Any) -> str:
    """Register a model of these servers; return its name."""
    model = f"model-{next(numbers)}"
    for endpoint in simulated:
        endpoint.set(models=[model])
        router.add(endpoint, **fields)
    until(lambda: len(router.get(f"/v1/models/{model}").json().get("endpoint_ids", ())) == len(simulated))
    return model


def body_of(model: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Say hello."}]
    return {"model": model, "messages": messages, "prompt": "Hello", "input": "Hello", "max_tokens": 1000, **fields}


@contextmanager
def open_request(router: RouterDash, path: str, model: str, **fields: Any) -> Iterator[http.client.HTTPConnection]:
    """Send a request; leaving the block disconnects the client."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", router.port, timeout=30)) as connection:
        connection.request("POST", path, json.dumps(body_of(model, **fields)), headers)
        yield connection


def soonest(simulated: Endpoint, leave: Callable[[], None]) -> float:
    """Return the shortest time in seconds from the disconnect until the server notices it."""
    seconds = []
    for _ in range(TRIES):
        before = simulated.seen.cancelled
        leave()
        left = time.monotonic()
        seen = simulated.wait_for(lambda seen: seen.cancelled == before + 1)  # noqa: B023
        seconds.append(seen.cancelled_at - left)
        if seconds[-1] < SEEN_SECONDS:
            break
    return min(seconds)


def last_row(router: RouterDash, model: str) -> Any:
    """Return the newest request of the model as soon as it is written."""
    return until(lambda: router.get(f"/api/requests?model={model}").json()["requests"])[0]


# T1, T2, T2b: the client disconnects


@every_path
def test_t1_a_server_notices_a_disconnect_during_a_stream(shared_router: RouterDash, sim: Simulator, path: str) -> None:
    simulated = sim.add(tokens=10_000, tokens_per_second=200)
    model = serve(shared_router, simulated)

    def leave() -> None:
        with (
            open_request(shared_router, path, model, stream=True, max_tokens=10_000) as connection,
            connection.getresponse() as response,
        ):
            assert response.read1()

    assert soonest(simulated, leave) < SEEN_SECONDS
    assert last_row(shared_router, model)["outcome"] == "cancelled"


@every_path
def test_t2_a_server_notices_a_disconnect_before_the_response(
    shared_router: RouterDash, sim: Simulator, path: str
) -> None:
    simulated = sim.add(ttft=60)
    model = serve(shared_router, simulated)

    def leave() -> None:
        with open_request(shared_router, path, model):
            simulated.wait_for(lambda seen: seen.running == 1)

    assert soonest(simulated, leave) < SEEN_SECONDS
    assert last_row(shared_router, model)["outcome"] == "cancelled"


@every_path
def test_t2b_a_server_notices_a_disconnect_before_the_stream_begins(
    shared_router: RouterDash, sim: Simulator, path: str
) -> None:
    simulated = sim.add(fault="hang")
    model = serve(shared_router, simulated)

    def leave() -> None:
        with open_request(shared_router, path, model, stream=True):
            simulated.wait_for(lambda seen: seen.running == 1)

    assert soonest(simulated, leave) < SEEN_SECONDS
    assert last_row(shared_router, model)["outcome"] == "cancelled"


@pytest.mark.parametrize("fault", ["headers_then_hang", "mid_hang"])
def test_a_silent_server_notices_a_disconnect_too(shared_router: RouterDash, sim: Simulator, fault: str) -> None:
    simulated = sim.add(fault=fault)
    model = serve(shared_router, simulated)

    def leave() -> None:
        with open_request(shared_router, PATHS[0], model, stream=True):
            simulated.wait_for(lambda seen: seen.running == 1)

    assert soonest(simulated, leave) < SEEN_SECONDS


# T3: a broken stream


def error_of(path: str, last: bytes) -> str:
    """Return the error text of a stream's last event, in the dialect of the path."""
    reported = json.loads(last.rpartition(b"data: ")[2])
    if path == "/v1/responses":
        assert (last.startswith(b"event: response.failed\n"), reported["type"]) == (True, "response.failed")
        return str(reported["response"]["error"]["message"])
    if path == "/v1/messages":
        assert (last.startswith(b"event: error\n"), reported["type"]) == (True, "error")
    return str(reported["error"]["message"])


@every_path
@pytest.mark.parametrize("fault", ["die", "cut"])
def test_t3_a_broken_stream_ends_with_an_error_event_and_is_recorded(
    shared_router: RouterDash, sim: Simulator, path: str, fault: str
) -> None:
    model = serve(shared_router, sim.add(fault=fault, tokens=20), sim.add(fault=fault, tokens=20))
    given = shared_router.post(path, body_of(model, stream=True))
    assert given.status == 200
    assert "in the middle" in error_of(path, given.body.rstrip().rpartition(b"\n\n")[2])
    for end in (b"[DONE]", b"message_stop", b"response.completed"):
        assert end not in given.body
    row = last_row(shared_router, model)
    assert (row["outcome"], row["output_tokens"], row["tokens_estimated"]) == ("truncated", 10, True)
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["truncated"]


@every_path
def test_a_stalled_stream_is_ended(shared_router: RouterDash, sim: Simulator, path: str) -> None:
    model = serve(shared_router, sim.add(fault="mid_hang", tokens=20), inference_timeout_secs=1)
    given = shared_router.post(path, body_of(model, stream=True))
    assert "in the middle" in error_of(path, given.body.rstrip().rpartition(b"\n\n")[2])
    assert last_row(shared_router, model)["outcome"] == "truncated"


# T4, T6: one of two servers fails


@pytest.mark.parametrize("fault", ["500", "502", "503", "408", "429", "empty", "flap"])
@pytest.mark.parametrize("stream", [True, False])
def test_t4_a_failing_server_causes_no_failed_request(
    shared_router: RouterDash, sim: Simulator, fault: str, stream: bool
) -> None:
    failing, good = sim.add(fault=fault), sim.add()
    model = serve(shared_router, failing, good)
    given = [shared_router.chat(model, stream=stream) for _ in range(REQUESTS)]
    assert [response.status for response in given] == [200] * REQUESTS
    assert all(response.body.endswith(b"[DONE]\n\n" if stream else b"}") for response in given)
    assert failing.seen.started <= REQUESTS


@pytest.mark.parametrize("path", PATHS[1:])
def test_t4_on_other_paths(shared_router: RouterDash, sim: Simulator, path: str) -> None:
    model = serve(shared_router, sim.add(fault="500"), sim.add())
    assert [shared_router.post(path, body_of(model)).status for _ in range(REQUESTS)] == [200] * REQUESTS


@pytest.mark.parametrize("fault", ["hang", "headers_then_hang"])
def test_t4_a_hanging_server_delays_a_request_by_its_timeout_only(
    shared_router: RouterDash, sim: Simulator, fault: str
) -> None:
    model = serve(shared_router, sim.add(fault=fault), sim.add(), inference_timeout_secs=1)
    given = [shared_router.chat(model, stream=True).body for _ in range(REQUESTS)]
    assert all(body.endswith(b"[DONE]\n\n") for body in given)


def test_t4_a_failing_server_receives_no_more_requests_after_a_while(shared_router: RouterDash, sim: Simulator) -> None:
    failing, good = sim.add(fault="500"), sim.add()
    model = serve(shared_router, failing, good)
    for _ in range(3 * REQUESTS):
        assert shared_router.chat(model).status == 200
    assert failing.seen.started < 10  # of 36, half of which would be its normal share
    assert good.seen.finished == 3 * REQUESTS


@pytest.mark.parametrize("fault", ["refuse", "reset"])
def test_t6_an_unreachable_server_causes_no_failed_request(
    shared_router: RouterDash, sim: Simulator, fault: str
) -> None:
    gone, good = sim.add(), sim.add()
    model = serve(shared_router, gone, good)
    gone.set(fault=fault)
    assert [shared_router.chat(model).status for _ in range(REQUESTS)] == [200] * REQUESTS
    assert good.seen.finished == REQUESTS


# T5: usage


@pytest.mark.parametrize("path", PATHS[:2])
def test_t5_usage_is_requested_from_the_server_for_a_client_that_does_not(
    shared_router: RouterDash, sim: Simulator, path: str
) -> None:
    simulated = sim.add()
    model = serve(shared_router, simulated)
    given = shared_router.post(path, body_of(model, stream=True))
    assert simulated.seen.bodies[-1]["stream_options"] == {"include_usage": True}
    assert b'"usage"' not in given.body
    row = last_row(shared_router, model)
    assert (row["input_tokens"], row["output_tokens"], row["tokens_estimated"]) == (5, 8, False)


@pytest.mark.parametrize("path", PATHS[2:])
def test_t5_nothing_is_added_for_servers_that_always_send_usage(
    shared_router: RouterDash, sim: Simulator, path: str
) -> None:
    simulated = sim.add()
    model = serve(shared_router, simulated)
    given = shared_router.post(path, body_of(model, stream=True))
    assert "stream_options" not in simulated.seen.bodies[-1]
    assert b'"output_tokens": 8' in given.body
    row = last_row(shared_router, model)
    assert (row["input_tokens"], row["output_tokens"], row["tokens_estimated"]) == (5, 8, False)
