"""The lists of slices: capabilities that have a folder each (endpoints.slices, docs/architecture/slices.md).

A slice may import those above it.
"""

# The core calls these, too.
CORE_SLICES = (
    "metrics.model_names",
    "metrics.reconcile",
    "metrics.learning",
    "metrics.costs",
    "metrics.spending",
)

# These can be removed with their folder and their line here.
SLICES = (
    "metrics.hardware",
    "metrics.replay",
    "routerdash.adoption",
)
