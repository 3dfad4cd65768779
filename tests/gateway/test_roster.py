import hashlib

import pytest
import time_machine

from gateway import snapshot
from gateway.balancer import OPEN
from gateway.livepage import LivePage
from gateway.roster import Roster
from gateway.sealing import Sealer
from gateway.snapshot import ApiKey, Model
from tests.gateway.samples import KEY, OTHER_KEY, make_endpoint, make_snapshot


def ids(roster, model):
    return [route.endpoint.id for route in roster.routes(model)]


# Snapshots


def test_without_a_snapshot_nothing_is_known(roster):
    assert not roster.refresh()
    assert roster.snapshot is None
    assert roster.routes("m") == []


def test_a_snapshot_of_an_earlier_run_is_read_before_control_says_anything(roster, control):
    snapshot.save(control.path, make_snapshot(make_endpoint("a", "m")))
    assert roster.refresh()
    assert ids(roster, "m") == ["a"]


def test_a_snapshot_is_read_once_a_version(roster, control):
    control.publish(make_endpoint("a", "m"))
    assert [roster.refresh(), roster.refresh()] == [True, False]
    control.publish(make_endpoint("b", "m"))
    assert [roster.refresh(), roster.refresh()] == [True, False]
    assert ids(roster, "m") == ["b"]


def test_an_unreadable_snapshot_leaves_the_old_one_and_is_told_once(roster, control, caplog):
    control.publish(make_endpoint("a", "m"))
    roster.refresh()
    control.path.write_bytes(b"nonsense")
    control.page.version += 1
    assert not any(roster.refresh() for _ in range(3))
    assert ids(roster, "m") == ["a"]
    assert len(caplog.records) == 1


def test_an_unknown_model_is_looked_for_in_a_newer_snapshot(roster, control):
    control.publish(make_endpoint("a", "m"))
    roster.refresh()
    control.publish(make_endpoint("a", "m", "new"))
    assert ids(roster, "new") == ["a"]


def test_an_unknown_key_is_looked_for_in_a_newer_snapshot(roster, control):
    control.publish()
    roster.refresh()
    control.publish(api_keys=(ApiKey("1", hashlib.sha256(b"sk_new").hexdigest(), ()),))
    assert roster.key(b"sk_new").id == "1"
    assert roster.key(b"sk_other") is None


# Models


def test_a_model_in_whatever_state_its_endpoints_are(roster, control):
    states = [{"status": snapshot.OFFLINE}, {"operator_state": snapshot.DISABLED}, {}]
    control.publish(*(make_endpoint(name, "m", **facts) for name, facts in zip("abc", states, strict=True)))
    assert ids(roster, "m") == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["Qwen/Qwen3", "qwen/qwen3", "Qwen3", "QWEN3", "qwen3:8b"])
def test_a_model_answers_to_all_its_names(roster, control, name):
    control.publish(make_endpoint("a", Model("qwen3:8b", "Qwen/Qwen3", ("qwen3",))))
    (route,) = roster.routes(name)
    assert route.model.id == "qwen3:8b"


def test_casefolding_is_not_lowercasing(roster, control):
    control.publish(make_endpoint("a", Model("x", "Straße")))
    assert ids(roster, "STRASSE") == ["a"]


def test_an_endpoints_own_name_wins_over_another_models_alias(roster, control):
    control.publish(make_endpoint("a", Model("other", None, ("m",)), Model("m", "canonical")))
    (route,) = roster.routes("m")
    assert route.model.id == "m"


def test_each_endpoint_knows_a_model_by_its_own_name(roster, control):
    control.publish(make_endpoint("a", Model("x", "m")), make_endpoint("b", Model("y", "m")))
    assert [route.model.id for route in roster.routes("m")] == ["x", "y"]


def test_models_are_listed_by_their_canonical_name(roster, control):
    control.publish(make_endpoint("a", Model("x", "m"), "z"), make_endpoint("b", Model("y", "m")))
    roster.refresh()
    assert {name: len(routes) for name, routes in roster.models().items()} == {"m": 2, "z": 1}


# Load


def test_requests_in_flight_are_on_the_live_page(roster, control):
    control.publish(make_endpoint("a", "m", slot=3))
    roster.refresh()
    endpoint = roster.endpoints["a"]
    endpoint.enter()
    endpoint.enter()
    assert (roster.load(endpoint), control.page.in_flight(3)) == (2, 2)
    endpoint.leave()
    endpoint.leave()
    assert (roster.load(endpoint), control.page.in_flight(3)) == (0, 0)


def test_load_counts_all_workers(control, tmp_path, sweeper):
    control.publish(make_endpoint("a", "m", slot=3))
    rosters = [
        Roster(control.path, LivePage(tmp_path / "live"), Sealer([KEY]), sweeper, worker=worker, workers=2)
        for worker in (0, 1)
    ]
    for roster in rosters:
        roster.refresh()
        roster.endpoints["a"].enter()
    rosters[1].endpoints["a"].enter()
    assert [roster.load(roster.endpoints["a"]) for roster in rosters] == [3, 3]


def test_a_byte_received_is_on_the_live_page(roster, control):
    control.publish(make_endpoint("a", "m", slot=3))
    roster.refresh()
    assert control.page.last_byte(3) == 0
    roster.endpoints["a"].pool.received()
    assert control.page.last_byte(3) > 1_700_000_000


def test_an_endpoint_tells_about_itself(roster, control):
    control.publish(make_endpoint("a", "m"))
    roster.refresh()
    assert repr(roster.endpoints["a"]) == "<Endpoint a online, 0 in flight>"


# Changes


def test_new_facts_keep_connections_and_load(roster, control):
    control.publish(make_endpoint("a", "m", slot=3))
    roster.refresh()
    endpoint, pool = roster.endpoints["a"], roster.endpoints["a"].pool
    endpoint.enter()
    control.publish(make_endpoint("a", "m", slot=3, status=snapshot.ERROR, timeout_secs=1))
    roster.refresh()
    assert roster.endpoints["a"] is endpoint
    assert (endpoint.pool, endpoint.facts.status, endpoint.in_flight) == (pool, snapshot.ERROR, 1)
    assert not pool.closed


def test_a_new_address_gets_new_connections(roster, control):
    control.publish(make_endpoint("a", "m"))
    roster.refresh()
    old = roster.endpoints["a"].pool
    control.publish(make_endpoint("a", "m", slot=5, base_url="http://127.0.0.1:2/sub"))
    roster.refresh()
    new = roster.endpoints["a"].pool
    assert (old.closed, new.port, new.prefix) == (True, 2, b"/sub")
    new.received()
    assert control.page.last_byte(5)


def test_a_deleted_endpoint_closes_its_connections(roster, control):
    control.publish(make_endpoint("a", "m"))
    roster.refresh()
    gone = roster.endpoints["a"]
    control.publish()
    roster.refresh()
    assert gone.pool.closed
    assert ids(roster, "m") == []


def test_an_endpoint_that_refused_stream_options_is_asked_again_when_it_is_another_server(roster, control):
    control.publish(make_endpoint("a", "m", kind="vllm"))
    roster.refresh()
    endpoint = roster.endpoints["a"]
    for kind, refused in (("vllm", True), ("ollama", False)):
        endpoint.usage_refused = True
        control.publish(make_endpoint("a", "m", kind=kind, status=snapshot.ERROR))
        roster.refresh()
        assert endpoint.usage_refused is refused


# Keys and secrets


def test_a_key_is_found_by_its_hash(roster, control):
    key = ApiKey("1", hashlib.sha256(b"sk_one").hexdigest(), ("openai.inference",))
    control.publish(api_keys=(key,))
    assert roster.key(b"sk_one") == key
    assert roster.key(key.hash.encode()) is None


def test_a_sealed_secret_is_opened(roster, control):
    control.publish(make_endpoint("a", "m", sealed_key=Sealer([KEY]).seal("hunter2")))
    roster.refresh()
    assert roster.endpoints["a"].secret == "hunter2"
    assert "hunter2" not in repr(roster.endpoints["a"])


def test_a_secret_that_cannot_be_opened_is_told_and_left_out(roster, control, caplog):
    control.publish(make_endpoint("a", "m", sealed_key=Sealer([OTHER_KEY]).seal("hunter2")), make_endpoint("b", "m"))
    roster.refresh()
    assert roster.endpoints["a"].secret is None
    assert "endpoint a: " in caplog.text
    assert ids(roster, "m") == ["a", "b"]


def test_a_changed_secret_is_taken_over(roster, control):
    for secret in ("one", "two"):
        control.publish(make_endpoint("a", "m", sealed_key=Sealer([KEY]).seal(secret)))
        roster.refresh()
        assert roster.endpoints["a"].secret == secret


# What workers tell each other of circuit breakers


@pytest.fixture
def two(config, control, sweeper):
    """The same endpoint as two workers see it."""
    control.publish(make_endpoint("a", "tiny", slot=7))
    rosters = [
        Roster(config.snapshot_path, LivePage(config.live_page_path), Sealer([KEY]), sweeper, worker=worker, workers=2)
        for worker in (0, 1)
    ]
    for roster in rosters:
        roster.refresh()
    return rosters


def break_it(roster):
    for _ in range(5):
        roster.endpoints["a"].failed()


def test_a_breaker_that_opens_at_one_is_open_at_the_other(two):
    break_it(two[0])
    two[1].look_around()
    assert [roster.endpoints["a"].rank for roster in two] == [OPEN, OPEN]


def test_when_its_time_has_come_each_lets_one_request_through(two):
    break_it(two[0])
    two[1].look_around()
    for roster in two:
        roster.endpoints["a"].breaker.due = 0.0
        roster.look_around()
    assert [roster.endpoints["a"].rank for roster in two] == [0, 0]
    two[0].endpoints["a"].begin_trial()
    assert [roster.endpoints["a"].rank for roster in two] == [OPEN, 0]


def test_a_good_trial_at_one_closes_both(two):
    with time_machine.travel(1000.5, tick=False) as clock:
        break_it(two[0])
        two[1].look_around()
        clock.shift(2)
        two[0].endpoints["a"].did_well()
        two[1].look_around()
    assert [roster.endpoints["a"].breaker.due for roster in two] == [None, None]
    assert two[0].page.trial_due(7) == 0


def test_what_the_other_told_before_a_good_trial_is_no_news(two):
    with time_machine.travel(1000.5, tick=False) as clock:
        break_it(two[0])
        two[1].look_around()
        clock.shift(1)
        two[0].endpoints["a"].did_well()
        for roster in two:  # the first to look is the one that closed
            roster.look_around()
    assert [roster.endpoints["a"].breaker.due for roster in two] == [None, None]


def test_what_goes_well_at_one_closes_the_other_that_has_no_requests(two):
    with time_machine.travel(1000.5, tick=False) as clock:
        break_it(two[0])
        clock.shift(3)
        two[1].endpoints["a"].breaker.well += 1
        for roster in reversed(two):
            roster.look_around()
    assert two[0].endpoints["a"].breaker.due is None


def test_a_failure_after_that_is_news(two):
    with time_machine.travel(1000.5, tick=False) as clock:
        break_it(two[0])
        clock.shift(2)
        two[0].endpoints["a"].did_well()
        clock.shift(2)
        break_it(two[1])
        for roster in two:
            roster.look_around()
    assert [roster.endpoints["a"].rank for roster in two] == [OPEN, OPEN]


def test_a_reset_closes_the_breakers_of_all_workers(two, control):
    break_it(two[0])
    two[1].look_around()
    control.page.reset_breaker(7)
    for roster in two:
        roster.look_around()
    assert [(it.endpoints["a"].breaker.due, it.endpoints["a"].rank) for it in two] == [(None, 0), (None, 0)]


def test_a_reset_forgets_what_was_counted(two, control):
    for _ in range(4):
        two[0].endpoints["a"].failed()
    control.page.reset_breaker(7)
    two[0].look_around()
    two[0].endpoints["a"].failed()
    assert two[0].endpoints["a"].breaker.due is None


def test_a_worker_that_looks_late_does_not_undo_a_reset(two, control):
    with time_machine.travel(1000.5, tick=False) as clock:
        for roster in two:
            break_it(roster)
        control.page.reset_breaker(7)
        two[0].look_around()
        clock.shift(1.5)
        two[0].look_around()
    assert two[0].endpoints["a"].breaker.due is None


def test_a_failure_after_a_reset_opens_again(two, control):
    control.page.reset_breaker(7)
    for roster in two:
        roster.look_around()
    break_it(two[1])
    two[1].look_around()
    assert two[1].endpoints["a"].rank == OPEN
    assert control.page.trial_due(7)


def test_a_reset_is_of_one_endpoint_and_happens_once(two, control):
    control.page.reset_breaker(7)
    two[0].look_around()
    break_it(two[0])
    control.page.reset_breaker(6)
    two[0].look_around()
    assert two[0].endpoints["a"].rank == OPEN


def test_an_edited_address_is_another_server(roster, control):
    control.publish(make_endpoint("a", "tiny", slot=7))
    roster.refresh()
    break_it(roster)
    roster.endpoints["a"].lacks.add("/v1/messages")
    control.publish(make_endpoint("a", "tiny", slot=7, base_url="http://127.0.0.1:2"))
    roster.refresh()
    endpoint = roster.endpoints["a"]
    assert (endpoint.breaker.due, endpoint.lacks, endpoint.rank) == (None, set(), 0)
