"""`python -m tests.torture.budgets`: budgets under kills, with all rules kept, or with one broken."""

import argparse
import random
import subprocess
import sys

from tests.router import ROOT

RULES = (
    "order", "named", "over", "awaited", "row", "held", "restart", "kept", "covered", "one store", "bank", "given back",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.budgets", description="Budgets under kills.")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration with faults")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    parser.add_argument("--broken", choices=("all", *RULES), default="", help="break a rule: it must be noticed")
    options = parser.parse_args()
    rules = RULES if options.broken == "all" else (options.broken,)
    sys.exit(any([not run(options.seconds, options.seed or random.randrange(1, 1_000_000), rule) for rule in rules]))


def run(seconds: float, seed: int, rule: str) -> bool:
    """Run once, in a process of its own. Return True if it found what it should."""
    command = [sys.executable, "-m", "tests.torture.budgets.run", str(seconds), str(seed), rule]
    exit_code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if rule and not exit_code:
        print(f"  the broken rule was not noticed: {rule}")
    return bool(exit_code) == bool(rule)


if __name__ == "__main__":
    main()
