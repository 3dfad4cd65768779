"""Sums of costs, beside the roll-ups of requests."""

from collections.abc import Collection

from django.db import models
from django.utils.translation import gettext_lazy as _

from endpoints.fields import LineField, TextUUIDField
from metrics.prices.tables import USED_BY


class CostDayRollUp(models.Model):
    """Costs of one day by the price they were computed from, for the requests that have a price."""

    pk = models.CompositePrimaryKey(
        "date", "endpoint_id", "model", "kind", "api_key_id", "served", "canonical", "step", "price_id", "currency"
    )
    date = LineField()
    endpoint_id = TextUUIDField()
    model = LineField()  # the asked name
    kind = LineField()
    api_key_id = LineField()  # empty: none
    served = LineField()  # the endpoint's own id of the model
    canonical = LineField()  # its canonical name; without one, the served model
    step = models.IntegerField()  # of the model name's steps, from 1; 0: none
    price_id = models.BigIntegerField()  # row of the price book; negative: of the catalogue
    currency = LineField()  # of the price
    requests = models.BigIntegerField()
    estimated_requests = models.BigIntegerField()
    cost = models.BigIntegerField()  # 10⁻⁹ of the currency
    estimated_cost = models.BigIntegerField()

    class Meta:
        db_table = "rollup_cost_days"
        verbose_name = _("daily costs")
        verbose_name_plural = _("daily costs")

    def __str__(self) -> str:
        return f"{self.date} {self.served}: {self.cost} {self.currency}"


def _used_prices(ids: Collection[int]) -> Collection[int]:
    return set(CostDayRollUp.objects.filter(price_id__in=ids).values_list("price_id", flat=True).distinct())


USED_BY.append(_used_prices)
