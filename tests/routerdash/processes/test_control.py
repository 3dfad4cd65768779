"""The services of control, without its event loop: loading, following changes, and data for other parts."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.db import Error, connection

from access.directory import access
from access.models import ApiKey, User, hash_key
from access.sessions.store import sessions
from endpoints.changes import counters as change_counters
from endpoints.changes import triggers
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import Entry, registry
from gateway.base.config import Config, load
from gateway.ipc.live_page import LivePage
from gateway.loop import rest
from gateway.registry import schema
from gateway.registry.writer import RegistryWriter, contents_of
from metrics.api.event_stream import Hub
from metrics.memory.endpoint_events import endpoint_events
from metrics.memory.gauges import gauges
from metrics.memory.runtime import runtime
from metrics.storage import seeding
from metrics.storage.database import database_id
from metrics.storage.history_rows import EndpointName
from routerdash import secret_key
from routerdash.processes import control as control_module
from routerdash.processes import data_directory
from routerdash.processes.control import Control
from routerdash.processes.wiring import connect, endpoint_name, make_services, secret_of
from tests.access.people import key_for, make_admin, make_user
from tests.metrics.records import A, B
from tests.metrics.world import add_endpoint, without
from tests.routerdash.publication import store

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


@pytest.fixture(autouse=True)
def own(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Settings of an installation of this test, whose database is that of the tests."""
    made = load(
        {
            "ROUTERDASH_DATA_DIR": str(config.data_dir),
            "ROUTERDASH_TIME_ZONE": "UTC",
            "ROUTERDASH_ADMIN_PASSWORD": "a long pass phrase",
        }
    )
    monkeypatch.setattr(settings, "ROUTERDASH", made)
    data_directory.create(made)
    return made


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Control]]:
    """Create control, with the listeners that it has when it runs."""
    made: list[Control] = []

    def begin() -> Control:
        control = Control(make_services(settings.ROUTERDASH))
        made.append(control)
        connect(control.services)
        registry.subscribe(control.services.publisher.publish_endpoints)
        access.subscribe(control.services.publisher.publish_keys)
        return control

    yield begin
    for control in made:
        control.services.close()


@pytest.fixture
def control(start: Callable[[], Control]) -> Control:
    return start()


@pytest.fixture
def loaded(control: Control) -> Control:
    control._load()
    return control


def poll(control: Control, times: int = 1) -> list[float]:
    """Do what control does after each wait for a change. Return how long it would have waited for the next one."""
    waits, waited = iter([*[False] * times, True]), list[float]()

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return True

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(control.stopping, "is_set", lambda: next(waits))
        patched.setattr(control, "services", replace(control.services, change_signal=SimpleNamespace(wait=wait)))
        patched.setattr(connection, "close", lambda: None)  # the test goes on with it
        control._poll()
    return waited[1:]


def test_control_provides_the_state_for_figures(control: Control) -> None:
    assert runtime.installation.writer is control.services.writer
    assert (runtime.installation.in_flight(), runtime.installation.unrecorded()) == ({}, 0)
    assert registry.in_flight == control.services.publisher.live.in_flight


# Loading


def test_loading_reads_endpoints_users_and_the_store(control: Control, own: Config) -> None:
    add_endpoint()
    made = make_admin()
    control._load()
    assert registry.get(A) is not None
    assert access.user(str(made.pk)) is not None
    assert control.services.publisher.database_id() == database_id()
    assert control.loaded
    assert store.assert_is_as_the_database(own).names == ["a"]


def test_without_a_database_control_starts_from_the_store(
    own: Config, start: Callable[[], Control], transactional_db: None
) -> None:
    endpoint = schema.PublishedEndpoint(
        id=A, slot=3, name="a", base_url="http://a.invalid:8000", kind="vllm", status="online", learned_slots=4
    )
    with closing(RegistryWriter(own.registry_dir, LivePage(own.live_page_path))) as writer:
        writer.rebuild("db", contents_of((endpoint,), ()))
    control = start()
    with without("endpoints"):
        control._load_at_start()
    entry = registry.get(A)
    assert entry is not None
    assert (entry.name, entry.status, control.loaded) == ("a", "online", False)
    assert (entry.max_concurrency, entry.slots) == (None, 4)  # a learned limit is not a setting
    assert (runtime.follower.database_id, control.services.publisher.slots.by_id) == ("db", {A: 3})


def test_without_database_and_store_control_starts_empty(
    control: Control, transactional_db: None, caplog: pytest.LogCaptureFixture
) -> None:
    with without("users"):
        control._load_at_start()
    assert not registry.loaded
    assert "starting without the database" in caplog.text


# Watching the database


def test_the_writer_waits_until_the_database_is_ready(control: Control) -> None:
    control._prepare_at = float("inf")  # the last read was a moment ago
    assert control._prepared() is False
    assert (control.loaded, seeding.seeds) == (False, 0)


def test_all_data_is_read_when_the_database_is_ready(control: Control) -> None:
    assert control._prepared() is True
    assert (control.loaded, runtime.trackers.seeded, seeding.seeds) == (True, True, 1)


def test_the_last_changes_of_status_are_known_before_figures_count_as_restored(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime.now(UTC)
    Endpoint.record_check(add_endpoint(status="offline").pk, success=True, latency_ms=1, error=None, checked_at=moment)
    endpoint_events.reset()
    seed, known = seeding.seed, []

    def seed_now() -> None:
        known.append(endpoint_events.since(A, "online"))
        seed()

    monkeypatch.setattr(seeding, "seed", seed_now)
    assert control._prepared() is True
    assert known == [moment]


def test_the_last_changes_of_status_are_known_before_the_first_response(control: Control) -> None:
    moment = datetime.now(UTC)
    Endpoint.record_check(add_endpoint(status="offline").pk, success=True, latency_ms=1, error=None, checked_at=moment)
    endpoint_events.reset()
    control._load_at_start()
    assert endpoint_events.since(A, "online") == moment


def test_a_database_is_ready_once_something_was_written_to_it(control: Control) -> None:
    control._prepared()
    assert change_counters.read()[change_counters.STARTS] == 1


def test_loaded_data_is_not_read_again(control: Control) -> None:
    for _ in range(3):
        assert control._prepared() is True
    assert (seeding.seeds, change_counters.read()[change_counters.STARTS]) == (1, 1)


def test_a_database_that_is_still_unavailable_is_an_error(control: Control, transactional_db: None) -> None:
    with without("users"), pytest.raises(Error):
        control._prepared()
    connection.close()
    assert not control.loaded


def test_an_error_that_would_stop_a_start_is_logged_and_retried(
    control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    make_user("admin")  # a viewer has the first administrator's name
    assert control._prepared() is False
    assert not control.loaded
    assert [line.levelname for line in caplog.records] == ["ERROR"]
    User.objects.all().delete()
    control._prepare_at = 0
    assert control._prepared() is True


# Changes by other processes


def test_a_change_by_another_process_is_read_and_published(loaded: Control, own: Config) -> None:
    add_endpoint()
    Endpoint.objects.filter(pk=A).update(name="renamed")
    poll(loaded)
    assert registry.name(A) == "renamed"
    assert store.read(own).names == ["renamed"]


def test_without_a_change_the_log_and_the_counters_are_read_alone(
    loaded: Control, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr(loaded.services.audit, "_due", float("inf"))
    poll(loaded)
    with django_assert_num_queries(2):
        poll(loaded)


def test_users_and_keys_are_read_when_they_change(loaded: Control, own: Config) -> None:
    made = make_admin()
    key = key_for(made)
    poll(loaded)
    assert access.user(str(made.pk)) is not None
    assert access.key(hash_key(key)) is not None
    ApiKey.objects.all().delete()
    poll(loaded)
    assert access.key(hash_key(key)) is None
    assert store.read(own).keys == {}


def test_changes_are_read_when_the_database_is_back(
    loaded: Control, caplog: pytest.LogCaptureFixture, own: Config, transactional_db: None
) -> None:
    add_endpoint()
    Endpoint.objects.filter(pk=A).update(name="renamed")
    with without("registry_changes"):
        poll(loaded)
    assert "endpoints, users and keys cannot be read" in caplog.text
    assert loaded.services.installation.is_outdated()
    poll(loaded)
    assert (registry.name(A), loaded.services.installation.is_outdated()) == ("renamed", False)
    assert store.assert_is_as_the_database(own).names == ["renamed"]


def test_the_audit_runs_beside(loaded: Control, own: Config) -> None:
    add_endpoint()
    triggers.remove()
    Endpoint.objects.filter(pk=A).update(name="renamed")
    for _ in range(3):
        loaded.services.audit._due = 0.0
        poll(loaded)
    assert store.read(own).names == ["renamed"]


def test_repaired_figures_are_reloaded(loaded: Control) -> None:
    add_endpoint()
    loaded._prepared()
    Endpoint.objects.filter(pk=A).update(total_requests=7)
    change_counters.bump(change_counters.FIGURES)
    poll(loaded)
    loaded.services.writer.step()
    assert runtime.follower.figures().endpoints[A].total == 7
    assert seeding.seeds == 2


def test_figures_repaired_during_the_start_are_reloaded(loaded: Control) -> None:
    seeding.seed()
    change_counters.bump(change_counters.FIGURES)
    loaded._load()
    poll(loaded)
    assert loaded.services.writer.read_again.is_set()


def test_figures_are_reloaded_once(loaded: Control) -> None:
    loaded._prepared()
    change_counters.bump(change_counters.FIGURES)
    for _ in range(3):
        poll(loaded)
        loaded.services.writer.step()
    assert seeding.seeds == 2


# Waiting for changes


def test_a_change_is_waited_for_while_nothing_else_is_to_be_done(loaded: Control) -> None:
    loaded.services.audit._due = float("inf")
    assert poll(loaded) == [control_module.LOOK_SECONDS]


def test_an_audit_goes_on_soon(loaded: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded.services.audit, "run_slice", lambda: None)
    loaded.services.audit.is_resting = False
    assert poll(loaded) == [control_module.POLL_SECONDS]


def test_a_failure_to_publish_is_soon_tried_again(loaded: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[bool] = []
    loaded.services.audit._due = float("inf")
    monkeypatch.setattr(loaded.services.publisher, "_failed", lambda: woken.append(True))
    with monkeypatch.context() as patched:
        patched.setattr(loaded.services.publisher.writer, "apply", fail)
        add_endpoint()
        loaded.services.publisher.publish_endpoints([A])
        assert woken == [True]
        assert poll(loaded, 2) == [control_module.POLL_SECONDS] * 2
    assert woken == [True]  # once, or the thread would try without a pause
    assert poll(loaded) == [control_module.LOOK_SECONDS]
    assert loaded.services.publisher.failure is None


def test_a_store_behind_the_database_is_soon_brought_up_to_it(loaded: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded.services.audit._due = float("inf")
    monkeypatch.setattr(loaded.services.publisher, "_is_behind", True)
    monkeypatch.setattr(loaded.services.publisher, "_rebuild_at", float("inf"))
    assert poll(loaded) == [control_module.POLL_SECONDS]
    monkeypatch.setattr(loaded.services.publisher, "_rebuild_at", 0.0)
    assert poll(loaded) == [control_module.LOOK_SECONDS]


def test_data_that_cannot_be_read_is_soon_read_again(loaded: Control, transactional_db: None) -> None:
    with without("registry_changes"):
        assert poll(loaded) == [control_module.POLL_SECONDS]


def fail(*arguments: Any, **options: Any) -> int:
    raise OSError("no space")


# Sessions


def test_sessions_wake_a_thread_only_when_something_is_due(
    loaded: Control, own: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_key.make(own.data_dir / "secret-key")
    loaded._secret_key = secret_key.Watch(own.data_dir / "secret-key")
    seconds, checks = 0, list[int]()

    async def next_second(period: float) -> None:
        nonlocal seconds
        seconds += 1
        if seconds == 3:
            secret_key.rotate(own.data_dir / "secret-key")
        if seconds == 6:
            raise asyncio.CancelledError

    def check() -> None:
        checks.append(seconds)
        loaded._secret_key.changed()

    monkeypatch.setattr(control_module, "sleep_until_next", next_second)
    monkeypatch.setattr(sessions, "is_due", lambda: seconds == 5)
    monkeypatch.setattr(loaded, "_check_sessions", check)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(loaded._maintain_sessions())
    assert checks == [3, 5]


# Names and secrets for others


@pytest.mark.parametrize(
    ("url", "ip"),
    [
        ("http://192.0.2.7:8000", "192.0.2.7"),
        ("http://[2001:db8::1]:8000", "2001:db8::1"),
        ("http://gpu-box:8000", "0.0.0.0"),
    ],
)
def test_the_history_has_name_and_address_of_an_endpoint(control: Control, url: str, ip: str) -> None:
    add_endpoint(A, "a", base_url=url)
    assert endpoint_name(A) == EndpointName("a", ip)


def test_the_history_has_the_name_of_a_deleted_endpoint_while_it_is_remembered(control: Control) -> None:
    add_endpoint(A, "a")
    Endpoint.objects.all().delete()
    registry.reload()
    assert endpoint_name(A) == EndpointName("a", "0.0.0.0")
    assert endpoint_name(B) == EndpointName("(deleted)", "0.0.0.0")


def test_health_checks_get_the_stored_secret(control: Control) -> None:
    add_endpoint(A, "a").set_api_key("sk-sealed")
    add_endpoint(B, "b", api_key_encrypted="sk-plain")
    secrets = [secret_of(entry) for entry in (registry.get(A), registry.get(B)) if entry is not None]
    assert secrets == ["sk-sealed", "sk-plain"]


def test_a_secret_that_cannot_be_decrypted_is_none(control: Control) -> None:
    entry = Entry(id=A, name="a", base_url="http://a", kind="vllm", sealed_api_key="of another key")
    assert secret_of(entry) is None


def test_models_are_loaded_with_the_registry(loaded: Control) -> None:
    EndpointModel(endpoint=add_endpoint(), model_id="tiny").save(force_insert=True)
    poll(loaded)
    entry = registry.get(A)
    assert entry is not None
    assert [model.id for model in entry.models] == ["tiny"]


def test_load_is_read_periodically(loaded: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    add_endpoint(A, "a", status="online")
    monkeypatch.setattr(loaded.services.publisher.live, "in_flight", lambda: {A: 3})
    before = int(time.time() // 60)
    loaded._gauge()
    gauge = gauges.at(before) or gauges.at(before + 1)
    assert gauge is not None
    assert (gauge.in_flight, gauge.waiting, gauge.online) == (3, 0, 1)


@pytest.mark.parametrize(
    ("new_records", "ago", "watched", "seconds"),
    [
        (0, 0.0, False, control_module.TICK_SECONDS),
        (100, 0.0, False, control_module.LOADED_TICK_SECONDS),
        (100, 0.0, True, control_module.TICK_SECONDS),
        (0, 60.0, False, 0.375),  # until the next multiple of REST_TICK_SECONDS
        (0, 60.0, True, control_module.TICK_SECONDS),
    ],
)
def test_journals_are_read_less_often_while_nobody_watches(
    loaded: Control, monkeypatch: pytest.MonkeyPatch, new_records: int, ago: float, watched: bool, seconds: float
) -> None:
    monkeypatch.setattr(runtime.follower, "last_record_at", time.time() - ago)
    monkeypatch.setattr(Hub, "has_listeners", watched)
    monkeypatch.setattr(rest, "time", SimpleNamespace(monotonic=lambda: 1000.125))
    assert loaded._tick_seconds(new_records) == seconds


def test_model_syncs_that_wait_continue_without_a_check(loaded: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tick() -> None:
        continued = asyncio.Event()
        monkeypatch.setattr(loaded.services.syncs, "continue_waiting", continued.set)
        monkeypatch.setattr(loaded, "_tick_seconds", lambda new_records: 0.0)
        ticking = asyncio.create_task(loaded._tick())
        try:
            await asyncio.wait_for(continued.wait(), 30)
        finally:
            ticking.cancel()

    asyncio.run(tick())
