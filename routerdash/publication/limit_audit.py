"""Audit of published limits: compares them with the database, a slice of subjects after the other.

One walk goes through the tables, and finds limits that the store lacks. Another one goes through the store, and finds
limits that the database no longer has.
"""

from collections.abc import Collection

from access.limits.reading import SubjectWalk, read_limits
from gateway.registry.kinds import LIMITS
from gateway.registry.limits import LimitFacts, Subject
from gateway.registry.schema import limit_key, limited_subject
from routerdash.publication.publisher import Publisher

SUBJECTS_AT_ONCE = 500


class LimitAudit:
    """One pass after the other, in the thread that calls its methods."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._stored: SubjectWalk | None = None  # through the tables; None: this walk has ended
        self._after: bytes | None = None  # the last key of the store that was compared; None: this walk has ended
        self._suspects: set[Subject] = set()  # that differed; they may just have changed

    @property
    def has_more(self) -> bool:
        """True while the pass has not ended."""
        return self._stored is not None or self._after is not None or bool(self._suspects)

    def begin_pass(self) -> None:
        self._stored, self._after = SubjectWalk(SUBJECTS_AT_ONCE), b""

    def compare(self) -> int:
        """Compare the next subjects, and those that differed; publish and count those that still differ.

        Raises django.db.Error.
        """
        subjects = self._suspects | set(self._next_stored()) | set(self._next_published())
        expected = read_limits(subjects)
        published = self._publisher.read(
            lambda writer: {subject: writer.row(LIMITS, limit_key(*subject)) for subject in subjects}
        )
        differing = {subject for subject in subjects if published[subject] != expected.get(subject)}
        confirmed = differing & self._suspects
        self._suspects = differing - confirmed
        if confirmed:
            self._publish(confirmed, expected)
        return len(confirmed)

    def _publish(self, subjects: Collection[Subject], expected: dict[Subject, LimitFacts]) -> None:
        self._publisher.publish_limits({subject: expected.get(subject) for subject in subjects})

    def _next_stored(self) -> list[Subject]:
        if self._stored is None:
            return []
        subjects = self._stored.next_part()
        if not subjects:
            self._stored = None
        return subjects

    def _next_published(self) -> list[Subject]:
        if self._after is None:
            return []
        after = self._after
        keys = self._publisher.read(lambda writer: writer.row_keys(LIMITS, after, SUBJECTS_AT_ONCE))
        self._after = keys[-1] if len(keys) == SUBJECTS_AT_ONCE else None
        return [limited_subject(key) for key in keys]
