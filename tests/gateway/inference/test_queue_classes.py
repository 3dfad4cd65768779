"""Bulk requests give way to interactive ones."""

import contextlib
import json

import pytest

from gateway.base.queue_class import BULK
from gateway.ipc.live_page import QueuedRequests
from tests.gateway.inference.helpers import CHAT, busy, error_of, held_server, waiting
from tests.gateway.process import KEY, GatewayProcess
from tests.router import until

AS_BULK = "x-routerdash-class: bulk"


def come(stack, gateway, model, user, *headers, **fields):
    """Send a request of which the server learns its user."""
    body = json.dumps({"model": model, "user": user, **fields}).encode()
    connection = stack.enter_context(gateway.connect())
    head = gateway.head(f"POST {CHAT}", f"Authorization: Bearer {KEY}", f"Content-Length: {len(body)}", *headers)
    connection.sendall(head + body)
    return connection


def wait(stack, gateway, model, user, *headers, **fields):
    """The same for a request that must wait."""
    before = gateway.page.waiting
    come(stack, gateway, model, user, *headers, **fields)
    until(lambda: gateway.page.waiting == before + 1)


def recorded(gateway, number):
    """Wait for new records, which come one by one, and return them."""
    records = []

    def are_there():
        records.extend(gateway.records())
        return len(records) >= number

    until(are_there)
    return records


@pytest.fixture(params=["adaptive", "least_inflight"])
def each_gateway(request, make_gateway):
    return make_gateway(ROUTERDASH_BALANCER=request.param).start()


def test_bulk_requests_go_after_interactive_ones(each_gateway):
    gateway = each_gateway
    with held_server(gateway, slots=1) as (server, model), contextlib.ExitStack() as stack:
        come(stack, gateway, model, "first")
        until(lambda: server.users == ["first"])
        wait(stack, gateway, model, "bulk", AS_BULK)
        wait(stack, gateway, model, "flex", service_tier="flex")
        wait(stack, gateway, model, "second")
        assert QueuedRequests(gateway.page).interactive == 1
        server.respond(4)
        until(lambda: server.users == ["first", "second", "bulk", "flex"])
        records = recorded(gateway, 4)
    assert [record.queue_class for record in records] == [None, None, BULK, BULK]


def test_bulk_requests_leave_the_last_free_slot(each_gateway):
    gateway = each_gateway
    with held_server(gateway, slots=2) as (server, model), contextlib.ExitStack() as stack:
        come(stack, gateway, model, "first bulk", AS_BULK)
        until(lambda: server.users == ["first bulk"])
        wait(stack, gateway, model, "second bulk", AS_BULK)
        come(stack, gateway, model, "interactive")
        until(lambda: server.users == ["first bulk", "interactive"])
        assert gateway.page.waiting == 1
        server.respond(2)
        until(lambda: server.users[2:] == ["second bulk"])


def test_bulk_requests_of_one_worker_give_way_to_those_that_wait_in_another(tmp_path):
    settings = {"ROUTERDASH_WORKERS": "2"}
    one, two = GatewayProcess(tmp_path, **settings), GatewayProcess(tmp_path, **settings)
    two.worker = 1
    with contextlib.ExitStack() as stack:
        stack.callback(one.end)
        stack.callback(two.end)
        server, model = stack.enter_context(held_server(one, slots=1))
        one.start(published=False)
        two.start(published=False)
        come(stack, one, model, "first")
        until(lambda: server.users == ["first"])
        for number in range(3):
            wait(stack, one, model, f"bulk {number}", AS_BULK)
        wait(stack, two, model, "interactive")
        server.respond(2)
        until(lambda: server.users == ["first", "interactive", "bulk 0"])


def test_bulk_requests_leave_half_of_the_queue_to_others(make_gateway, sim):
    gateway = make_gateway(ROUTERDASH_QUEUE_MAX="3").start()
    with busy(gateway, sim.add(fault="hang")) as model, contextlib.ExitStack() as stack:
        for place in (1, 2):
            stack.enter_context(waiting(gateway, model, AS_BULK, place=place))
        refused = gateway.chat_with(model, {"x-routerdash-class": "bulk"})
        assert error_of(refused) == (429, "queue_full")
        assert "bulk requests" in refused.json()["error"]["message"]
        stack.enter_context(waiting(gateway, model, place=3))


def test_the_endpoint_receives_the_service_tier_as_it_was_sent(gateway):
    with held_server(gateway, slots=1) as (server, model), contextlib.ExitStack() as stack:
        server.respond(2)
        for place, tier in enumerate(("flex", "priority"), 1):
            come(stack, gateway, model, "user", service_tier=tier)
            until(lambda place=place: len(server.tiers) == place)
        assert server.tiers == ["flex", "priority"]
        records = recorded(gateway, 2)
    assert [record.queue_class for record in records] == [BULK, None]


def test_a_large_body_may_be_flexible(gateway, sim):
    model = gateway.add(sim.add())
    body = {"model": model, "messages": [{"role": "user", "content": "a" * 200_000}], "service_tier": "flex"}
    assert gateway.post(CHAT, body).status == 200
    assert [record.queue_class for record in gateway.records()] == [BULK]


@pytest.mark.parametrize("value", ["urgent", "", "bulk, interactive"])
def test_another_class_is_refused(gateway, sim, value):
    model = gateway.add(sim.add())
    given = gateway.chat_with(model, {"x-routerdash-class": value})
    assert error_of(given) == (400, "invalid_request")
    assert "`interactive` or `bulk`" in given.json()["error"]["message"]
