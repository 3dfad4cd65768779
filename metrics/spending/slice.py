"""Additions of spent budgets to the core. The database writer, Prometheus and others call them by name, too."""

from gateway.base.config import Config
from metrics.reconcile.slices import AuditedSlice, Compared


class SpendingSlice(AuditedSlice):
    def compare_running(self, config: Config) -> Compared:
        from metrics.spending import laws

        return laws.compare(config)


SLICE = SpendingSlice()
