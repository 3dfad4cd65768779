import gc
import hashlib
import time

import msgspec
import pytest
import time_machine

from gateway.base.errors import Refusal
from gateway.base.sealing import Sealer
from gateway.ipc.live_page import BreakerCells, LivePage
from gateway.registry import folders, schema
from gateway.registry.schema import ApiKey, Model, ModelName, PublishedKey, Step, Target
from gateway.registry.store import FILE
from gateway.registry.writer import Changes
from gateway.routing.balancer import OPEN
from gateway.routing.endpoint import Endpoint
from gateway.routing.roster import Roster
from gateway.upstream.pool import Pool
from tests.gateway.samples import KEY, OTHER_KEY, make_endpoint


def ids(roster, model):
    return [route.endpoint.id for route in roster.routes(model)]


# Memory: the garbage collector rarely runs in a gateway


@pytest.mark.parametrize("later", [[], [make_endpoint("a", "m", base_url="http://127.0.0.1:2")]])
def test_what_was_deleted_or_moved_needs_no_garbage_collector(roster, control, later):
    control.publish(make_endpoint("a", "m", base_url="http://127.0.0.1:1"))
    assert ids(roster, "m") == ["a"]
    gc.collect()
    gc.disable()
    try:
        control.publish(*later)
        roster.refresh()
        # type(), because isinstance() fails for a weak proxy whose object is gone.
        left = [value for value in gc.get_objects() if issubclass(type(value), Endpoint | Pool)]
        assert len(left) == 2 * len(later)
    finally:
        gc.enable()


# Versions of the registry store


def test_before_control_has_published_requests_are_refused(roster):
    assert not roster.refresh()
    assert roster.version == 0
    with pytest.raises(Refusal) as caught:
        roster.routes("m")
    assert caught.value.status == 503


def test_the_store_of_an_earlier_run_is_read_before_control_publishes(roster, control):
    control.publish(make_endpoint("a", "m"))
    control.page.version = control.page.registry_generation = 0  # a live page of this run
    assert roster.refresh()
    assert ids(roster, "m") == ["a"]


def test_a_version_is_read_once(roster, control):
    control.publish(make_endpoint("a", "m"))
    assert [roster.refresh(), roster.refresh()] == [True, False]
    control.publish(make_endpoint("b", "m"))
    assert [roster.refresh(), roster.refresh()] == [True, False]
    assert ids(roster, "m") == ["b"]


def test_an_unreadable_store_is_reported_and_what_is_in_memory_stays_in_use(roster, control, caplog):
    control.publish(make_endpoint("a", "m"))
    assert ids(roster, "m") == ["a"]
    damage(control)
    control.page.version += 1
    assert not any(roster.refresh() for _ in range(3))
    assert ids(roster, "m") == ["a"]
    assert len(caplog.records) == 1
    assert control.page.damaged_generation == control.page.registry_generation


def test_what_is_not_in_memory_is_refused_while_the_store_is_unreadable(roster, control):
    control.publish(make_endpoint("a", "m", "n"))
    assert ids(roster, "m") == ["a"]
    damage(control)
    for look_up in (lambda: roster.routes("n"), lambda: roster.key(b"sk_any")):
        with pytest.raises(Refusal) as caught:
            look_up()
        assert caught.value.status == 503


def damage(control):
    """Empty the file of the store beneath its readers."""
    store = folders.folder(control.registry.root, control.page.registry_generation) / FILE
    with store.open("r+b") as file:
        file.truncate(0)


def test_an_unknown_model_is_searched_in_a_newer_version(roster, control):
    control.publish(make_endpoint("a", "m"))
    roster.refresh()
    control.publish(make_endpoint("a", "m", "new"))
    assert ids(roster, "new") == ["a"]


def test_an_unknown_key_is_searched_in_a_newer_version(roster, control):
    control.publish()
    roster.refresh()
    control.publish(api_keys=(PublishedKey("1", hashlib.sha256(b"sk_new").hexdigest(), ()),))
    assert roster.key(b"sk_new").id == "1"
    assert roster.key(b"sk_other") is None


# Models


def test_a_model_is_known_in_any_state_of_its_endpoints(roster, control):
    states = [{"status": schema.OFFLINE}, {"operator_state": schema.DISABLED}, {}]
    control.publish(*(make_endpoint(name, "m", **facts) for name, facts in zip("abc", states, strict=True)))
    assert ids(roster, "m") == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["Qwen/Qwen3", "qwen/qwen3", "Qwen3", "QWEN3", "qwen3:8b"])
def test_a_model_is_found_by_all_its_names(roster, control, name):
    control.publish(make_endpoint("a", Model("qwen3:8b", "Qwen/Qwen3", ("qwen3",))))
    (route,) = roster.routes(name)
    assert route.model.id == "qwen3:8b"


def test_casefolding_is_not_lowercasing(roster, control):
    control.publish(make_endpoint("a", Model("x", "Straße")))
    assert ids(roster, "STRASSE") == ["a"]


def test_an_endpoints_own_name_has_priority_over_another_models_alias(roster, control):
    control.publish(make_endpoint("a", Model("other", None, ("m",)), Model("m", "canonical")))
    (route,) = roster.routes("m")
    assert route.model.id == "m"


def test_each_endpoint_knows_a_model_by_its_own_name(roster, control):
    control.publish(make_endpoint("a", Model("x", "m")), make_endpoint("b", Model("y", "m")))
    assert [route.model.id for route in roster.routes("m")] == ["x", "y"]


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
        Roster(control.registry.root, control.page, control.page.claim_row(), Sealer([KEY]), sweeper) for _ in range(2)
    ]
    for roster in rosters:
        roster.refresh()
        roster.endpoints["a"].enter()
    rosters[1].endpoints["a"].enter()
    for roster in rosters:
        roster.follow()
    assert [roster.load(roster.endpoints["a"]) for roster in rosters] == [3, 3]


def test_a_byte_received_is_on_the_live_page(roster, control):
    control.publish(make_endpoint("a", "m", slot=3))
    roster.refresh()
    assert control.page.last_byte(3) == 0
    roster.endpoints["a"].pool.received()
    assert control.page.last_byte(3) > 1_700_000_000


def test_an_endpoint_has_a_readable_representation(roster, control):
    control.publish(make_endpoint("a", "m"))
    roster.refresh()
    assert repr(roster.endpoints["a"]) == "<Endpoint a online, 0 in flight>"


# Changes


def test_new_facts_keep_connections_and_load(roster, control):
    control.publish(make_endpoint("a", "m", slot=3))
    roster.refresh()
    endpoint, pool = roster.endpoints["a"], roster.endpoints["a"].pool
    endpoint.enter()
    control.publish(make_endpoint("a", "m", slot=3, status=schema.ERROR, timeout_secs=1))
    roster.refresh()
    assert roster.endpoints["a"] is endpoint
    assert (endpoint.pool, endpoint.facts.status, endpoint.in_flight) == (pool, schema.ERROR, 1)
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


def test_a_changed_server_gets_stream_options_again(roster, control):
    control.publish(make_endpoint("a", "m", kind="vllm"))
    roster.refresh()
    endpoint = roster.endpoints["a"]
    for kind, refused in (("vllm", True), ("ollama", False)):
        endpoint.memory.refuse_usage(time.monotonic())
        control.publish(make_endpoint("a", "m", kind=kind, status=schema.ERROR))
        roster.refresh()
        assert endpoint.memory.usage_refused is refused


# Keys and secrets


def test_a_key_is_found_by_its_hash(roster, control):
    digest = hashlib.sha256(b"sk_one")
    control.publish(api_keys=(PublishedKey("1", digest.hexdigest(), ("openai.inference",)),))
    assert roster.key(b"sk_one") == ApiKey("1", digest.digest(), ("openai.inference",))
    assert roster.key(digest.hexdigest().encode()) is None


def test_a_changed_or_deleted_key_is_looked_up_again(roster, control):
    digest = hashlib.sha256(b"sk_one").hexdigest()
    for permissions in (("openai.inference",), ()):
        control.publish(api_keys=(PublishedKey("1", digest, permissions),))
        roster.refresh()
        assert roster.key(b"sk_one").permissions == permissions
    control.publish()
    roster.refresh()
    assert roster.key(b"sk_one") is None


def test_changed_keys_are_named_once(roster, control):
    keys = [PublishedKey(name, hashlib.sha256(name.encode()).hexdigest(), ()) for name in ("1", "2", "3")]
    control.publish(api_keys=tuple(keys))
    roster.refresh()
    assert roster.take_changed_keys() is None
    version = roster.keys_version
    control.publish(api_keys=(keys[0], msgspec.structs.replace(keys[1], expires_at=5.0)))
    roster.refresh()
    changed = roster.take_changed_keys()
    assert {key_id: key and key.expires_at for key_id, key in changed.items()} == {"2": 5.0, "3": None}
    assert roster.take_changed_keys() == {}
    assert roster.keys_version > version


def test_the_next_expiry_is_that_of_the_keys_in_use(roster, control):
    with time_machine.travel(1000.0, tick=False):
        expiries = {"1": 2000.0, "2": 1500.0, "3": 900.0}
        control.publish(
            api_keys=tuple(
                PublishedKey(name, hashlib.sha256(name.encode()).hexdigest(), (), expires_at)
                for name, expires_at in expiries.items()
            )
        )
        for name, expected in (("1", 2000.0), ("2", 1500.0), ("3", 1500.0)):
            roster.key(name.encode())
            assert roster.next_expiry == expected


def test_a_sealed_secret_is_opened(roster, control):
    control.publish(make_endpoint("a", "m", sealed_key=Sealer([KEY]).seal("hunter2")))
    roster.refresh()
    assert roster.endpoints["a"].redactor.key == "hunter2"
    assert "hunter2" not in repr(roster.endpoints["a"])


def test_a_secret_that_cannot_be_opened_is_logged_and_left_out(roster, control, caplog):
    control.publish(make_endpoint("a", "m", sealed_key=Sealer([OTHER_KEY]).seal("hunter2")), make_endpoint("b", "m"))
    roster.refresh()
    assert roster.endpoints["a"].redactor.key is None
    assert "endpoint a: " in caplog.text
    assert ids(roster, "m") == ["a", "b"]


def test_a_changed_secret_is_taken_over(roster, control):
    for secret in ("one", "two"):
        control.publish(make_endpoint("a", "m", sealed_key=Sealer([KEY]).seal(secret)))
        roster.refresh()
        assert roster.endpoints["a"].redactor.key == secret


# Circuit breakers of several workers


@pytest.fixture
def two(config, control, sweeper):
    """The same endpoint as two workers see it."""
    control.publish(make_endpoint("a", "tiny", slot=7))
    page = LivePage(config.live_page_path)
    rosters = [Roster(config.registry_dir, page, page.claim_row(), Sealer([KEY]), sweeper) for _ in range(2)]
    for roster in rosters:
        roster.refresh()
    return rosters


def break_it(roster):
    for _ in range(5):
        roster.endpoints["a"].record_failure()


def test_a_breaker_opened_by_one_worker_is_open_in_others(two):
    break_it(two[0])
    two[1].follow()
    assert [roster.endpoints["a"].rank for roster in two] == [OPEN, OPEN]


def test_each_worker_allows_one_trial_after_the_pause(two):
    break_it(two[0])
    two[1].follow()
    for roster in two:
        roster.endpoints["a"].breaker.due = 0.0
        roster.follow()
    assert [roster.endpoints["a"].rank for roster in two] == [0, 0]
    two[0].endpoints["a"].begin_trial()
    assert [roster.endpoints["a"].rank for roster in two] == [OPEN, 0]


def test_a_successful_trial_of_one_worker_closes_the_breaker_of_all(two):
    with time_machine.travel(1000.5, tick=False) as clock:
        break_it(two[0])
        two[1].follow()
        clock.shift(2)
        two[0].endpoints["a"].record_success("client", 0.0)
        two[1].follow()
    assert [roster.endpoints["a"].breaker.due for roster in two] == [None, None]
    assert two[0].page.breakers.trial_due(7) == 0


def test_states_published_before_a_successful_trial_are_ignored(two):
    with time_machine.travel(1000.5, tick=False) as clock:
        break_it(two[0])
        two[1].follow()
        clock.shift(1)
        two[0].endpoints["a"].record_success("client", 0.0)
        for roster in two:  # the worker that closed the breaker reads first
            roster.follow()
    assert [roster.endpoints["a"].breaker.due for roster in two] == [None, None]


def test_successes_of_one_worker_close_the_breaker_of_an_idle_one(two):
    with time_machine.travel(1000.5, tick=False) as clock:
        break_it(two[0])
        clock.shift(3)
        two[1].endpoints["a"].breaker.successes += 1
        for roster in reversed(two):
            roster.follow()
    assert two[0].endpoints["a"].breaker.due is None


def test_a_failure_after_the_trial_is_shared(two):
    with time_machine.travel(1000.5, tick=False) as clock:
        break_it(two[0])
        clock.shift(2)
        two[0].endpoints["a"].record_success("client", 0.0)
        clock.shift(2)
        break_it(two[1])
        for roster in two:
            roster.follow()
    assert [roster.endpoints["a"].rank for roster in two] == [OPEN, OPEN]


def test_a_reset_closes_the_breakers_of_all_workers(two, control):
    break_it(two[0])
    two[1].follow()
    control.page.breakers.reset(7)
    for roster in two:
        roster.follow()
    assert [(roster.endpoints["a"].breaker.due, roster.endpoints["a"].rank) for roster in two] == [(None, 0), (None, 0)]


def test_a_reset_clears_the_counts(two, control):
    for _ in range(4):
        two[0].endpoints["a"].record_failure()
    control.page.breakers.reset(7)
    two[0].follow()
    two[0].endpoints["a"].record_failure()
    assert two[0].endpoints["a"].breaker.due is None


def test_a_late_worker_does_not_undo_a_reset(two, control):
    with time_machine.travel(1000.5, tick=False) as clock:
        for roster in two:
            break_it(roster)
        control.page.breakers.reset(7)
        two[0].follow()
        clock.shift(1.5)
        two[0].follow()
    assert two[0].endpoints["a"].breaker.due is None


def test_failures_after_a_reset_open_the_breaker_again(two, control):
    control.page.breakers.reset(7)
    for roster in two:
        roster.follow()
    break_it(two[1])
    two[1].follow()
    assert two[1].endpoints["a"].rank == OPEN
    assert control.page.breakers.trial_due(7)


def test_a_reset_affects_one_endpoint_once(two, control):
    control.page.breakers.reset(7)
    two[0].follow()
    break_it(two[0])
    control.page.breakers.reset(6)
    two[0].follow()
    assert two[0].endpoints["a"].rank == OPEN


def test_an_edited_address_is_another_server(roster, control):
    control.publish(make_endpoint("a", "tiny", slot=7))
    roster.refresh()
    break_it(roster)
    roster.endpoints["a"].memory.refuse_usage(time.monotonic())
    control.publish(make_endpoint("a", "tiny", slot=7, base_url="http://127.0.0.1:2"))
    roster.refresh()
    endpoint = roster.endpoints["a"]
    assert (endpoint.breaker.due, endpoint.memory.usage_refused, endpoint.rank) == (None, False, 0)


# Slots


def test_a_slot_of_another_process_is_not_taken(two, control):
    control.publish(make_endpoint("a", "tiny", slot=7, max_concurrency=2))
    for roster in two:
        roster.refresh()
    one, other = (roster.endpoints["a"] for roster in two)
    assert [two[0].take(one), two[1].take(other), two[0].take(one)] == [True, True, False]
    assert control.page.in_flight(7) == 2
    other.leave()
    assert two[0].take(one)


def test_a_slot_that_another_process_gives_back_is_taken_at_once(two, control, monkeypatch):
    """Both took the last slot at the same time; the other one gives it back between the check and the second look."""
    control.publish(make_endpoint("a", "tiny", slot=7, max_concurrency=1))
    for roster in two:
        roster.refresh()
    one, other = (roster.endpoints["a"] for roster in two)
    other.enter()
    leave = type(one).leave

    def leave_both(endpoint):
        leave(endpoint)
        if endpoint is one:
            leave(other)

    monkeypatch.setattr(type(one), "leave", leave_both)
    assert two[0].take(one)
    assert control.page.in_flight(7) == 1


def test_following_reads_no_endpoint_while_no_breaker_changes(two, monkeypatch):
    two[0].follow()
    monkeypatch.setattr(BreakerCells, "trial_due", lambda cells, slot: pytest.fail("an endpoint was read"))
    two[0].follow()


# Withdrawn endpoints


@pytest.mark.parametrize("state", [schema.DISABLED, schema.DRAINING])
def test_a_disabled_or_draining_endpoint_is_withdrawn(roster, control, state):
    control.publish(make_endpoint("a", "m"))
    roster.refresh()
    endpoint = roster.endpoints["a"]
    assert not endpoint.withdrawn
    control.publish(make_endpoint("a", "m", operator_state=state))
    roster.refresh()
    assert endpoint.withdrawn
    control.publish(make_endpoint("a", "m"))
    roster.refresh()
    assert not endpoint.withdrawn


def test_a_deleted_endpoint_is_withdrawn(roster, control):
    control.publish(make_endpoint("a", "m"))
    roster.refresh()
    endpoint = roster.endpoints["a"]
    control.publish()
    roster.refresh()
    assert (endpoint.withdrawn, endpoint.pool.closed) == (True, True)


# Model names, prefixes and external endpoints


def exact_names(roster: Roster) -> list[str]:
    return [] if roster.names is None else sorted(roster.names.exact)


def make_name(name_id: str, name: str) -> ModelName:
    return ModelName(id=name_id, name=name, steps=(Step((Target("m"),)),))


def test_without_model_names_there_is_nothing_to_look_up(roster, control):
    control.publish(make_endpoint("a", "m"))
    roster.refresh()
    assert roster.names is None
    writer = control.registry.writer
    writer.apply(Changes(model_names={"1": make_name("1", "fast"), "2": make_name("2", "slow")}))
    roster.refresh()
    assert exact_names(roster) == ["fast", "slow"]
    writer.apply(Changes(model_names={"1": make_name("1", "faster"), "2": None}))
    roster.refresh()
    assert exact_names(roster) == ["faster"]
    writer.apply(Changes(model_names={"1": None}))
    roster.refresh()
    assert roster.names is None


def test_a_prefix_means_the_model_at_endpoints_of_that_type(roster, control):
    control.publish(
        make_endpoint("a", "gpt", slot=0, kind="openai"),
        make_endpoint("b", "gpt", slot=1, kind="vllm"),
        make_endpoint("c", "gpt", "google:gpt", slot=2, kind="gemini"),
    )
    roster.refresh()
    endpoint_ids = {
        model: ids(roster, model) for model in ("openai:gpt", "anthropic:gpt", "google:gpt", "vllm:gpt", "gpt")
    }
    assert endpoint_ids == {
        "openai:gpt": ["a"], "anthropic:gpt": [], "google:gpt": ["c"], "vllm:gpt": [], "gpt": ["a", "b", "c"],
    }  # fmt: skip
    control.publish(make_endpoint("b", "gpt", slot=1, kind="openai"))
    roster.refresh()
    assert ids(roster, "openai:gpt") == ["b"]


def test_routes_know_which_endpoints_are_external(roster, control):
    control.publish(make_endpoint("a", "m", slot=0), make_endpoint("b", "m", slot=1))
    roster.refresh()
    assert not roster.routes("m").has_external
    control.publish(make_endpoint("a", "m", slot=0), make_endpoint("b", "m", slot=1, external=True, tags=("x",)))
    roster.refresh()
    routes = roster.routes("m")
    assert routes.has_external
    assert [endpoint.id for endpoint in routes.internal.endpoints] == ["a"]
    assert [endpoint.id for endpoint in routes.at(None, "x").endpoints] == ["b"]
    assert [endpoint.id for endpoint in routes.at("a", None).endpoints] == ["a"]
    assert routes.internal.internal is routes.internal
