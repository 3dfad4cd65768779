"""One hot prefix: agents with a common system prompt, on four equal endpoints at load 0.85, in virtual time."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

import pytest

from gateway.registry.schema import Speeds
from gateway.routing.adaptive import pick, row
from gateway.routing.affinity.table import open_table
from gateway.routing.expected_time import Demand
from tests.gateway.routing.affinity.conftest import FakeEndpoint, Fleet, chat

SPEEDS = Speeds(setup=0.01, read=0.0003, write=0.02, share=0.002, completions=200)
BYTES_PER_TOKEN = 4.0
SYSTEM = "s" * 12_000  # 3,000 tokens
OUTPUT = 100
AGENTS, TURNS, REQUESTS = 150, 8, 2_500
USUAL_UNREAD = 350  # tokens of a turn that no endpoint can have
LOAD = 0.85


@dataclass
class Server:
    """An endpoint as the policy sees it, and the server behind it. It reads prompts in turn, and writes together."""

    endpoint: FakeEndpoint
    in_flight: int = 0
    pending: int = 0
    recent_prompt: float = 0.0
    served: int = 0
    reads_until: float = 0.0
    has_system: bool = False
    cached: dict[int, float] = field(default_factory=dict)  # tokens, by number of the conversation
    rank: int = 0  # healthy
    tier: int = 1
    slots: int | None = None
    trial_due: float = 0.0

    @property
    def id(self) -> str:
        return self.endpoint.id

    def hit(self, conversation: int, prompt: float) -> float:
        common = len(SYSTEM) / BYTES_PER_TOKEN if self.has_system else 0.0
        return min(prompt, self.cached.get(conversation, common))

    def run(self, conversation: int, prompt: float, now: float) -> tuple[float, float, float]:
        """Serve a request; return the cached tokens, and when its first token and its end are due."""
        hit = self.hit(conversation, prompt)
        self.has_system = True
        self.cached[conversation] = prompt + OUTPUT
        self.reads_until = max(now, self.reads_until) + SPEEDS.setup + SPEEDS.read * (prompt - hit)
        self.served += 1
        return hit, self.reads_until, self.reads_until + OUTPUT * (SPEEDS.write + SPEEDS.share * (self.in_flight + 1))


def turns(random: Random) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the body of a conversation's next turn, of agents in random order."""
    agents: list[tuple[int, list[str]]] = [(number, []) for number in range(AGENTS)]
    number = AGENTS
    while True:
        index = random.randrange(AGENTS)
        conversation, texts = agents[index]
        if len(texts) > 2 * TURNS:
            number += 1
            conversation, texts = number, []
        text = f"{random.random()} " + "x" * random.randrange(200, 2_000)
        body = chat(SYSTEM, *texts, text)
        agents[index] = conversation, [*texts, text, "a" * int(OUTPUT * BYTES_PER_TOKEN)]
        yield conversation, body


Choice = Callable[[int, bytes, float], Server]


def run(servers: list[Server], choose: Choice, sent: Callable[[bytes, Server], None], seed: int) -> float:
    """Run the requests through a policy; return the share of their prompt tokens that was cached."""
    random = Random(seed)
    seconds = SPEEDS.setup + SPEEDS.read * USUAL_UNREAD + SPEEDS.share * OUTPUT  # of a full server, for a request
    rate = LOAD * len(servers) / seconds
    events: list[tuple[float, int, Callable[[], None]]] = []
    now = hits = prompts = 0.0
    bodies = turns(random)
    for number in range(REQUESTS):
        now += random.expovariate(rate)
        while events and events[0][0] <= now:
            heapq.heappop(events)[2]()
        conversation, body = next(bodies)
        prompt = len(body) / BYTES_PER_TOKEN
        server = choose(conversation, body, prompt)
        unread = int(prompt - server.hit(conversation, prompt))
        hit, first, end = server.run(conversation, prompt, now)
        server.in_flight += 1
        server.pending += unread
        sent(body, server)
        hits, prompts = hits + hit, prompts + prompt

        def has_read(server: Server = server, unread: int = unread) -> None:
            server.pending -= unread

        def has_ended(server: Server = server) -> None:
            server.in_flight -= 1

        heapq.heappush(events, (first, 2 * number, has_read))
        heapq.heappush(events, (end, 2 * number + 1, has_ended))
    return hits / prompts


def make_servers(fleet: Fleet) -> list[Server]:
    return [Server(fleet.add(f"e{number}", number)) for number in range(4)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_hot_prefix_is_spread_over_all_endpoints_that_have_it(paths, seed):
    fleet = Fleet(open_table(*paths))
    servers = make_servers(fleet)
    by_id = {server.id: server for server in servers}
    rows = [row(server, SPEEDS, "vllm") for server in servers]
    random = Random(-seed)

    def choose(conversation: int, body: bytes, prompt: float) -> Server:
        kept = {name: size / BYTES_PER_TOKEN for name, size in fleet.sizes(body).items()}
        decision = pick(rows, Demand(prompt, OUTPUT, kept), draw=random.random)
        assert decision is not None
        return by_id[decision.endpoint_id]

    def sent(body: bytes, server: Server) -> None:
        fleet.clocks[server.endpoint.facts.slot] = fleet.clocks.get(server.endpoint.facts.slot, 0) + USUAL_UNREAD
        fleet.send(body, server.endpoint)

    ratio = run(servers, choose, sent, seed)

    # The best for caches alone: each conversation stays at one endpoint, in turn.
    sticky = make_servers(Fleet(open_table(*paths)))
    best = run(sticky, lambda conversation, *_: sticky[conversation % 4], lambda *_: None, seed)

    assert max(server.served for server in servers) <= 0.32 * REQUESTS
    assert ratio >= 0.95 * best
