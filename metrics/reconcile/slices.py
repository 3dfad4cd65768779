"""Additions of slices to the audit of figures."""

from collections.abc import Callable, Iterator, Sequence

from endpoints.slices import Slice, slices
from gateway.base.config import Config
from metrics.reconcile.comparison import Comparison, FigureDifference
from metrics.reconcile.scope import Scope

Law = Callable[[Scope], Comparison | None]
Compared = tuple[list[FigureDifference], list[str]]  # and notes about comparisons that were left out
Check = Callable[[Scope], Iterator[FigureDifference]]


class AuditedSlice(Slice):
    """A slice with laws of its own."""

    def laws(self) -> Sequence[Law]:
        """Return comparisons of derived figures, in the order of a repair, which follows that of the core."""
        return ()

    def checks(self) -> Sequence[Check]:
        """Return checks that a repair does not use."""
        return ()

    def compare_running(self, config: Config) -> Compared:
        """Compare what a running RouterDash has in memory and in its files. Raises django.db.Error."""
        return [], []


def audited_slices() -> list[AuditedSlice]:
    return [one for one in slices() if isinstance(one, AuditedSlice)]
