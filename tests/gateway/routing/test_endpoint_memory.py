"""What the responses of an endpoint have shown about it."""

import time

from gateway.routing.endpoint_memory import LEARNED_SECONDS, MAX_LEARNED, EndpointMemory, Refused, remember


def test_what_is_learned_ends():
    known = {("responses", "old"): 9.0, ("responses", "new"): 60.0}
    assert remember(known, "responses", ["web_search"], 10.0) == ["web_search"]
    assert known == {("responses", "new"): 60.0, ("responses", "web_search"): 10.0 + LEARNED_SECONDS}


def test_what_is_learned_is_limited():
    known: Refused = {}
    learned = remember(known, "responses", [str(number) for number in range(200)], 0.0)
    assert len(learned) == len(known) == MAX_LEARNED


def test_usage_is_asked_for_again_after_ten_minutes():
    memory = EndpointMemory()
    assert not memory.usage_refused
    memory.refuse_usage(time.monotonic())
    assert memory.usage_refused
    memory.refuse_usage(time.monotonic() - LEARNED_SECONDS)
    assert not memory.usage_refused


def test_what_a_provider_documents_does_not_end():
    memory = EndpointMemory()
    memory.lacks_usage_option = True
    memory.refuse_usage(time.monotonic() - LEARNED_SECONDS)
    assert memory.usage_refused
