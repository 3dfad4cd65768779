"""Wrong implementations of the rules of limits. The torture test must notice each of them."""

from collections.abc import Callable
from typing import Any


def check_nothing() -> None:
    from gateway.ipc.counters.plan import Plan

    original = Plan._excess

    def excess(plan: Plan, left: list[int], requests: int = 0, tokens: int = 0, *, stops: bool = True) -> None:
        original(plan, left, requests, tokens, stops=False)

    Plan._excess = excess  # type: ignore[method-assign, assignment]


def see_the_own_row_only() -> None:
    """Each process has the whole limit for itself."""
    from gateway.ipc.counters.counter_file import CounterFile

    claim, own = CounterFile.claim, list[int]()

    def claim_row(file: CounterFile, row: int) -> None:
        own[:] = [row]
        claim(file, row)

    CounterFile.claim = claim_row  # type: ignore[method-assign, assignment]
    CounterFile.counting = lambda file, number: list(own)  # type: ignore[method-assign, assignment]


def keep_the_claims_of_refused_requests() -> None:
    from gateway.ipc.counters.plan import Plan

    Plan._undo = lambda plan: None  # type: ignore[method-assign, assignment]


def never_settle() -> None:
    from gateway.ipc.counters.plan import Plan

    Plan.leave = lambda plan, number, requests, tokens: None  # type: ignore[method-assign, assignment]


def keep_the_places_of_the_dead() -> None:
    from gateway.ipc.counters.counter_file import CounterFile

    def clear(file: CounterFile, row: int) -> None:
        file._set_life(row, max(file.cell_number(), 2))

    CounterFile.clear = clear  # type: ignore[method-assign, assignment]


def count_half_a_minute() -> None:
    from gateway.ipc.counters import counter_file

    counter_file.CELL_SECONDS = 1.5


def charge_refused_requests() -> None:
    from gateway.ipc.counters.plan import Excess, Plan

    take = Plan.take

    def take_anyway(plan: Plan, tokens: int = 0) -> Any:
        taken = take(plan, tokens)
        if isinstance(taken, Excess):
            plan._count(tokens)
        return taken

    Plan.take = take_anyway  # type: ignore[method-assign, assignment]


def give_back_all_tokens() -> None:
    """A request gives back its whole reservation, whatever it has used."""
    from gateway.inference import recording
    from gateway.inference.limiting.admission import settle

    def settle_without_tokens(request: Any, limited: Any, made: Any) -> None:
        if made.attempts:
            limited.settle(0)
        settle(request, limited, made)

    recording.settle = settle_without_tokens  # type: ignore[attr-defined]


def keep_old_limits() -> None:
    """A process goes on with the limits that it has read first."""
    from gateway.limits.compiled import KeyLimits

    original = KeyLimits._compile

    def compile_once(limits: KeyLimits, key_id: str, owner_id: str, before: Any) -> Any:
        if before is None:
            return original(limits, key_id, owner_id, before)
        before.version = limits._reader.limits_version
        return before

    KeyLimits._compile = compile_once  # type: ignore[method-assign, assignment]


def let_bulk_requests_use_the_whole() -> None:
    from gateway.limits import compiled

    compiled.part_for_bulk = lambda amount: amount  # type: ignore[attr-defined]


RULES: dict[str, Callable[[], None]] = {
    rule.__name__.replace("_", "-"): rule
    for rule in (
        check_nothing,
        see_the_own_row_only,
        keep_the_claims_of_refused_requests,
        never_settle,
        keep_the_places_of_the_dead,
        count_half_a_minute,
        charge_refused_requests,
        give_back_all_tokens,
        keep_old_limits,
        let_bulk_requests_use_the_whole,
    )
}
