"""Facts for gateways: made from entries of the registry and of the directory, and read back without a database.

Endpoints follow endpoints.endpoint_fields in both directions. Figures and texts that no gateway needs are left out.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from access.directory import KeyEntry
from endpoints import capabilities, model_aliases, sealer
from endpoints.clouds.kinds import CLOUDS
from endpoints.endpoint_fields import PUBLISHED_FIELDS
from endpoints.registry import Entry, ModelEntry, Models
from gateway.registry.schema import EndpointFacts, Model, PublishedKey


def endpoint_facts(entry: Entry, slot: int) -> EndpointFacts:
    """Return the endpoint without its models. `slot` is its index in the live page."""
    values = {attribute: form.store(getattr(entry, name)) for name, attribute, form in PUBLISHED_FIELDS}
    values["external"] = entry.is_external
    values["sealed_key"] = entry.sealed_api_key or _seal(entry)
    return EndpointFacts(slot=slot, **values)


def endpoint_models(entry: Entry) -> tuple[Model, ...]:
    added = capabilities.added(list(entry.capabilities))
    return tuple(_model(model, added, entry.created(model)) for model in entry.models)


def published_key(key: KeyEntry) -> PublishedKey:
    return PublishedKey(
        key.id,
        key.hash,
        key.permissions,
        key.expires_at,
        key.owner_id,
        key.external,
        key.enabled,
        key.rules,
        key.bulk,
        key.replaced,
        key.replaced_until,
    )


def entry_of(facts: EndpointFacts, models: Sequence[Model]) -> Entry:
    """Return the entry of a published endpoint. Fields that are not published have their defaults."""
    values = {name: form.load(getattr(facts, attribute)) for name, attribute, form in PUBLISHED_FIELDS}
    if facts.external == (facts.kind in CLOUDS):
        values["external"] = None  # the facts do not distinguish it from a mark that an administrator has set
    entries = map(_model_entry, sorted(models, key=lambda model: model.id))
    return Entry(**values, models=Models(entries))


def _model_entry(model: Model) -> ModelEntry:
    return ModelEntry(
        model.id,
        model.canonical,
        model.capabilities,
        model.max_tokens,
        max_output_tokens=model.max_output_tokens,
        lacks=model.lacks,
        features=model.features,
        first_seen=datetime.fromtimestamp(model.created, UTC) if model.created else None,
    )


_sealed: dict[str, str] = {}


def _seal(entry: Entry) -> str | None:
    """Seal a secret that llmlb left in plain text. The result is cached, so that equal facts compare equal."""
    if not entry.plain_api_key:
        return None
    return _sealed.setdefault(entry.plain_api_key, sealer.sealer().seal(entry.plain_api_key))


def _model(model: ModelEntry, added: tuple[str, ...], created: int) -> Model:
    return Model(
        id=model.id,
        canonical=model.canonical_name,
        aliases=model_aliases.aliases(model.id, model.canonical_name),
        capabilities=capabilities.combined(model.capabilities, added),
        max_tokens=model.max_tokens,
        max_output_tokens=model.max_output_tokens,
        lacks=model.lacks,
        features=model.features,
        created=created,
    )
