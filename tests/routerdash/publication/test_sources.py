"""Each kind of published fact has a source, and each table that it is read from is watched."""

import pytest

from endpoints.changes import log
from endpoints.changes.watched import LOGGED, WATCHED
from gateway.base.config import Config
from gateway.registry.kinds import KINDS
from routerdash.publication.publisher import Publisher
from routerdash.publication.slots import Slots
from routerdash.publication.sources import SOURCES, Reading
from tests.access.limits.made import budget, limit
from tests.access.people import key_for, make_admin
from tests.endpoints.model_names.made import make_name
from tests.metrics.records import A
from tests.metrics.world import add_endpoint
from tests.routerdash.publication import store

LEARNED = {"speeds", "lengths", "engines"}  # published while control runs, not read from a table


def test_every_kind_has_a_source_or_is_learned() -> None:
    assert {source.kind.name for source in SOURCES} == {kind.name for kind in KINDS} - LEARNED
    assert {kind.name for kind in KINDS if kind.is_learned} == LEARNED


def test_the_change_log_names_what_is_watched() -> None:
    assert {table.kind for table in WATCHED} == LOGGED.keys()
    assert {source.logged for source in SOURCES if source.logged} <= LOGGED.keys()


@pytest.mark.django_db
def test_every_source_reads_what_the_change_log_names(publisher: Publisher, config: Config) -> None:
    """What a batch of changes brings is what a build would."""
    slots = Slots()
    key_for(make_admin())
    add_endpoint(A, "a").models.create(model_id="tiny")
    make_name("fast", "tiny")
    limit(requests=60)
    budget(("user", "1"), unit="money")
    everything, changed = Reading(slots), Reading(slots, log.read())
    for source in SOURCES:
        built = dict(source.everything(everything))
        assert built
        assert source.changes(changed) == built
    publisher.synchronise()
    store.assert_is_as_the_database(config)
