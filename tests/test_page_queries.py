"""The number of queries of pages, lists and forms in benchmarks/pages.py does not grow with rows."""

from collections.abc import Mapping

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.models import ApiKey, User
from benchmarks import filled, paths
from endpoints.model_names.name_cache import model_names
from endpoints.model_names.tables import NamedModel
from endpoints.models import Endpoint
from endpoints.registry import registry
from metrics import models
from tests.access.people import Api
from tests.benchmarks.test_filled import database
from tests.metrics.world import own_database
from tests.routerdash.conftest import _clean_state  # noqa: F401

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True)]
MOST = 16
FILLED = (
    models.RequestHistory, models.DailyStat, models.MinuteRollUp, models.DayRollUp, models.MonthRollUp,
    models.ClientHourRollUp, models.ClientDayRollUp, models.AllClientsRollUp, models.MovingAverage, models.Total,
    LogEntry, ApiKey, Endpoint, NamedModel, models.PriceRow, models.CurrencyRate,
    models.HardwareRateRow, models.HardwareDayRollUp, models.LastUse,
)  # fmt: skip


def counts(people: Api, endpoints: int, offered: int, rows: int) -> Mapping[str, int]:
    """Return the number of queries of each page at its second request, on a database of this size."""
    own_database()
    for model in FILLED:
        model.objects.all().delete()
    User.objects.filter(username__startswith="person-").delete()
    servers = filled.fleet([9], endpoints, offered)
    filled.fill(database(), servers, rows)
    registry.reload()
    model_names.reload()
    known = paths.look(lambda path: people.get(path).content, servers[1])
    return {name: queries(people, path) for name, path in (paths.pages(known) | paths.admin(known)).items()}


def queries(people: Api, path: str) -> int:
    people.get(path)
    with CaptureQueriesContext(connection) as captured:
        assert people.get(path).status_code < 400, path  # a small database has no later page
    return len(captured)


def test_number_of_queries_does_not_grow_with_rows(as_admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filled, "OLD_DAYS", range(10, 12))
    few = counts(as_admin, 3, 12, 300)
    many = counts(as_admin, 30, 60, 3000)
    assert {name: (few[name], count) for name, count in many.items() if count > few[name]} == {}
    assert max(many.values()) <= MOST
