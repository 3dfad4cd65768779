"""The triggers of the tables of model names."""

import pytest
from django.db import connection

from endpoints.changes.watched import WATCHED
from endpoints.model_names.tables import NamedModel, NameStep, NameTarget
from tests.endpoints.changes.conftest import changes, of
from tests.endpoints.conftest import sql
from tests.endpoints.model_names.made import make_name

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("logged")]


def test_a_new_name_with_its_steps_and_targets() -> None:
    name = make_name("fast", "tiny=7 small=3")
    assert set(changes()) == set(of(name))


@pytest.mark.parametrize(
    "change",
    [
        lambda: NamedModel.objects.filter(name="fast").update(enabled=False),
        lambda: NamedModel.objects.filter(name="fast").update(name="a*"),
        lambda: NamedModel.objects.filter(name="fast").update(overrides={"top_p": 1}),
        lambda: NameStep.objects.filter(named__name="fast").update(if_failed=False),
        lambda: NameStep.objects.filter(named__name="fast").update(if_full_secs=1.5),
        lambda: NameStep.objects.filter(named__name="fast").delete(),
        lambda: NameTarget.objects.filter(named__name="fast").update(tag="lab"),
        lambda: NameTarget.objects.filter(named__name="fast").delete(),
    ],
)
def test_a_change_names_only_its_name(change) -> None:
    name = make_name("fast", "tiny")
    make_name("slow", "tiny")
    changes()
    change()
    assert set(changes()) == set(of(name))
    assert all(table.columns for table in WATCHED)


def test_a_deleted_name() -> None:
    name = make_name("fast", "tiny")
    logged = of(name)
    changes()
    name.delete()
    assert set(changes()) == set(logged)


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a form of SQLite's SQL")
def test_a_row_that_replaces_a_name_names_both() -> None:
    name = make_name("fast")
    changes()
    sql(
        "INSERT OR REPLACE INTO model_names SELECT '11111111-0000-4000-8000-000000000001', name, enabled, echo_served, "
        "external, same_vectors, note, defaults, overrides, dropped, created_at FROM model_names"
    )
    assert set(changes()) == {*of(name), ("model_name", "11111111-0000-4000-8000-000000000001")}
