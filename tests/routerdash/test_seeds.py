"""Only control reads figures from the database, once."""

SEEDS = """from metrics.memory.runtime import runtime
from metrics.storage import seeding
print(seeding.seeds, runtime.trackers.seeded)
"""
