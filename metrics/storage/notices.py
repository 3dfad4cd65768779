"""Notices about a change of the release, which administrators see on the overview until one of them dismisses it.

The database has the names of those that are not dismissed (`Installation.notices`); a new installation has none. They
are read once for each process, so that the overview needs no database.
"""

import logging

from django.db import Error, transaction

from metrics.models import Installation

ADAPTIVE_BY_DEFAULT = "adaptive"  # the installation existed before this became the default of ROUTERDASH_BALANCER

log = logging.getLogger(__name__)


class Notices:
    """The notices of this installation, as control knows them."""

    def __init__(self) -> None:
        self._unread: frozenset[str] | None = None  # None: not read yet

    def unread(self) -> frozenset[str]:
        """Return the names of notices that nobody has dismissed; none as long as the database cannot be read."""
        if self._unread is None:
            try:
                self._unread = _stored()
            except Error as error:
                log.warning("notices could not be read: %s", error)
                return frozenset()
        return self._unread

    def dismiss(self, name: str) -> None:
        """Never show a notice again. Raises django.db.Error."""
        with transaction.atomic():
            installation = Installation.objects.select_for_update().filter(id=1).first()
            if installation is not None:
                left = [notice for notice in installation.notices or () if notice != name]
                installation.notices = left or None
                installation.save(update_fields=["notices"])
        self._unread = _stored()

    def forget(self) -> None:
        """Reset to the state before the first read; for tests."""
        self._unread = None


notices = Notices()


def _stored() -> frozenset[str]:
    stored = Installation.objects.filter(id=1).values_list("notices", flat=True).first()
    return frozenset(stored or ())
