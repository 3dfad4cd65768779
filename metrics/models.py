"""The existing tables of history and daily figures, and our own: roll-ups, moving averages, positions, totals."""

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


class RequestHistory(models.Model):
    """One finished request. The columns from `outcome` on are ours, null in rows that the reference wrote."""

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
    attempts = SharedJSONField(null=True)  # of metrics.history.StoredAttempt
    queue_us = SharedBigIntegerField(null=True)
    request_id = SharedLineField(_("request id"), null=True)

    class Meta:
        db_table = "request_history"
        ordering: ClassVar = ["-completed_at", "-id"]
        verbose_name = _("request")
        verbose_name_plural = _("requests")
        permissions: ClassVar = [("view_bodies", "Can view the bodies of requests")]
        indexes: ClassVar = [
            models.Index(fields=["completed_at"], name="history_completed"),
            models.Index(fields=["endpoint_id", "completed_at"], name="history_endpoint"),
            # The few that the reference wrote, for the start to find among millions of ours.
            models.Index(fields=["completed_at"], condition=models.Q(outcome=None), name="history_adopted"),
            # The few that went wrong, at no cost to those that did not.
            models.Index(fields=["completed_at"], condition=models.Q(status="error"), name="history_failed"),
            # What clients called their requests, at no cost to those that came without a name.
            models.Index(
                fields=["request_id", "completed_at"],
                condition=models.Q(request_id__isnull=False),
                name="history_request_id",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id}: {self.model}"


class DailyStat(models.Model):
    """Attempts on one model of one endpoint on one local day. Stays when the endpoint is deleted."""

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
        verbose_name = _("daily figures")
        verbose_name_plural = _("daily figures")
        indexes: ClassVar = [
            models.Index(fields=["date"], name="idx_daily_stats_date"),
            models.Index(fields=["endpoint_id", "date"], name="idx_daily_stats_endpoint_date"),
        ]

    def __str__(self) -> str:
        return f"{self.date} {self.endpoint_id} {self.model_id}"


class Setting(models.Model):
    """The reference's key and value pairs."""

    key = LineField(primary_key=True)
    value = models.TextField()
    updated_at = LineField()  # `YYYY-MM-DD HH:MM:SS`, UTC, without a zone

    class Meta:
        db_table = "settings"

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


class RollUp(models.Model):
    """Sums over one span of time, endpoint, model, kind and key. Requests count under the endpoint that answered."""

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
    # Null in rows of before these were counted.
    requests_rejected = models.BigIntegerField(null=True)
    first_token_us = models.BigIntegerField(null=True)

    class Meta:
        abstract = True


class DistributedRollUp(RollUp):
    """With histograms, see metrics.histogram."""

    durations = LineField(null=True)
    first_tokens = LineField(null=True)

    class Meta:
        abstract = True


class MinuteRollUp(DistributedRollUp):
    """`minute`: minutes since 1970, UTC, of completion."""

    pk = models.CompositePrimaryKey("minute", "endpoint_id", "model", "kind", "api_key_id")
    minute = models.BigIntegerField()

    class Meta:
        db_table = "rollup_minutes"
        verbose_name = _("roll-ups by minute")
        verbose_name_plural = _("roll-ups by minute")

    def __str__(self) -> str:
        return f"{self.minute} {self.endpoint_id} {self.model}"


class DayRollUp(DistributedRollUp):
    """`date`: the local date of completion."""

    pk = models.CompositePrimaryKey("date", "endpoint_id", "model", "kind", "api_key_id")
    date = LineField()

    class Meta:
        db_table = "rollup_days"
        verbose_name = _("roll-ups by day")
        verbose_name_plural = _("roll-ups by day")

    def __str__(self) -> str:
        return f"{self.date} {self.endpoint_id} {self.model}"


class MonthRollUp(RollUp):
    """`month`: the first seven characters of the days that are summed, so that long spans need few rows."""

    pk = models.CompositePrimaryKey("month", "endpoint_id", "model", "kind", "api_key_id")
    month = LineField()

    class Meta:
        db_table = "rollup_months"
        verbose_name = _("roll-ups by month")
        verbose_name_plural = _("roll-ups by month")

    def __str__(self) -> str:
        return f"{self.month} {self.endpoint_id} {self.model}"


class ClientRollUp(models.Model):
    """Sums of what one client's address sent in one span of time."""

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
    """`hour`: hours since 1970, UTC."""

    pk = models.CompositePrimaryKey("hour", "client_ip")
    hour = models.BigIntegerField()
    last_us = models.BigIntegerField(null=True)  # when the last of them ended; null where a repair made the row

    class Meta:
        db_table = "rollup_client_hours"
        verbose_name = _("clients by hour")
        verbose_name_plural = _("clients by hour")
        indexes: ClassVar = [models.Index(fields=["client_ip", "hour"], name="client_hours_client")]

    def __str__(self) -> str:
        return f"{self.hour} {self.client_ip}"


class ClientDayRollUp(ClientRollUp):
    """With which key and for which model. `day`: days since 1970, UTC."""

    pk = models.CompositePrimaryKey("day", "client_ip", "api_key_id", "model")
    day = models.BigIntegerField()
    api_key_id = LineField()  # empty: none
    model = LineField()

    class Meta:
        db_table = "rollup_client_days"
        verbose_name = _("clients by day")
        verbose_name_plural = _("clients by day")
        indexes: ClassVar = [models.Index(fields=["client_ip", "day"], name="client_days_client")]

    def __str__(self) -> str:
        return f"{self.day} {self.client_ip} {self.model}"


class AllClientsRollUp(models.Model):
    """Sums over the clients of one hour, and how many these are: an IPv6 /64 is one. `hour`: since 1970, UTC."""

    hour = models.BigIntegerField(primary_key=True)
    requests_ok = models.BigIntegerField()
    requests_failed = models.BigIntegerField()
    requests_cancelled = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    clients = models.BigIntegerField()

    class Meta:
        db_table = "rollup_all_clients"
        verbose_name = _("all clients by hour")
        verbose_name_plural = _("all clients by hour")

    def __str__(self) -> str:
        return f"{self.hour}: {self.clients}"


class MovingAverage(models.Model):
    """The last speeds of one model on one endpoint; `samples` is what metrics.fold makes of them."""

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
    """Up to where a writer's journal is folded into this database."""

    writer = LineField(primary_key=True)
    segment = models.BigIntegerField()
    position = models.BigIntegerField()

    class Meta:
        db_table = "journal_positions"

    def __str__(self) -> str:
        return f"{self.writer}: {self.segment}, {self.position}"


class Total(models.Model):
    """A figure over all time, kept when what it was counted from is gone. Names are in metrics.fold."""

    name = LineField(primary_key=True)
    value = models.BigIntegerField()

    class Meta:
        db_table = "metric_totals"

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


class Baseline(models.Model):
    """An endpoint's counters, and the sum of its daily rows, at the moment this database was taken over."""

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
    """What one of llmlb's daily rows has beyond the attempts in the roll-ups of that day; below zero, what it lacks.

    llmlb calls some kinds by other names, has its own idea of where a day ends, and keeps no history of some requests.
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
    """One row, in databases that llmlb wrote: how far its history is counted. See metrics.adopted."""

    id = models.IntegerField(primary_key=True, default=1)
    counted_us = models.BigIntegerField()  # every row of llmlb that was completed before it, in µs since 1970
    base_us = models.BigIntegerField()  # tokens of before were in the totals already
    minutes_since = models.BigIntegerField()  # a whole hour's; of older requests there are no roll-ups by minute
    days_since = models.BigIntegerField()  # before this minute, days may have requests that no minute has
    clients_since = models.BigIntegerField()  # before this hour, RouterDash did not count its own by client

    class Meta:
        db_table = "adopted_history"

    def __str__(self) -> str:
        return f"up to {self.counted_us}"


class Installation(models.Model):
    """One row: which database this is. Journals bear the same id, so none is ever folded into another database."""

    id = models.IntegerField(primary_key=True, default=1)
    database_id = LineField()
    created_at = IsoDateTimeField()
    adopted_at = IsoDateTimeField(null=True)

    class Meta:
        db_table = "installation"

    def __str__(self) -> str:
        return str(self.database_id)
