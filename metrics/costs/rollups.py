"""Sums of costs, beside the roll-ups of requests.

A row of sums is found by the number of its key: by a key of ten columns, SQLite needs several times as long. The view
`rollup_cost_days` has the sums with their keys. It is what everything reads.
"""

from collections.abc import Collection

from django.db import models
from django.utils.translation import gettext_lazy as _

from endpoints.fields import LineField
from metrics.detailed_rollups import ServedCell


class CostCell(ServedCell):
    """Requests of one day by the price that their costs were computed from."""

    pk: models.CompositePrimaryKey
    price_id = models.BigIntegerField()  # row of the price book; negative: of the catalogue
    currency = LineField()  # of the price

    class Meta(ServedCell.Meta):
        abstract = True


class CostKey(CostCell):
    """Key of a row of sums. It is never deleted, so that the database writer may remember its number."""

    pk = models.CompositePrimaryKey(
        "date", "endpoint_id", "model", "kind", "api_key_id", "served", "canonical", "step", "price_id", "currency"
    )
    number = models.IntegerField()

    class Meta:
        app_label = "metrics"
        db_table = "rollup_cost_keys"

    def __str__(self) -> str:
        return f"{self.number}: {self.date} {self.served}"


class CostSum(models.Model):
    """Sums of the requests of one key. All are 0 if `reprice` has taken the last request away."""

    number = models.IntegerField(primary_key=True)  # of the key
    requests = models.BigIntegerField()
    estimated_requests = models.BigIntegerField()
    cost = models.BigIntegerField()  # 10⁻⁹ of the currency
    estimated_cost = models.BigIntegerField()

    class Meta:
        app_label = "metrics"
        db_table = "rollup_cost_sums"

    def __str__(self) -> str:
        return f"{self.number}: {self.cost}"


class CostDayRollUp(CostCell):
    """Costs of one day by price, for the requests that have a price: a view of keys and their sums."""

    pk = models.CompositePrimaryKey(
        "date", "endpoint_id", "model", "kind", "api_key_id", "served", "canonical", "step", "price_id", "currency"
    )
    requests = models.BigIntegerField()
    estimated_requests = models.BigIntegerField()
    cost = models.BigIntegerField()  # 10⁻⁹ of the currency
    estimated_cost = models.BigIntegerField()

    class Meta:
        app_label = "metrics"
        db_table = "rollup_cost_days"
        managed = False
        verbose_name = _("daily costs")
        verbose_name_plural = _("daily costs")

    def __str__(self) -> str:
        return f"{self.date} {self.served}: {self.cost} {self.currency}"


def used_prices(ids: Collection[int]) -> set[int]:
    """Return those of the rows of the price book by which a cost was computed."""
    return set(CostDayRollUp.objects.filter(price_id__in=ids).values_list("price_id", flat=True).distinct())
