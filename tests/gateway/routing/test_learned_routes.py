"""What a gateway has learned about its routes, and what it expects of requests."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import time_machine

from gateway.inference.attempt import Attempt
from gateway.inference.choosing import demand_of
from gateway.ipc.live_page import MOMENTS_PER_SECOND, WORD, LivePage
from gateway.registry.schema import EngineState, Lengths, Model, Speeds
from gateway.registry.writer import Changes
from gateway.routing import endpoint as endpoint_module
from gateway.routing import learned_routes
from gateway.routing.adaptive import NEVER, NO_LIMIT, REPLACED, UNKNOWN_LOAD_SECONDS
from gateway.routing.balancer import ONLY, Decision
from gateway.routing.learned_routes import HEARD_SECONDS, OTHERS_SECONDS, LearnedFacts
from gateway.routing.loaded_models import HESITATION
from tests.gateway.samples import make_endpoint

CHAT, EMBEDDINGS = "chat_completions", "embeddings"
MEASURED = Speeds(setup=0.01, read=0.001, write=0.03, share=0.003, completions=256)


@pytest.fixture
def learned(roster, control):
    control.publish(make_endpoint("a", "m"), make_endpoint("b", Model("b-name", "m"), max_concurrency=2))
    roster.refresh()
    return LearnedFacts(roster, 5.0)


def learn(control, **changes):
    control.registry.writer.apply(Changes(**changes))


def rows(learned, roster, kind=CHAT):
    return learned.routes(roster.routes("m"), kind).by_id


def test_rows_have_the_speeds_of_the_endpoints_own_name_of_the_model(learned, roster, control):
    learn(control, speeds={("b", "b-name", CHAT): MEASURED, ("a", "b-name", CHAT): MEASURED})
    roster.refresh()
    of = rows(learned, roster)
    assert of["b"].parameters == (0.01, 0.001, 0.03, 0.003)
    assert (of["b"].slots, of["b"].few) == (2, NO_LIMIT)
    assert (of["a"].slots, of["a"].few) == (NO_LIMIT, 1)  # never measured


def test_an_unmeasured_endpoint_is_expected_to_be_as_fast_as_the_fastest(learned, roster, control):
    learn(control, speeds={("b", "b-name", CHAT): MEASURED})
    roster.refresh()
    assert rows(learned, roster)["a"].parameters.write == MEASURED.write
    assert rows(learned, roster, EMBEDDINGS)["a"].parameters.write != MEASURED.write


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
    assert (after.slots == 9) or after.parameters.write == MEASURED.write


def test_prompt_and_output_are_expected_from_lengths(learned, roster, control):
    learn(control, lengths={("m", None): Lengths(30.0, 2.0), ("m", "key"): Lengths(60.0, 3.0)})
    roster.refresh()
    known = learned.routes(roster.routes("m"), CHAT)

    def expected(model, key_id, size, most=None, generates=True):
        request = SimpleNamespace(
            services=SimpleNamespace(learned=learned),
            parsed=SimpleNamespace(model=model, max_tokens=most),
            exchange=SimpleNamespace(api_key=key_id and SimpleNamespace(id=key_id), size=size),
            api=SimpleNamespace(kind=SimpleNamespace(generates=generates)),
            prefix=None,
            chain=None,
        )
        demand = demand_of(request, roster.routes("m"), known)  # type: ignore[arg-type]
        return demand.prompt, demand.output, demand.typical

    assert expected("m", None, 600) == (300, 30.0, 30.0)
    assert expected("m", "other", 600, 7) == (300, 7, 30.0)
    assert expected("m", "key", 600, 100) == (200, 60.0, 30.0)
    assert expected("m", "key", 600, generates=False) == (200, 0.0, 0.0)
    assert expected("unknown", None, 600) == (150, 200.0, 200.0)
    assert expected("unknown", None, 0)[0] == 1


def test_new_lengths_replace_those_in_use(learned, roster, control):
    learned.routes(roster.routes("m"), CHAT)
    assert learned.lengths["m", "key"] == (200.0, 4.0, 200.0)
    learn(control, lengths={("m", None): Lengths(30.0, 2.0)})
    roster.refresh()
    learned.routes(roster.routes("m"), CHAT)
    assert learned.lengths["m", "key"] == (30.0, 2.0, 30.0)


def test_few_lengths_are_kept(learned, monkeypatch):
    monkeypatch.setattr(learned_routes, "CACHED_LENGTHS", 3)
    for number in range(10):
        assert learned.lengths["m", str(number)]
        assert len(learned.lengths) <= 3


@pytest.mark.parametrize("replaced", [0.0, REPLACED])
def test_prompts_are_remembered_where_each_slot_keeps_one(learned, roster, replaced):
    routes = roster.routes("m")
    of = replace(learned.routes(routes, CHAT).rows[0], replaced=replaced)
    for prompt in (400, 800):
        of.candidate.enter()
        Attempt(routes.by_id[of.id], Decision(of.id, ONLY, ()), trial=False).begin(learned, of, prompt, 10.0)
    assert of.candidate.recent_prompt == (500 if replaced else 0)


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
    assert learned.totals(endpoint)[:3] == (4, 50, 50)
    other.release()
    endpoint.leave(50)
    assert learned.counts_of_all(endpoint) == (0, 0)


def test_totals_of_one_process_are_those_of_the_page(learned, roster, monkeypatch):
    now = 100.0
    monkeypatch.setattr(endpoint_module, "monotonic", lambda: now)
    endpoint = roster.endpoints["a"]
    endpoint.enter()
    endpoint.enter()
    _, before, read, shared = endpoint.send_prompt(50)
    assert (before, *learned.totals(endpoint)[:3]) == (0, 2, 50, read)
    ends = []
    for pending in (0, 50):
        now += 0.5
        moment = int(now * MOMENTS_PER_SECOND)
        assert endpoint.work_until(moment) == learned.work_until(endpoint, moment)
        endpoint.leave(pending)
        ends.append(endpoint.work_until(moment + 100))
        assert ends[-1] == learned.work_until(endpoint, moment + 100)
    assert ends[-1] == (read, shared + 1.5 * MOMENTS_PER_SECOND)


@pytest.mark.parametrize("others_end", [False, True])
def test_work_is_right_when_the_cells_begin_again_at_0(learned, roster, config, monkeypatch, others_end):
    """Cells of the live page count modulo 2**32, an endpoint's own counts do not."""
    now = (2**33 - 20_000) / MOMENTS_PER_SECOND
    monkeypatch.setattr(endpoint_module, "monotonic", lambda: now)
    monkeypatch.setattr(learned_routes, "moment", lambda: int(now * MOMENTS_PER_SECOND) & WORD)
    endpoint = roster.endpoints["a"]
    endpoint.send_prompt(WORD - 10)
    endpoint.prompt_read(WORD - 10)
    if others_end:  # another process counts at the start of the attempt, or at its end
        other = LivePage(config.live_page_path).claim_row()
        learned.follow()
    endpoint.enter()
    attempt = Attempt(SimpleNamespace(endpoint=endpoint), Decision("a", "only", ()), trial=False)  # type: ignore[arg-type]
    attempt.begin(learned, rows(learned, roster)["a"], 30, 10.0)
    if others_end:
        other.release()
    else:
        LivePage(config.live_page_path).claim_row()
    learned.follow()
    endpoint.send_prompt(70)
    now += 1.5
    endpoint.enter()
    now += 2.5
    work = attempt.work(learned, now)
    assert work is not None
    assert (work.prompt_tokens, work.read_tokens, work.shared_us, work.was_idle) == (30, 70, 6_500_000, True)
    assert attempt.work(learned, now) is None
    assert learned.counts_of_all(endpoint) == (2, 100)
    endpoint.leave(30)
    assert learned.work_until(endpoint, int(now * MOMENTS_PER_SECOND)) == tuple(
        count & WORD for count in endpoint.work_until(int(now * MOMENTS_PER_SECOND))
    )
    endpoint.leave(70)
    assert learned.counts_of_all(endpoint) == (0, 0)


def test_the_requests_in_flight_are_integrated(learned, roster, monkeypatch):
    now = 100.0
    monkeypatch.setattr(endpoint_module, "monotonic", lambda: now)
    endpoint = roster.endpoints["a"]
    _, start = endpoint.work_until(int(now * MOMENTS_PER_SECOND))
    for change, seconds in ((endpoint.enter, 2.0), (endpoint.enter, 3.0), (endpoint.leave, 5.0), (endpoint.leave, 7.0)):
        change()
        now += seconds
    assert endpoint.work_until(int(now * MOMENTS_PER_SECOND))[1] - start == (2 + 3 * 2 + 5) * MOMENTS_PER_SECOND


# Models in memory


def test_a_model_that_is_not_in_memory_must_be_loaded(learned, roster, control):
    learn(control, engines={"a": EngineState(1.0, ("m",)), "b": EngineState(1.0, ())})
    roster.refresh()
    routes = learned.routes(roster.routes("m"), CHAT)
    assert (routes.by_id["a"].load, routes.by_id["b"].load) == (0.0, HESITATION * UNKNOWN_LOAD_SECONDS)
    assert set(routes.engines) == {"a", "b"}


def test_the_learned_time_of_a_load_counts(learned, roster, control):
    speeds = {("b", "b-name", CHAT): Speeds(0.01, 0.001, 0.03, 0.003, 256, load=4.0)}
    learn(control, speeds=speeds, engines={"b": EngineState(1.0, ())})
    roster.refresh()
    assert rows(learned, roster)["b"].load == HESITATION * 4.0


def test_a_request_changes_what_is_in_memory(learned, roster, control):
    learn(control, engines={"a": EngineState(1.0, ("other",)), "b": EngineState(1.0, ("b-name",))})
    roster.refresh()
    before = learned.routes(roster.routes("m"), CHAT)
    load = learned.loaded_models.sent("a", before.engines["a"][0], "m")
    assert before.version != roster.learned_version
    assert 0 < rows(learned, roster)["a"].load <= UNKNOWN_LOAD_SECONDS
    version = roster.learned_version
    learned.follow()  # what is left of the load shrinks
    assert roster.learned_version != version
    load.response_began()
    version = roster.learned_version
    learned.follow()
    assert (rows(learned, roster)["a"].load, roster.learned_version) == (0.0, version)


def test_a_load_that_was_never_seen_takes_as_long_as_elsewhere(learned, roster, control):
    speeds = {("b", "b-name", CHAT): Speeds(0.01, 0.001, 0.03, 0.003, 256, load=40.0)}
    learn(control, speeds=speeds, engines={"a": EngineState(1.0, ()), "b": EngineState(1.0, ())})
    roster.refresh()
    assert [row.load for row in rows(learned, roster).values()] == [HESITATION * 40.0] * 2


def test_a_load_for_another_process_is_heard(learned, roster, control):
    """Else a request for the model in memory would go there, behind the load, and have the engine swap models again."""
    learn(control, engines={"a": EngineState(1.0, ("m",)), "b": EngineState(1.0, ())})
    roster.refresh()
    other = LearnedFacts(roster, 5.0)
    for one in (learned, other):
        roster.routes("m").learned.clear()
        rows(one, roster)
    learned.loaded_models.sent("a", EngineState(1.0, ("m",)), "unknown", 9.0)
    learned.loaded_models.sent("b", EngineState(1.0, ()), "b-name", 9.0)
    other.follow()
    other_rows = rows(other, roster)
    assert other_rows["a"].load > HESITATION * UNKNOWN_LOAD_SECONDS
    assert 0 < other_rows["b"].load <= UNKNOWN_LOAD_SECONDS
    version = roster.learned_version
    learned.follow()  # its own loads are no news
    assert learned.loaded_models.loading == 2
    assert roster.learned_version == version + 1


def test_an_old_load_is_no_news(learned, roster, control):
    learn(control, engines={"a": EngineState(1.0, ("m",))})
    roster.refresh()
    with time_machine.travel(1000.0, tick=False) as moved:
        rows(learned, roster)
        roster.page.notes.set_load(roster.endpoints["a"].facts.slot, "a", 1000, "other")
        moved.shift(HEARD_SECONDS + 1)
        learned.follow()
        assert rows(learned, roster)["a"].load == 0.0


def test_endpoints_that_report_nothing_have_no_loads(learned, roster, control):
    learn(control, engines={"a": EngineState(1.0, others=2)})
    roster.refresh()
    routes = learned.routes(roster.routes("m"), CHAT)
    assert ([row.load for row in routes.rows], routes.engines) == ([0.0, 0.0], {})


# Tiers and weights


def tiers_of(control, roster, **facts):
    control.publish(make_endpoint("a", "m", **facts), make_endpoint("b", "m", tier=2))
    roster.refresh()


def test_an_expected_wait_spills_where_there_is_a_worse_tier(learned, roster, control):
    assert rows(learned, roster)["a"].spill_after == NEVER  # all tiers are equal
    tiers_of(control, roster, cost_weight=2.0)
    of = rows(learned, roster)
    assert (of["a"].spill_after, of["a"].weight, of["b"].spill_after) == (5.0, 2.0, NEVER)
    tiers_of(control, roster, max_concurrency=4)
    assert rows(learned, roster)["a"].spill_after == NEVER  # it is full when its slots are taken


# Requests of others


def test_requests_of_others_count_while_they_are_fresh(learned, roster, control):
    with time_machine.travel(1000.0, tick=False) as moved:
        learn(control, engines={"a": EngineState(1000.0, others=3), "b": EngineState(1000.0, others=3)})
        roster.refresh()
        rows(learned, roster)
        roster.endpoints["a"].enter()
        assert learned.counts(roster.endpoints["a"]) == (4, 0)
        moved.shift(OTHERS_SECONDS + 1)
        learned.follow()
        assert learned.counts is None


def test_others_alone_fill_no_endpoint(learned, roster, control):
    """It has two slots. The engine's own queue knows better when one is free."""
    endpoint = roster.endpoints["b"]
    learn(control, engines={"b": EngineState(time.time(), others=9)})
    roster.refresh()
    rows(learned, roster)
    assert learned.counts(endpoint) == (1, 0)
    endpoint.enter()
    assert learned.counts(endpoint) == (1, 0)
    endpoint.enter()
    assert learned.counts(endpoint) == (2, 0)


def test_others_that_have_left_do_not_count(learned, roster, control):
    learn(control, engines={"a": EngineState(time.time(), others=3)})
    roster.refresh()
    rows(learned, roster)
    learn(control, engines={"a": EngineState(time.time())})
    roster.refresh()
    rows(learned, roster)
    assert learned.counts is None


def test_others_count_beside_the_requests_of_all_processes(learned, roster, control, tmp_path):
    learn(control, engines={"a": EngineState(time.time(), others=3)})
    roster.refresh()
    rows(learned, roster)
    learned.alone = False
    roster.endpoints["a"].enter()
    assert learned.counts(roster.endpoints["a"]) == (4, 0)
    assert learned.counts(roster.endpoints["b"]) == (0, 0)
