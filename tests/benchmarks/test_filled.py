"""Databases that are filled for measurements equal those that the writer makes."""

from typing import Any
from urllib.parse import quote

import pytest
from django.conf import settings
from django.db import connection

from benchmarks import filled
from metrics.models import RequestHistory
from metrics.reconcile import audit
from tests.metrics.world import own_database
from tests.routerdash.conftest import _clean_state  # noqa: F401

pytestmark = pytest.mark.django_db(transaction=True)


def database() -> str:
    """The database in the form that filled.fill accepts."""
    parameters: dict[str, Any] = connection.settings_dict
    if connection.vendor == "sqlite":
        return str(parameters["NAME"])
    return (
        f"postgres://{quote(parameters['USER'])}:{quote(parameters['PASSWORD'])}"
        f"@{parameters['HOST']}:{parameters['PORT']}/{parameters['NAME']}"
    )


@pytest.mark.parametrize("rows", [40, 3000])
def test_the_figures_of_a_filled_database_agree(rows: int) -> None:
    own_database()
    indexes = connection.introspection.get_constraints(connection.cursor(), "request_history").keys()
    connection.close()
    servers = filled.fleet([9], endpoints=4, models=7)
    cells = filled.fill(database(), servers, rows)
    assert sum(cell.rows for cell in cells) == RequestHistory.objects.count() == rows
    assert connection.introspection.get_constraints(connection.cursor(), "request_history").keys() == indexes
    differences = audit.check(settings.ROUTERDASH, audit.AuditOptions(thorough=True)).differences
    # Each moving average has only one sample.
    assert {difference.law for difference in differences} <= {"averages"}, [
        str(difference) for difference in differences if difference.law != "averages"
    ][:3]
