"""Tables of figures: history and daily rows (shared with llmlb), roll-ups, moving averages, positions, totals."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from endpoints.fields import (
    IsoDateTimeField,
    LineField,
    SharedBigIntegerField,
    SharedIntegerField,
    SharedJSONField,
    SharedLineField,
    SharedTextField,
    TextUUIDField,
)
from metrics.costs.hardware_rollups import HardwareBatch as HardwareBatch
from metrics.costs.hardware_rollups import HardwareDayRollUp as HardwareDayRollUp
from metrics.costs.hardware_rollups import HardwareDue as HardwareDue
from metrics.costs.hardware_rollups import HardwareHour as HardwareHour
from metrics.costs.hardware_rollups import HardwarePosition as HardwarePosition
from metrics.costs.hardware_rollups import HardwareWork as HardwareWork
from metrics.costs.hardware_tables import HardwareRateRow as HardwareRateRow
from metrics.costs.rollups import CostDayRollUp as CostDayRollUp
from metrics.costs.rollups import CostKey as CostKey
from metrics.costs.rollups import CostSum as CostSum
from metrics.costs.tables import CurrencyRate as CurrencyRate
from metrics.costs.tables import PriceRow as PriceRow
from metrics.detailed_rollups import DetailedSums
from metrics.detailed_rollups import ServedDayRollUp as ServedDayRollUp  # Django finds tables in this module
from metrics.key_rollups import LastUse as LastUse
from metrics.key_rollups import RefusedDayRollUp as RefusedDayRollUp
from metrics.learning.tables import LengthWindow as LengthWindow
from metrics.learning.tables import LoadWindow as LoadWindow
from metrics.learning.tables import PastSpeeds as PastSpeeds
from metrics.learning.tables import SlowStart as SlowStart
from metrics.learning.tables import SpeedWindow as SpeedWindow


class RequestHistory(models.Model):
    """One finished request. Columns from `outcome` on belong to RouterDash, and are null in rows that llmlb wrote."""

    id = TextUUIDField(primary_key=True)
    timestamp = IsoDateTimeField()
    request_type = SharedLineField()
    model = SharedLineField(_("model"))
    endpoint_id = TextUUIDField()
    endpoint_name = SharedLineField(_("endpoint"))
    endpoint_ip = SharedLineField()
    client_ip = SharedLineField(_("client"), null=True)
    request_body = SharedJSONField()
    response_body = SharedJSONField(null=True)
    duration_ms = SharedBigIntegerField(_("duration (ms)"))
    status = SharedLineField(_("status"))
    error_message = SharedTextField(_("error"), null=True)
    completed_at = IsoDateTimeField(_("completed"))
    input_tokens = SharedBigIntegerField(null=True)
    output_tokens = SharedBigIntegerField(null=True)
    total_tokens = SharedBigIntegerField(null=True)
    api_key_id = TextUUIDField(null=True)

    outcome = SharedLineField(_("outcome"), null=True)
    status_code = SharedIntegerField(null=True)
    kind = SharedLineField(_("kind"), null=True)
    duration_us = SharedBigIntegerField(null=True)
    first_token_us = SharedBigIntegerField(null=True)
    tokens_estimated = models.BooleanField(null=True)
    streamed = models.BooleanField(null=True)
    attempts = SharedJSONField(null=True)  # see metrics.counting.stored_attempt
    queue_us = SharedBigIntegerField(null=True)
    request_id = SharedLineField(_("request id"), null=True)
    conversation = SharedLineField(_("conversation"), null=True)  # 8 bytes in hexadecimal
    queue_class = SharedLineField(_("queue class"), null=True)  # BULK of gateway.base.queue_class; null: interactive

    class Meta:
        db_table = "request_history"
        ordering: ClassVar = ["-completed_at", "-id"]
        verbose_name = _("request")
        verbose_name_plural = _("requests")
        permissions: ClassVar = [("view_bodies", "Can view the bodies of requests")]
        indexes: ClassVar = [
            models.Index(fields=["completed_at"], name="history_completed"),
            models.Index(fields=["endpoint_id", "completed_at"], name="history_endpoint"),
            # Rows that llmlb wrote: few, and read at each start among millions of others.
            models.Index(fields=["completed_at"], condition=models.Q(outcome=None), name="history_adopted"),
            # Failed requests: few, and without a cost for successful ones.
            models.Index(fields=["completed_at"], condition=models.Q(status="error"), name="history_failed"),
            # Request ids of clients, without a cost for requests that have none.
            models.Index(
                fields=["request_id", "completed_at"],
                condition=models.Q(request_id__isnull=False),
                name="history_request_id",
            ),
            # Turns of a conversation, without a cost for requests that belong to none.
            models.Index(
                fields=["conversation", "completed_at"],
                condition=models.Q(conversation__isnull=False),
                name="history_conversation",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id}: {self.model}"


class DailyStat(models.Model):
    """Attempts on one model of one endpoint on one local day. The row stays when the endpoint is deleted."""

    pk = models.CompositePrimaryKey("endpoint_id", "model_id", "date", "api_kind")
    endpoint_id = TextUUIDField()
    model_id = SharedLineField()
    date = SharedLineField()
    api_kind = SharedLineField(db_default="chat_completions")
    total_requests = SharedBigIntegerField(default=0, db_default=0)
    successful_requests = SharedBigIntegerField(default=0, db_default=0)
    failed_requests = SharedBigIntegerField(default=0, db_default=0)
    total_output_tokens = SharedBigIntegerField(default=0, db_default=0)
    total_duration_ms = SharedBigIntegerField(default=0, db_default=0)

    class Meta:
        db_table = "endpoint_daily_stats"
        verbose_name = _("daily metrics of endpoints")
        verbose_name_plural = _("daily metrics of endpoints")
        indexes: ClassVar = [
            models.Index(fields=["date"], name="idx_daily_stats_date"),
            models.Index(fields=["endpoint_id", "date"], name="idx_daily_stats_endpoint_date"),
        ]

    def __str__(self) -> str:
        return f"{self.date} {self.endpoint_id} {self.model_id}"


class Setting(models.Model):
    """Key and value pairs of llmlb."""

    key = LineField(primary_key=True)
    value = models.TextField()
    updated_at = LineField()  # `YYYY-MM-DD HH:MM:SS`, UTC, without a zone

    class Meta:
        db_table = "settings"

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


class RollUp(DetailedSums):
    """Sums over one span of time, endpoint, model, kind and API key. Requests count under their last endpoint."""

    pk: models.CompositePrimaryKey
    endpoint_id = TextUUIDField()
    model = LineField()
    kind = LineField()
    api_key_id = LineField()  # empty: none
    requests_ok = models.BigIntegerField()
    requests_failed = models.BigIntegerField()
    requests_cancelled = models.BigIntegerField()
    attempts_ok = models.BigIntegerField()
    attempts_failed = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    ok_duration_us = models.BigIntegerField()
    # Null in rows of releases that did not count these.
    requests_rejected = models.BigIntegerField(null=True)
    first_token_us = models.BigIntegerField(null=True)

    class Meta:
        abstract = True


class DistributedRollUp(RollUp):
    """Roll-up with histograms, see metrics.counting.histogram."""

    durations = LineField(null=True)
    first_tokens = LineField(null=True)

    class Meta:
        abstract = True


class MinuteRollUp(DistributedRollUp):
    """Roll-up of one minute. `minute` is that of completion, since 1970, UTC."""

    pk = models.CompositePrimaryKey("minute", "endpoint_id", "model", "kind", "api_key_id")
    minute = models.BigIntegerField()

    class Meta:
        db_table = "rollup_minutes"
        verbose_name = _("per-minute roll-ups")
        verbose_name_plural = _("per-minute roll-ups")

    def __str__(self) -> str:
        return f"{self.minute} {self.endpoint_id} {self.model}"


class DayRollUp(DistributedRollUp):
    """Roll-up of one day. `date` is the local date of completion."""

    pk = models.CompositePrimaryKey("date", "endpoint_id", "model", "kind", "api_key_id")
    date = LineField()

    class Meta:
        db_table = "rollup_days"
        verbose_name = _("daily roll-ups")
        verbose_name_plural = _("daily roll-ups")

    def __str__(self) -> str:
        return f"{self.date} {self.endpoint_id} {self.model}"


class MonthRollUp(RollUp):
    """Roll-up of one month, so that long spans need few rows. `month` is the start of its dates: `2026-11`."""

    pk = models.CompositePrimaryKey("month", "endpoint_id", "model", "kind", "api_key_id")
    month = LineField()

    class Meta:
        db_table = "rollup_months"
        verbose_name = _("monthly roll-ups")
        verbose_name_plural = _("monthly roll-ups")

    def __str__(self) -> str:
        return f"{self.month} {self.endpoint_id} {self.model}"


class ClientRollUp(models.Model):
    """Sums over the requests of one client address in one span of time."""

    pk: models.CompositePrimaryKey
    client_ip = LineField()
    requests_ok = models.BigIntegerField()
    requests_failed = models.BigIntegerField()
    requests_cancelled = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()

    class Meta:
        abstract = True


class ClientHourRollUp(ClientRollUp):
    """Requests of one client address in one hour. `hour` counts from 1970, UTC."""

    pk = models.CompositePrimaryKey("hour", "client_ip")
    hour = models.BigIntegerField()
    last_us = models.BigIntegerField(null=True)  # end of the latest request; null in a row that a repair created

    class Meta:
        db_table = "rollup_client_hours"
        verbose_name = _("hourly clients")
        verbose_name_plural = _("hourly clients")
        indexes: ClassVar = [models.Index(fields=["client_ip", "hour"], name="client_hours_client")]

    def __str__(self) -> str:
        return f"{self.hour} {self.client_ip}"


class ClientDayRollUp(ClientRollUp):
    """Requests of one client address in one day, by API key and model. `day` counts from 1970, UTC."""

    pk = models.CompositePrimaryKey("day", "client_ip", "api_key_id", "model")
    day = models.BigIntegerField()
    api_key_id = LineField()  # empty: none
    model = LineField()

    class Meta:
        db_table = "rollup_client_days"
        verbose_name = _("daily clients")
        verbose_name_plural = _("daily clients")
        indexes: ClassVar = [models.Index(fields=["client_ip", "day"], name="client_days_client")]

    def __str__(self) -> str:
        return f"{self.day} {self.client_ip} {self.model}"


class AllClientsRollUp(models.Model):
    """Sums over all clients of one hour, and their number: an IPv6 /64 is one client. `hour` counts from 1970, UTC."""

    hour = models.BigIntegerField(primary_key=True)
    requests_ok = models.BigIntegerField()
    requests_failed = models.BigIntegerField()
    requests_cancelled = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    clients = models.BigIntegerField()

    class Meta:
        db_table = "rollup_all_clients"
        verbose_name = _("hourly totals of all clients")
        verbose_name_plural = _("hourly totals of all clients")

    def __str__(self) -> str:
        return f"{self.hour}: {self.clients}"


class MovingAverage(models.Model):
    """Moving average of one model at one endpoint, in tokens per second. `samples`: see metrics.counting.speeds."""

    pk = models.CompositePrimaryKey("endpoint_id", "model", "kind")
    endpoint_id = TextUUIDField()
    model = LineField()
    kind = LineField()
    value = models.FloatField()
    samples = models.BinaryField()

    class Meta:
        db_table = "moving_averages"

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.model}: {self.value:.1f}"


class JournalPosition(models.Model):
    """Position up to which the journal of a writer is counted in this database."""

    writer = LineField(primary_key=True)
    segment = models.BigIntegerField()
    position = models.BigIntegerField()

    class Meta:
        db_table = "journal_positions"

    def __str__(self) -> str:
        return f"{self.writer}: {self.segment}, {self.position}"


class Total(models.Model):
    """A figure over all time, which stays when its requests are deleted. Names: metrics.counting.totals."""

    name = LineField(primary_key=True)
    value = models.BigIntegerField()

    class Meta:
        db_table = "metric_totals"

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


class Baseline(models.Model):
    """Counters of an endpoint, and the sum of its daily rows, at the adoption and after each later run of llmlb."""

    endpoint_id = TextUUIDField(primary_key=True)
    total_requests = models.BigIntegerField()
    successful_requests = models.BigIntegerField()
    failed_requests = models.BigIntegerField()
    daily_total = models.BigIntegerField()
    daily_successful = models.BigIntegerField()
    daily_failed = models.BigIntegerField()

    class Meta:
        db_table = "endpoint_baselines"

    def __str__(self) -> str:
        return f"{self.endpoint_id}: {self.total_requests}"


class AdoptedDay(models.Model):
    """llmlb's share of a daily row: its attempts minus those in the roll-ups of that day; it may be negative.

    llmlb has other names for some kinds, ends days at another time, and has no history rows of some requests.
    """

    pk = models.CompositePrimaryKey("endpoint_id", "model_id", "date", "api_kind")
    endpoint_id = TextUUIDField()
    model_id = LineField()
    date = LineField()
    api_kind = LineField()
    total_requests = models.BigIntegerField()
    successful_requests = models.BigIntegerField()
    failed_requests = models.BigIntegerField()

    class Meta:
        db_table = "adopted_days"

    def __str__(self) -> str:
        return f"{self.date} {self.endpoint_id} {self.model_id}"


class AdoptedHistory(models.Model):
    """Progress of counting the history that llmlb wrote, one row. See routerdash.adoption.history."""

    id = models.IntegerField(primary_key=True, default=1)
    counted_us = models.BigIntegerField()  # rows of llmlb that completed before this are counted; µs since 1970
    base_us = models.BigIntegerField()  # tokens of earlier rows were in the totals already
    minutes_since = models.BigIntegerField()  # a whole hour; older requests have no roll-ups by minute
    days_since = models.BigIntegerField()  # before this minute, days may contain requests that no minute contains
    clients_since = (
        models.BigIntegerField()
    )  # before this hour, requests of RouterDash itself are not counted by client

    class Meta:
        db_table = "adopted_history"

    def __str__(self) -> str:
        return f"up to {self.counted_us}"


class Installation(models.Model):
    """Identity of this database, one row. Journals have the same id, so none is counted in another database."""

    id = models.IntegerField(primary_key=True, default=1)
    database_id = LineField()
    created_at = IsoDateTimeField()
    adopted_at = IsoDateTimeField(null=True)
    details_since = models.BigIntegerField(null=True)  # minute from which on token details are counted; null: all
    key_use_since = models.BigIntegerField(null=True)  # minute from which on it is counted; null: all
    notices = models.JSONField(null=True)  # names of those that nobody has dismissed: see metrics.storage.notices

    class Meta:
        db_table = "installation"

    def __str__(self) -> str:
        return str(self.database_id)
