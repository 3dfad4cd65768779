"""Which steps of model names requests have used lately, from the records of this process."""

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.ipc.record import RequestRecord

SECONDS = 300.0  # without a use of the first step, although requests for the name came
MAX_NAMES = 2_000


@dataclass(slots=True)
class StepUse:
    """Uses of one requested name, in seconds since 1970; 0: none."""

    first_at: float = 0.0  # the newest request that its first step served
    later_since: float = 0.0  # the oldest request since then that a later step served
    later_at: float = 0.0  # the newest such request
    step: int = 0  # which step that was

    def add(self, ended: float, step: int) -> None:
        if step == 1:
            self.first_at = max(self.first_at, ended)
        else:
            if ended >= self.later_at:
                self.later_at, self.step = ended, step
            if self.later_since <= self.first_at or ended < self.later_since:
                self.later_since = ended
        if self.later_since <= self.first_at < self.later_at:
            self.later_since = self.later_at

    def is_left(self, now: float) -> bool:
        """Return True if the first step has not been used for SECONDS although requests came, and still come."""
        in_vain = self.later_since > self.first_at and now - self.later_since >= SECONDS
        return in_vain and now - self.later_at < SECONDS


class NameSteps:
    """Uses of steps by requested name."""

    def __init__(self) -> None:
        self._uses: dict[str, StepUse] = {}

    def add(self, records: Iterable[RequestRecord]) -> None:
        for record in records:
            if record.attempts and (step := record.attempts[-1].step):
                use = self._uses.get(record.model)
                if use is None:
                    if len(self._uses) >= MAX_NAMES:
                        self._uses.clear()
                    use = self._uses[record.model] = StepUse()
                use.add(record.completed_us / 1e6, step)

    def left(self, now: float) -> dict[str, StepUse]:
        """Return the names whose first step has not been used for SECONDS."""
        return {name: use for name, use in list(self._uses.items()) if use.is_left(now)}

    def forget(self) -> None:
        self._uses.clear()


name_steps = NameSteps()
