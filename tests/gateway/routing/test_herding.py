"""Several gateways over one live page do not all choose the same endpoint (dynamo#589)."""

from collections import Counter
from random import Random

import pytest

from gateway.base.sealing import Sealer
from gateway.ipc.live_page import LivePage
from gateway.registry.schema import Lengths, Speeds
from gateway.registry.writer import Changes
from gateway.routing import adaptive
from gateway.routing.expected_time import Demand
from gateway.routing.learned_routes import LearnedFacts
from gateway.routing.roster import Roster
from tests.gateway.samples import KEY, make_endpoint

GATEWAYS, ENDPOINTS = 4, 4
MEASURED = Speeds(setup=0.01, read=0.0001, write=0.01, share=0.001, completions=256)
LONG_PROMPT = Demand(prompt=30_000, output=20)
CHAT = "chat_completions"


class Gateway:
    """What a gateway process needs to choose, in a row of its own of the live page."""

    def __init__(self, config, sweeper, random: Random) -> None:
        page = LivePage(config.live_page_path)
        self.roster = Roster(config.registry_dir, page, page.claim_row(), Sealer([KEY]), sweeper, measures=True)
        self.roster.refresh()
        self.learned = LearnedFacts(self.roster, 5.0)
        self._draw = random.random

    def choose(self) -> str:
        rows = self.learned.routes(self.roster.routes("m"), CHAT).rows
        decision = adaptive.pick(rows, LONG_PROMPT, self.learned.counts_of_all, draw=self._draw)
        assert decision is not None
        return decision.endpoint_id

    def send(self, endpoint_id: str) -> None:
        endpoint = self.roster.endpoints[endpoint_id]
        endpoint.enter()
        endpoint.send_prompt(int(LONG_PROMPT.prompt))


@pytest.fixture
def gateways(config, control, sweeper):
    names = [f"e{number}" for number in range(ENDPOINTS)]
    control.publish(*(make_endpoint(name, "m", slot=number) for number, name in enumerate(names)))
    speeds: dict[tuple[str, str, str], Speeds | None] = {(name, "m", CHAT): MEASURED for name in names}
    control.registry.writer.apply(Changes(speeds=speeds, lengths={("m", None): Lengths(20.0, 4.0)}))
    random = Random(1)
    made = [Gateway(config, sweeper, random) for _ in range(GATEWAYS)]
    for gateway in made:
        gateway.learned.follow()
    yield made
    for gateway in made:
        gateway.roster.close()
        gateway.roster.row.release()


def test_gateways_see_what_the_others_have_sent(gateways):
    """A burst of long prompts spreads before any of them has a response (sglang#27547)."""
    chosen: Counter[str] = Counter()
    for number in range(40):
        gateway = gateways[number % GATEWAYS]
        name = gateway.choose()
        gateway.send(name)
        chosen[name] += 1
    assert sorted(chosen.values()) == [10] * ENDPOINTS


def test_gateways_that_choose_at_the_same_moment_draw(gateways):
    """None of them has seen the choices of the others yet."""
    rounds = [Counter(gateway.choose() for gateway in gateways) for _ in range(200)]
    total = sum(rounds, Counter())
    assert min(total.values()) > 0.2 * total.total()
    same = sum(len(one) == 1 for one in rounds)
    assert same <= 10  # of 200; four independent draws are equal in 1 of 64


def test_work_that_is_done_is_no_load(gateways):
    """However many requests an endpoint had lately: a rate over a window is not used (production-stack#1073)."""
    one, other = gateways[:2]
    endpoint = one.roster.endpoints["e0"]
    for _ in range(500):
        one.send("e0")
        endpoint.leave(int(LONG_PROMPT.prompt))
    chosen = Counter(other.choose() for _ in range(200))
    assert 0.15 < chosen["e0"] / chosen.total() < 0.35
