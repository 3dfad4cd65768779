"""Tables of the use of API keys: when each was last used, and its refused requests by day."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from endpoints.fields import LineField


class LastUse(models.Model):
    """When the latest request of an API key completed that was not rejected, in µs since 1970 UTC."""

    api_key_id = LineField(primary_key=True)
    last_used_us = models.BigIntegerField()

    class Meta:
        db_table = "api_key_last_uses"

    def __str__(self) -> str:
        return f"{self.api_key_id}: {self.last_used_us}"


class RefusedDayRollUp(models.Model):
    """Rejected requests of one day, by API key and reason."""

    pk = models.CompositePrimaryKey("date", "api_key_id", "code", "limit_name")
    date = LineField()  # local
    api_key_id = LineField()  # empty: none, or an unknown one
    code = LineField()  # of the error
    limit_name = LineField()  # level and limit or budget, such as `key:requests`; empty: none
    requests_rejected = models.BigIntegerField()

    class Meta:
        db_table = "rollup_refused_days"
        verbose_name = _("daily refused requests")
        verbose_name_plural = _("daily refused requests")

    def __str__(self) -> str:
        return f"{self.date} {self.api_key_id} {self.code}: {self.requests_rejected}"
