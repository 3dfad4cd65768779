"""The one teller of this process: trackers, the folder that feeds them, and what else a figure is made of.

Only control fills them. Elsewhere (tests, the shell) they are empty until somebody seeds them.
"""

from collections.abc import Callable, Container, Mapping
from datetime import datetime

from django.conf import settings

from gateway.bounds import Hits
from gateway.snapshot import Snapshot
from metrics.folder import Folder
from metrics.journals import Journals
from metrics.trackers import Trackers
from metrics.writer import DatabaseWriter

trackers = Trackers(settings.ROUTERDASH.zone)
folder = Folder(Journals(settings.ROUTERDASH.journal_dir), trackers)


class Surroundings:
    """What control knows beside the journals; set once when it starts."""

    def __init__(self) -> None:
        self.in_flight: Callable[[], Mapping[str, int]] = dict  # endpoint id -> requests now, over all workers
        self.waiting: Callable[[], int] = lambda: 0  # requests in the queues of all workers
        self.trials: Callable[[], Mapping[str, int]] = dict  # endpoint id -> see LivePage.trial_due; only what is not 0
        self.snapshot: Callable[[], Snapshot | None] = lambda: None  # what gateways route by
        # Have workers tell what is here until this second; the answer is until when they did already.
        self.watch: Callable[[int], int] = lambda until: 0
        self.cancel: Callable[[str], None] = lambda request_id: None  # have the worker that has it end this request
        self.cancelled: Callable[[], Container[str]] = frozenset  # those of the last minute
        self.unrecorded: Callable[[], int] = lambda: 0  # requests that no journal has taken, nor heard of, yet
        self.bounds = Hits()  # how often bounds on resources were hit, over all processes
        self.serving: Callable[[], bool] = lambda: False  # have gateways something to serve from?
        self.outdated: Callable[[], bool] = lambda: False  # are endpoints, users or keys those of a while ago?
        self.key_names: Callable[[], Mapping[str, str]] = dict  # API key id -> its name, from memory
        # Administrators who still have a password that was generated for them: id, name, since when.
        self.generated_passwords: Callable[[], list[tuple[str, str, datetime]]] = list
        self.writer: DatabaseWriter | None = None


surroundings = Surroundings()
