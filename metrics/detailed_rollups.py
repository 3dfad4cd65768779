"""Sums of tokens that only some servers report, and requests by the model that served them."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from endpoints.fields import LineField, TextUUIDField


class DetailedSums(models.Model):
    """Sums of metrics.counting.token_details: all of them are null if no request reported any."""

    cached_tokens = models.BigIntegerField(null=True)
    cached_of_tokens = models.BigIntegerField(null=True)
    cache_reports = models.BigIntegerField(null=True)
    cache_hits = models.BigIntegerField(null=True)
    cache_write_tokens = models.BigIntegerField(null=True)
    cache_write_reports = models.BigIntegerField(null=True)
    reasoning_tokens = models.BigIntegerField(null=True)
    reasoning_of_tokens = models.BigIntegerField(null=True)
    reasoning_reports = models.BigIntegerField(null=True)

    class Meta:
        abstract = True


class ServedCell(models.Model):
    """Key of requests of one day, by the model that served them."""

    date = LineField()
    endpoint_id = TextUUIDField()
    model = LineField()  # the asked name
    kind = LineField()
    api_key_id = LineField()  # empty: none
    served = LineField()  # the endpoint's own id of the model
    canonical = LineField()  # its canonical name; without one, the served model
    step = models.IntegerField()  # of the model name's steps, from 1; 0: none

    class Meta:
        abstract = True


class ServedDayRollUp(ServedCell, DetailedSums):
    """Requests of one day, by the model that served them.

    Only requests whose served model or canonical name differs from the asked name, or that a step of a model name
    served. They are part of the day roll-ups of the asked name.
    """

    pk = models.CompositePrimaryKey("date", "endpoint_id", "model", "kind", "api_key_id", "served", "canonical", "step")
    requests_ok = models.BigIntegerField()
    requests_failed = models.BigIntegerField()
    requests_cancelled = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    ok_duration_us = models.BigIntegerField()

    class Meta:
        db_table = "rollup_served_days"
        verbose_name = _("daily roll-ups by served model")
        verbose_name_plural = _("daily roll-ups by served model")

    def __str__(self) -> str:
        return f"{self.date} {self.model} → {self.served}"
