"""What budgets have spent in their present periods, for a process that only reads."""

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway.ipc.counters.spending import SpendingReader, TagView
from gateway.ipc.counters.spending_file import SpendingFile, path_beside
from gateway.limits.periods import end_of, name_of
from gateway.registry.limits import Subject


class SpentNow:
    """The amounts that gateways take for spent on one day: tokens, or 10⁻⁹ of the reporting currency."""

    def __init__(self, live_page: Path, zone: ZoneInfo) -> None:
        """`live_page`: path of the live page, beside which the amounts are. `zone`: of the installation."""
        self._zone = zone
        self._today = datetime.now(zone).date()
        self._file = _open_file(live_page)
        self._reader = None if self._file is None else SpendingReader(self._file)

    def spent(self, subject: Subject, unit: str, period: str) -> int | None:
        """Return the amount without reservations; None: not known, until control has published it."""
        view = self._view(subject, unit, period)
        return None if view is None or self._reader is None else self._reader.spent(view)

    def used(self, subject: Subject, unit: str, period: str) -> int | None:
        """Return the amount with reservations; None: not known, until control has published it."""
        view = self._view(subject, unit, period)
        return None if view is None or self._reader is None else self._reader.used(view)

    def end_of(self, period: str) -> float | None:
        """Return when the present period ends, in seconds since 1970; None: never."""
        return end_of(period, self._today, self._zone)

    def _view(self, subject: Subject, unit: str, period: str) -> TagView | None:
        if self._file is None or self._reader is None or not self._reader.covers(self._today.toordinal()):
            return None
        return TagView(self._file.tag(*subject, unit, period, name_of(period, self._today)))


_files: dict[int, SpendingFile] = {}  # by inode; at most one


def _open_file(live_page: Path) -> SpendingFile | None:
    """Return the spending file; None if there is none."""
    path = path_beside(live_page)
    try:
        inode = path.stat().st_ino
    except FileNotFoundError:
        return None
    if inode not in _files:
        _files.clear()
        _files[inode] = SpendingFile(path)
    return _files[inode]
