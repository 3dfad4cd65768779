"""What a gateway has learned about its routes, and what it expects of requests."""

import pytest

from gateway.ipc.live_page import LivePage
from gateway.registry.schema import Lengths, Model, Speeds
from gateway.registry.writer import Changes
from gateway.routing.adaptive import NO_LIMIT
from gateway.routing.learned_routes import LearnedFacts
from tests.gateway.samples import make_endpoint

CHAT, EMBEDDINGS = "chat_completions", "embeddings"
MEASURED = Speeds(setup=0.01, read=0.001, write=0.03, share=0.003, completions=256)


@pytest.fixture
def learned(roster, control):
    control.publish(make_endpoint("a", "m"), make_endpoint("b", Model("b-name", "m"), max_concurrency=2))
    roster.refresh()
    return LearnedFacts(roster)


def learn(control, **changes):
    control.registry.writer.apply(Changes(**changes))


def rows(learned, roster, kind=CHAT):
    return learned.routes(roster.routes("m"), kind).by_id


def test_rows_have_the_speeds_of_the_endpoints_own_name_of_the_model(learned, roster, control):
    learn(control, speeds={("b", "b-name", CHAT): MEASURED, ("a", "b-name", CHAT): MEASURED})
    roster.refresh()
    of = rows(learned, roster)
    assert (of["b"].setup, of["b"].read, of["b"].write, of["b"].share) == (0.01, 0.001, 0.03, 0.003)
    assert (of["b"].slots, of["b"].few) == (2, NO_LIMIT)
    assert (of["a"].slots, of["a"].few) == (NO_LIMIT, 1)  # never measured


def test_an_unmeasured_endpoint_is_expected_to_be_as_fast_as_the_fastest(learned, roster, control):
    learn(control, speeds={("b", "b-name", CHAT): MEASURED})
    roster.refresh()
    assert rows(learned, roster)["a"].write == MEASURED.write
    assert rows(learned, roster, EMBEDDINGS)["a"].write != MEASURED.write


@pytest.mark.parametrize(
    "changes",
    [
        {"speeds": {("a", "m", CHAT): MEASURED}},
        {"endpoints": {"a": make_endpoint("a", "m", max_concurrency=9).facts()}},
    ],
)
def test_rows_are_out_of_date_after_a_change(learned, roster, control, changes):
    before = learned.routes(roster.routes("m"), CHAT)
    assert before.version == roster.learned_version
    learn(control, **changes)
    roster.refresh()
    assert before.version != roster.learned_version
    after = rows(learned, roster)["a"]
    assert (after.slots == 9) or after.write == MEASURED.write


def test_prompt_and_output_are_expected_from_lengths(learned, roster, control):
    learn(control, lengths={("m", None): Lengths(30.0, 2.0), ("m", "key"): Lengths(60.0, 3.0)})
    roster.refresh()

    def expected(*of, generates=True):
        return learned.demand(*of, generates=generates)[:2]

    assert expected("m", None, 600, None) == (300, 30.0)
    assert expected("m", "other", 600, 7) == (300, 7)
    assert expected("m", "key", 600, 100) == (200, 60.0)
    assert expected("m", "key", 600, None, generates=False) == (200, 0.0)
    assert expected("unknown", None, 600, None) == (150, 200.0)
    assert expected("unknown", None, 0, None)[0] == 1


def test_new_lengths_replace_those_in_use(learned, roster, control):
    assert learned.demand("m", "key", 600, None, generates=True)[:2] == (150, 200.0)
    learn(control, lengths={("m", None): Lengths(30.0, 2.0)})
    roster.refresh()
    assert learned.demand("m", "key", 600, None, generates=True)[:2] == (300, 30.0)


def test_counts_are_those_of_all_processes(learned, roster, config):
    endpoint = roster.endpoints["a"]
    assert learned.alone
    page = LivePage(config.live_page_path)
    other = page.claim_row()
    learned.follow()
    assert not learned.alone
    other.cells(endpoint.facts.slot)[0] = 3
    endpoint.enter()
    endpoint.send_prompt(50)
    assert learned.counts_of_all(endpoint) == (4, 50)
    assert learned.totals(endpoint, 0)[:3] == (4, 50, 50)
    other.release()
    endpoint.leave(50)
    assert learned.counts_of_all(endpoint) == (0, 0)


def test_totals_of_one_process_are_those_of_the_page(learned, roster):
    endpoint = roster.endpoints["a"]
    endpoint.enter()
    endpoint.enter()
    sent = endpoint.send_prompt(50)
    now = (1 << 32) - 1
    assert endpoint.totals(now) == learned.totals(endpoint, now)
    assert sent[:3] == (2, 50, 50)
    endpoint.leave()
    endpoint.leave(50)
    assert endpoint.totals(now) == learned.totals(endpoint, now)
    assert endpoint.totals(now)[:2] == (0, 0)
