"""Models that a pattern matches, and that win over it."""

from collections.abc import Iterable

from django.utils.translation import ngettext

from endpoints.registry import registry
from gateway.model_names.plan import matches_pattern
from gateway.registry.schema import Target


def covered_models(name: str, targets: Iterable[Target]) -> list[str]:
    """Return the ids and canonical names of models that a name matches as a pattern, but that do not go through it.

    None if the pattern leads to the requested model itself.
    """
    if "*" not in name or any(target.model == name for target in targets):
        return []
    models = (model for entry in registry.all() for model in entry.models)
    known = {known for model in models for known in (model.id, model.canonical_name) if known}
    return sorted(model for model in known if matches_pattern(name, model))


def warning(name: str, targets: Iterable[Target]) -> str | None:
    """Return the warning of a pattern that matches models; None if it matches none."""
    models = covered_models(name, targets)
    if not models:
        return None
    text = ngettext(
        "The pattern %(name)s matches a model that exists: %(model)s. Requests for it go to the model, not through "
        "the pattern. Make %(name)s a target to have its steps used.",
        "The pattern %(name)s matches %(count)d models that exist, such as %(model)s. Requests for them go to these "
        "models, not through the pattern. Make %(name)s a target to have its steps used.",
        len(models),
    )
    return text % {"name": name, "count": len(models), "model": models[0]}
