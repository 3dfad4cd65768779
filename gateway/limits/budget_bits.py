"""How records name the budgets that count them: one bit for each level, unit and period."""

from gateway.registry.limits import LEVEL_LETTERS, PERIODS, UNITS

_KINDS = [(level, unit, period) for level in LEVEL_LETTERS for unit in UNITS for period in PERIODS]
BITS = {kind: 1 << number for number, kind in enumerate(_KINDS)}


def kinds_of(bits: int) -> list[tuple[str, str, str]]:
    """Return the level, unit and period of each bit that is set."""
    return [kind for kind, bit in BITS.items() if bits & bit]
