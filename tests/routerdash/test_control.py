"""The control process's services, without its event loop: what it loads, from where, and what it answers to others."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from django.conf import settings
from django.db import Error, connection

from access.directory import access
from access.models import User
from endpoints import changes
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import Entry, registry
from gateway import snapshot
from gateway.config import Config, load
from gateway.snapshot import Model, Snapshot
from metrics import seeding, teller
from metrics.database import database_id
from metrics.gauges import gauges
from metrics.rows import Where
from routerdash import prepare
from routerdash.control import Control, _entries
from tests.access.people import make_admin, make_user
from tests.metrics.records import A, B
from tests.metrics.world import add_endpoint, without

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def own(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Settings of an installation of this test, whose database is the tests'."""
    made = load(
        {
            "ROUTERDASH_DATA_DIR": str(config.data_dir),
            "ROUTERDASH_TIME_ZONE": "UTC",
            "ROUTERDASH_ADMIN_PASSWORD": "a long pass phrase",
        }
    )
    monkeypatch.setattr(settings, "ROUTERDASH", made)
    prepare.data_directory(made)
    return made


def published() -> Snapshot:
    """What a control before this one left behind."""
    endpoint = snapshot.Endpoint(
        id=A, slot=3, name="a", base_url="http://a.invalid:8000", kind="vllm", status="online",
        operator_state="draining", sealed_key="sealed", timeout_secs=7.0, connect_timeout_secs=1.0,
        idle_timeout_secs=2.0, total_timeout_secs=3.0, max_concurrency=4, drain_until=1776254400.0,
        models=(Model("llama3.3:70b", "meta/Llama", ("llama",), ("chat",), 8192),),
    )  # fmt: skip
    return Snapshot(version=4, database_id="db", endpoints=(endpoint,))


def test_control_tells_what_figures_are_made_of() -> None:
    control = Control()
    assert teller.surroundings.writer is control.writer
    assert (teller.surroundings.in_flight(), teller.surroundings.unrecorded()) == ({}, 0)
    assert registry.in_flight == teller.surroundings.in_flight


# Loading


def test_loading_reads_endpoints_people_and_the_databases_id() -> None:
    add_endpoint()
    made = make_admin()
    control = Control()
    control._load()
    assert registry.get(A) is not None
    assert access.user(str(made.pk)) is not None
    assert control.publisher.database_id == database_id()
    assert control.loaded


def test_a_snapshot_is_where_it_starts_without_a_database(own: Config, transactional_db: None) -> None:
    snapshot.save(own.snapshot_path, published())
    control = Control()
    with without("endpoints"):
        control._first_look()
    entry = registry.get(A)
    assert entry is not None
    assert (entry.name, entry.status, control.loaded) == ("a", "online", False)


def test_without_a_snapshot_either_it_starts_empty(
    own: Config, transactional_db: None, caplog: pytest.LogCaptureFixture
) -> None:
    with without("change_counters"):
        Control()._first_look()
    assert not registry.loaded
    assert "starting without the database" in caplog.text


def test_a_snapshots_endpoint_is_an_entry_again() -> None:
    assert _entries(published()) == {
        A: Entry(
            id=A, name="a", base_url="http://a.invalid:8000", kind="vllm", status="online", operator_state="draining",
            sealed_api_key="sealed", inference_timeout_secs=7, connect_timeout_secs=1, idle_timeout_secs=2,
            total_timeout_secs=3, max_concurrency=4, drain_until=datetime(2026, 4, 15, 12, tzinfo=UTC),
            models=_entries(published())[A].models,
        )
    }  # fmt: skip
    (model,) = _entries(published())[A].models
    assert (model.id, model.canonical_name, model.capabilities, model.max_tokens) == (
        "llama3.3:70b",
        "meta/Llama",
        ("chat",),
        8192,
    )


# The database, now and then


def test_the_writer_waits_until_everything_is_there() -> None:
    control = Control()
    control._prepare_at = float("inf")  # it was looked at a moment ago
    assert control._prepared() is False
    assert (control.loaded, seeding.seeds) == (False, 0)


def test_then_everything_is_read() -> None:
    control = Control()
    assert control._prepared() is True
    assert (control.loaded, teller.trackers.seeded, seeding.seeds) == (True, True, 1)


def test_a_database_is_ready_once_something_was_written_to_it() -> None:
    Control()._prepared()
    assert changes.read()[changes.STARTS] == 1


def test_what_is_there_is_not_read_again() -> None:
    control = Control()
    for _ in range(3):
        assert control._prepared() is True
    assert (seeding.seeds, changes.read()[changes.STARTS]) == (1, 1)


def test_a_database_that_is_still_away_is_an_error(transactional_db: None) -> None:
    control = Control()
    with without("users"), pytest.raises(Error):
        control._prepared()
    connection.close()
    assert not control.loaded


def test_what_would_stop_a_start_is_said_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    make_user("admin")  # a viewer has the first administrator's name
    control = Control()
    assert control._prepared() is False
    assert not control.loaded
    assert [line.levelname for line in caplog.records] == ["ERROR"]
    User.objects.all().delete()
    control._prepare_at = 0
    assert control._prepared() is True


# Changes that other processes made


@pytest.fixture
def loaded() -> Control:
    control = Control()
    control._load()
    return control


def by_another_process(**fields: Any) -> None:
    Endpoint.objects.filter(pk=A).update(**fields)
    changes.bump(changes.ENDPOINTS)


def test_a_counted_change_is_read() -> None:
    add_endpoint()
    control = Control()
    control._load()
    by_another_process(name="renamed")
    control._look_for_changes()
    assert registry.name(A) == "renamed"


def test_without_a_change_nothing_is_read(loaded: Control, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1):
        loaded._look_for_changes()


def test_now_and_then_everything_is_read_anyway(loaded: Control) -> None:
    add_endpoint()
    Endpoint.objects.filter(pk=A).update(name="renamed")
    loaded._reloaded_at = float("-inf")
    loaded._look_for_changes()
    assert registry.name(A) == "renamed"


def test_people_are_read_when_they_change(loaded: Control) -> None:
    made = make_admin()
    changes.bump(changes.ACCESS)
    loaded._look_for_changes()
    assert access.user(str(made.pk)) is not None


def test_figures_that_were_repaired_are_read_again(loaded: Control) -> None:
    add_endpoint()
    loaded._prepared()
    Endpoint.objects.filter(pk=A).update(total_requests=7)
    changes.bump(changes.FIGURES)
    loaded._look_for_changes()
    loaded.writer.step()
    assert teller.folder.figures().endpoints[A].total == 7
    assert seeding.seeds == 2


def test_figures_that_were_repaired_during_the_start_are_read_again(loaded: Control) -> None:
    seeding.seed()
    changes.bump(changes.FIGURES)
    loaded._load()
    loaded._look_for_changes()
    assert loaded.writer.read_again.is_set()


def test_figures_are_read_again_once(loaded: Control) -> None:
    loaded._prepared()
    changes.bump(changes.FIGURES)
    for _ in range(3):
        loaded._look_for_changes()
        loaded.writer.step()
    assert seeding.seeds == 2


# Names and secrets for others


@pytest.mark.parametrize(
    ("url", "ip"),
    [
        ("http://192.0.2.7:8000", "192.0.2.7"),
        ("http://[2001:db8::1]:8000", "2001:db8::1"),
        ("http://gpu-box:8000", "0.0.0.0"),
    ],
)
def test_history_names_an_endpoint_by_name_and_address(url: str, ip: str) -> None:
    add_endpoint(A, "a", base_url=url)
    assert Control()._where(A) == Where("a", ip)


def test_history_names_a_deleted_endpoint_while_it_is_remembered() -> None:
    control = Control()
    add_endpoint(A, "a")
    Endpoint.objects.all().delete()
    registry.reload()
    assert control._where(A) == Where("a", "0.0.0.0")
    assert control._where(B) == Where("(deleted)", "0.0.0.0")


def test_checks_get_the_secret_that_is_stored() -> None:
    add_endpoint(A, "a").set_api_key("sk-sealed")
    add_endpoint(B, "b", api_key_encrypted="sk-plain")
    control = Control()
    found = [control._secret(entry) for entry in (registry.get(A), registry.get(B)) if entry is not None]
    assert found == ["sk-sealed", "sk-plain"]


def test_a_secret_that_cannot_be_opened_is_none() -> None:
    entry = Entry(id=A, name="a", base_url="http://a", kind="vllm", sealed_api_key="of another key")
    assert Control()._secret(entry) is None


def test_models_come_with_the_registry(loaded: Control) -> None:
    EndpointModel(endpoint=add_endpoint(), model_id="tiny").save(force_insert=True)
    by_another_process()
    loaded._look_for_changes()
    entry = registry.get(A)
    assert entry is not None
    assert [model.id for model in entry.models] == ["tiny"]


def test_load_is_looked_at_now_and_then(loaded: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    add_endpoint(A, "a", status="online")
    monkeypatch.setattr(loaded.publisher, "in_flight", lambda: {A: 3})
    before = int(time.time() // 60)
    loaded._gauge()
    found = gauges.at(before) or gauges.at(before + 1)
    assert found is not None
    assert (found.in_flight, found.waiting, found.online) == (3, 0, 1)
