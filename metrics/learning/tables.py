"""Tables of learning: samples of speeds, loads and lengths, an endpoint's past, and slow starts."""

from django.db import models

from endpoints.fields import LineField, TextUUIDField


class SpeedWindow(models.Model):
    """The last answers of one model at one endpoint, for adaptive routing. `samples`: see metrics.learning.samples."""

    pk = models.CompositePrimaryKey("endpoint_id", "model", "kind")
    endpoint_id = TextUUIDField()
    model = LineField()  # the requested name
    kind = LineField()
    samples = models.BinaryField()

    class Meta:
        app_label = "metrics"  # the tables are older than the folder
        db_table = "learning_speeds"

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.model}"


class LoadWindow(models.Model):
    """The last loads of one model at one endpoint, for adaptive routing. `samples`: see metrics.learning.samples."""

    pk = models.CompositePrimaryKey("endpoint_id", "model")
    endpoint_id = TextUUIDField()
    model = LineField()  # the requested name
    samples = models.BinaryField()

    class Meta:
        app_label = "metrics"
        db_table = "learning_loads"

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.model}"


class LengthWindow(models.Model):
    """Lengths of the last answers of one model, of all clients or of one API key, see metrics.learning.samples."""

    pk = models.CompositePrimaryKey("model", "api_key_id")
    model = LineField()  # the requested name
    api_key_id = LineField()  # empty: all clients
    samples = models.BinaryField()

    class Meta:
        app_label = "metrics"
        db_table = "learning_lengths"

    def __str__(self) -> str:
        return f"{self.model} {self.api_key_id}"


class PastSpeeds(models.Model):
    """Some answers of an hour of one model at one endpoint, for slow-downs. `samples`: see metrics.learning.past."""

    pk = models.CompositePrimaryKey("endpoint_id", "model", "kind", "hour")
    endpoint_id = TextUUIDField()
    model = LineField()  # the requested name
    kind = LineField()
    hour = models.IntegerField()  # since 1970
    samples = models.BinaryField()

    class Meta:
        app_label = "metrics"
        db_table = "learning_past"
        indexes = (models.Index(fields=["hour"], name="idx_learning_past_hour"),)

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.model} {self.hour}"


class SlowStart(models.Model):
    """When an endpoint last came online or got another address: its slow start began, see docs/concepts/learning.md."""

    endpoint_id = TextUUIDField(primary_key=True)
    since_us = models.BigIntegerField()  # µs since 1970
    base_url = LineField()

    class Meta:
        app_label = "metrics"
        db_table = "learning_starts"

    def __str__(self) -> str:
        return f"{self.endpoint_id}: {self.since_us}"
