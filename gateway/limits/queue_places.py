"""Places in the queue, which are bounded over all gateways: in all, for each API key, and for bulk requests."""

from gateway.base.bounds import QUEUE, QUEUE_OF_BULK, QUEUE_OF_KEY, Bound
from gateway.base.config import Config
from gateway.ipc.counters.limit_counters import LimitCounters
from gateway.ipc.counters.places import NoPlace
from gateway.ipc.counters.plan import Allowance, Charge
from gateway.routing.roster import Roster


class QueuePlaces:
    """The places that requests of this process take."""

    def __init__(self, config: Config, roster: Roster, counters: LimitCounters) -> None:
        self._config = config
        self._roster = roster
        self._counters = counters
        self._all = counters.subject("queue", "")

    def take(self, key: str, *, gives_way: bool = False) -> Charge | Bound:
        """Take a place in the queue for a request of an API key, or of an address. Return the bound that forbids it.

        A key may take a share of the places of all workers and one more, unless it is the only key. Bulk requests have
        half of the places, so that they leave the others to interactive ones; and a key as much of
        these as of all.
        """
        config = self._config
        subject, places = self._counters.subject, config.queue_max
        demands = [(self._all, Allowance(concurrency=places))]
        of = {self._all: QUEUE}
        if gives_way:
            places = (places + 1) // 2
            bulk = subject("queue of bulk", "")
            demands.append((bulk, Allowance(concurrency=places)))
            of[bulk] = QUEUE_OF_BULK
        if not (config.require_api_key and self._roster.has_one_key()):
            of_key = subject("queue of key, bulk" if gives_way else "queue of key", key)
            demands.append((of_key, Allowance(concurrency=places * config.queue_key_share // 100 + 1)))
            of[of_key] = QUEUE_OF_KEY
        try:
            taken = self._counters.plan(*demands).take()
        except NoPlace:
            return QUEUE
        return taken if isinstance(taken, Charge) else of[taken.subject]
