"""Model names that tests store."""

from typing import Any

from endpoints.model_names.tables import NamedModel, NameStep, NameTarget


def make_name(name: str, *steps: str, **fields: Any) -> NamedModel:
    """Store a name. Each step is a text of targets with optional weights, as in "tiny=7 small"."""
    made = NamedModel.objects.create(name=name, **fields)
    for position, targets in enumerate(steps, 1):
        NameStep.objects.create(named=made, position=position)
        for target in targets.split():
            model, _, weight = target.partition("=")
            NameTarget.objects.create(named=made, step=position, model=model, weight=int(weight or 1))
    return made
