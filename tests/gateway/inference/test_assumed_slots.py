"""An Ollama as it is added: four requests run there, and the others wait where keys take turns."""

import contextlib
import threading

from tests.gateway.inference.helpers import CHAT, HeldServer
from tests.gateway.scripted import upstream
from tests.router import until


def test_of_forty_one_requests_four_run_and_the_other_keys_is_next(make_gateway):
    gateway = make_gateway().start()
    other = gateway.add_key("sk_" + "AnotherKey" * 4)
    server = HeldServer()
    with upstream(server) as address, contextlib.ExitStack() as stack:
        model = gateway.add(address, assumed_slots=4)  # as tests/endpoints/test_assumed_slots.py adds it

        def ask(user: str, key: str) -> None:
            body = {"model": model, "messages": [], "user": user}
            thread = threading.Thread(target=lambda: gateway.post(CHAT, body, key=key))
            thread.start()
            stack.callback(thread.join)

        for _ in range(40):
            ask("one", gateway.key)
        until(lambda: gateway.page.waiting == 36 and len(server.users) == 4)
        ask("other", other)
        until(lambda: gateway.page.waiting == 37)
        assert server.users == ["one"] * 4
        server.respond(2)
        until(lambda: len(server.users) == 6)
        assert sorted(server.users[4:]) == ["one", "other"]  # the keys take turns
        assert gateway.page.waiting == 35
        server.respond(100)
