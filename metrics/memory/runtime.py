"""Process-wide singletons: in-memory figures, the journal follower that feeds them, the state of the installation.

Only control fills them. In tests, the shell and commands they stay empty.
"""

from django.conf import settings

from metrics.memory.installation import InstallationState
from metrics.memory.journal_follower import JournalFollower
from metrics.memory.journal_reader import JournalReader
from metrics.memory.trackers import Trackers


class Runtime:
    """The singletons of one process."""

    def __init__(self) -> None:
        self.trackers = Trackers(settings.ROUTERDASH.zone)
        self.follower = JournalFollower(JournalReader(settings.ROUTERDASH.journal_dir), self.trackers)
        self.installation = InstallationState()

    def connect(self, installation: InstallationState) -> None:
        """Give this process the state of the installation that it runs."""
        self.installation = installation


runtime = Runtime()
