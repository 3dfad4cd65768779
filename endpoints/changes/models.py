"""Tables of changes: counters, the change log, and the position up to which the log was read."""

from django.db import models

from endpoints.fields import LineField


class ChangeCounter(models.Model):
    """Counter of changes: see endpoints.changes.counters."""

    name = LineField(primary_key=True)
    value = models.BigIntegerField(default=0)

    class Meta:
        db_table = "change_counters"

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


class RegistryChange(models.Model):
    """One entry of the change log, which triggers of the database write: see endpoints.changes.triggers.

    An id never occurs twice, not even after all rows were deleted, so that a late delete cannot hit a new entry.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.TextField()
    object_id = models.TextField()

    class Meta:
        db_table = "registry_changes"

    def __str__(self) -> str:
        return f"{self.kind} {self.object_id}"


class RegistryPosition(models.Model):
    """Name of the state that was read from the change log last, one row: see endpoints.changes.log."""

    id = models.IntegerField(primary_key=True, default=1)
    token = models.TextField()

    class Meta:
        db_table = "registry_position"

    def __str__(self) -> str:
        return str(self.token)
