"""Every label of our admin pages is in Japanese, including those that Django derives from a field's name."""

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import flatten_fieldsets, label_for_field
from django.http import HttpRequest
from django.test import RequestFactory
from django.utils import timezone, translation

from access.models import ApiKey, User
from endpoints.model_names.tables import NamedModel
from endpoints.models import Endpoint, EndpointModel, HealthCheck
from metrics.labels import OUTCOMES
from metrics.models import (
    AllClientsRollUp,
    ClientDayRollUp,
    ClientHourRollUp,
    CurrencyRate,
    DailyStat,
    DayRollUp,
    HardwareRateRow,
    MinuteRollUp,
    MonthRollUp,
    PriceRow,
    RequestHistory,
)

NOW = timezone.now()
ROWS = (
    Endpoint(),
    NamedModel(),
    ApiKey(),
    User(),
    PriceRow(pattern="a", valid_from=NOW, currency="USD"),
    CurrencyRate(currency="EUR", reporting="USD", valid_from=NOW, rate=1),
    HardwareRateRow(endpoint_id=uuid.uuid4(), valid_from=NOW, currency="USD", per_hour=1),
    RequestHistory(request_body={"model": "a", "input": "b"}, response_body={}),
)
LISTS = (  # their rows have no pages
    EndpointModel(), HealthCheck(), DailyStat(), LogEntry(), MinuteRollUp(), DayRollUp(), MonthRollUp(),
    ClientHourRollUp(), ClientDayRollUp(), AllClientsRollUp(),
)  # fmt: skip


def labels_of_forms(row: Any, user: User) -> Iterator[str]:
    model = type(row)
    page = admin.site.get_model_admin(model)
    request = RequestFactory().get("/")
    request.user = user
    for obj in (None, row):
        fieldsets = page.get_fieldsets(request, obj)
        yield from (str(title) for title, _ in fieldsets if title)
        form = page.get_form(request, obj)()
        for name in flatten_fieldsets(fieldsets):
            yield str(form[name].label if name in form.fields else label_for_field(name, model, page))


def labels_of_lists(row: Any) -> Iterator[str]:
    model = type(row)
    page = admin.site.get_model_admin(model)
    yield from (str(label_for_field(name, model, page)) for name in page.get_list_display(HttpRequest()))
    yield from (
        str(filter_class.title)
        for filter_class in page.list_filter
        if isinstance(filter_class, type) and issubclass(filter_class, admin.ListFilter)
    )
    yield str(apps.get_app_config(model._meta.app_label).verbose_name)
    yield str(model._meta.verbose_name_plural)


@pytest.mark.django_db
@pytest.mark.parametrize("row", [*ROWS, *LISTS], ids=lambda row: type(row).__name__)
def test_labels_are_japanese(row: Any, admin: User) -> None:
    with translation.override("ja"):
        labels = [*labels_of_lists(row), *(labels_of_forms(row, admin) if row in ROWS else ())]
        words = [label for label in labels if label not in ("API", "TTFT")]
        assert [word for word in words if not re.search("[\u3040-\u30ff\u4e00-\u9fff]", word)] == []


def test_outcomes_are_japanese() -> None:
    with translation.override("ja"):
        assert [str(word) for word in OUTCOMES.values() if str(word).isascii()] == []


def test_every_admin_page_of_ours_is_checked() -> None:
    assert set(admin.site._registry) == {type(row) for row in (*ROWS, *LISTS)}
