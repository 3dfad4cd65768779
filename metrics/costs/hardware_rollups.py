"""Tables of own hardware: the work of requests at endpoints with a rate, and the cost of their hours and days."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from endpoints.fields import LineField, TextUUIDField


class HardwareBatch(models.Model):
    """Work of one hour at an endpoint with a rate, from one batch of records. See metrics.costs.hardware_work.

    It is kept as long as the history of requests, so that a late record leads to the exact cost of its hour.
    """

    id = models.BigAutoField(primary_key=True)
    hour = models.BigIntegerField()  # since 1970 UTC
    endpoint_id = TextUUIDField()
    attempts = models.IntegerField()
    work = models.BinaryField()  # packed lines

    class Meta:
        app_label = "metrics"
        db_table = "hardware_batches"
        indexes: ClassVar = [models.Index(fields=["hour", "endpoint_id"], name="hardware_batches_hour")]

    def __str__(self) -> str:
        return f"{self.hour} {self.endpoint_id}: {self.attempts}"


class HardwareWork(models.Model):
    """An attempt's part of one hour, as earlier versions stored it. Rows are read as long as they are kept."""

    pk = models.CompositePrimaryKey("hour", "endpoint_id", "request_id", "attempt")
    hour = models.BigIntegerField()  # since 1970 UTC
    endpoint_id = TextUUIDField()
    request_id = TextUUIDField()
    attempt = models.IntegerField()
    start_us = models.BigIntegerField()
    end_us = models.BigIntegerField()
    model = LineField()  # the requested name
    kind = LineField()
    api_key_id = LineField()  # empty: none
    requests = models.IntegerField()  # 1 where the request ended, with its tokens
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cached_tokens = models.BigIntegerField()
    write_tokens = models.BigIntegerField()
    long_write_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()

    class Meta:
        app_label = "metrics"
        db_table = "hardware_work"

    def __str__(self) -> str:
        return f"{self.hour} {self.endpoint_id} {self.request_id}"


class HardwareDue(models.Model):
    """An hour of an endpoint with work that its cost does not contain yet."""

    pk = models.CompositePrimaryKey("hour", "endpoint_id")
    hour = models.BigIntegerField()
    endpoint_id = TextUUIDField()

    class Meta:
        app_label = "metrics"
        db_table = "hardware_due"

    def __str__(self) -> str:
        return f"{self.hour} {self.endpoint_id}"


class HardwarePosition(models.Model):
    """Hour up to which the cost of an endpoint is counted, excluded."""

    endpoint_id = TextUUIDField(primary_key=True)
    hour = models.BigIntegerField()

    class Meta:
        app_label = "metrics"
        db_table = "hardware_positions"

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.hour}"


class HardwareLine(models.Model):
    """Sums of requests, or of an idle endpoint (kind `idle`), over one rate. Costs are in 10⁻⁹ of the currency."""

    pk: models.CompositePrimaryKey
    date = LineField()  # local
    endpoint_id = TextUUIDField()
    rate_id = models.BigIntegerField()
    currency = LineField()
    model = LineField()
    kind = LineField()
    api_key_id = LineField()
    seconds = models.BigIntegerField()  # of the endpoint; in the idle line only
    busy_us = models.BigIntegerField()  # in which any request ran; in the idle line only
    work_us = models.BigIntegerField()  # sum of the times of attempts
    requests = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cached_tokens = models.BigIntegerField()
    write_tokens = models.BigIntegerField()
    long_write_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    cost = models.BigIntegerField()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.date} {self.endpoint_id} {self.kind}: {self.cost} {self.currency}"


class HardwareHour(HardwareLine):
    """Lines of one hour, or of the part of it that has one rate and one date. `start`: seconds since 1970 UTC."""

    pk = models.CompositePrimaryKey("start", "endpoint_id", "model", "kind", "api_key_id")
    start = models.BigIntegerField()

    class Meta:
        app_label = "metrics"
        db_table = "hardware_hours"


class HardwareDayRollUp(HardwareLine):
    """Lines of one day."""

    pk = models.CompositePrimaryKey("date", "endpoint_id", "rate_id", "currency", "model", "kind", "api_key_id")

    class Meta:
        app_label = "metrics"
        db_table = "rollup_hardware_days"
        verbose_name = _("daily costs of own hardware")
        verbose_name_plural = _("daily costs of own hardware")
        indexes: ClassVar = [models.Index(fields=["endpoint_id", "date"], name="hardware_days_endpoint")]
