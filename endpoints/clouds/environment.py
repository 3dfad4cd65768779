"""API keys of clouds in the environment: *Discover* offers an endpoint for each, and each start stores changed keys.

With ROUTERDASH_ENV_ENDPOINTS, a start makes the endpoints itself, once: one that was deleted is not made again. The
id of an endpoint follows from the type of the cloud, so that any name and address may be edited.
"""

import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from django.contrib.admin.models import DELETION, LogEntry
from django.db import transaction
from django.utils.translation import gettext as _

from endpoints import clouds
from endpoints.base_url import normalise
from endpoints.models import Endpoint
from endpoints.registry import Entry, registry
from gateway.base.config import Config
from gateway.base.sealing import Unsealable
from gateway.providers.table import ANTHROPIC, AZURE, GEMINI, OPENAI, PROVIDERS, Provider

log = logging.getLogger(__name__)

NAMESPACE = uuid.UUID("c10d0000-0000-4000-8000-000000000001")
_GEMINI_NATIVE, _GEMINI_OPENAI = "/v1beta", "/openai"


@dataclass(frozen=True, slots=True)
class FoundKey:
    """An API key in the environment, and the variable that has it. `address` is empty if a setting must name it."""

    provider: Provider
    variable: str
    key: str = field(repr=False)
    address: str

    @property
    def name(self) -> str:
        """Name of the endpoint."""
        return f"{self.provider.label} (from {self.variable})"

    def base_url(self) -> str:
        """Return the address as it is stored. Raises ValueError with a sentence for the user."""
        if not self.address:
            raise ValueError(_("AZURE_OPENAI_ENDPOINT must name the address of the resource."))
        return clouds.complete(normalise(self.address))


@dataclass(frozen=True, slots=True)
class CloudOffer:
    """A cloud that can be added with its key of the environment, unless it is registered or has a problem."""

    found: FoundKey
    base_url: str
    problem: str | None = None
    registered: Entry | None = None


def endpoint_id(kind: str) -> uuid.UUID:
    """Return the id of the endpoint that is made for a cloud."""
    return uuid.uuid5(NAMESPACE, kind)


def offers(config: Config) -> list[CloudOffer]:
    """Return the clouds whose API keys are in the environment. Nothing is sent to them."""
    return [_offer(found_key) for found_key in _keys(config)]


def _offer(found_key: FoundKey) -> CloudOffer:
    try:
        url = found_key.base_url()
    except ValueError as error:
        return CloudOffer(found_key, found_key.address, problem=str(error))
    own_id = str(endpoint_id(found_key.provider.kind))
    registered = next((entry for entry in registry.all() if entry.id == own_id or entry.base_url == url), None)
    return CloudOffer(found_key, url, registered=registered)


def ensure_cloud_endpoints(config: Config) -> None:
    """Store keys that have changed and, if the settings want that, make missing endpoints. Raises django.db.Error."""
    for found_key in _keys(config):
        with transaction.atomic():
            if not _follow(found_key) and config.env_endpoints:
                _make_missing(found_key, config)


def _keys(config: Config) -> Iterator[FoundKey]:
    addresses = {
        OPENAI: config.openai_base_url,
        ANTHROPIC: config.anthropic_base_url,
        GEMINI: config.google_base_url,
        AZURE: config.azure_openai_endpoint,
    }
    for kind, provider in PROVIDERS.items():
        variable = next((name for name in provider.env_keys if getattr(config, name.lower())), None)
        if variable is None:
            continue
        address = addresses.get(kind, provider.base_url)
        if address.endswith(_GEMINI_NATIVE) and kind == GEMINI:
            address += _GEMINI_OPENAI
        yield FoundKey(provider, variable, getattr(config, variable.lower()), address)


def _follow(found_key: FoundKey) -> bool:
    """Store the key in the endpoint that was made for it. Return False if there is none."""
    stored = Endpoint.objects.select_related("options").filter(pk=endpoint_id(found_key.provider.kind)).first()
    if stored is None:
        return False
    if _secret(stored) != found_key.key:
        stored.set_api_key(found_key.key)
        log.info("the API key of the endpoint %s is that of %s now", stored.name, found_key.variable)
    return True


def _make_missing(found_key: FoundKey, config: Config) -> None:
    deleted = LogEntry.objects.filter(object_id=str(endpoint_id(found_key.provider.kind)), action_flag=DELETION)
    if deleted.exists():
        return
    try:
        url = found_key.base_url()
    except ValueError as error:
        log.warning("%s makes no endpoint: %s", found_key.variable, error)
        return
    others = Endpoint.objects
    other = others.filter(base_url=url).first() or others.filter(name=found_key.name).first()
    if other is not None:
        log.info("%s makes no endpoint: %s has its address or name already", found_key.variable, other.name)
        return
    make(found_key, config)
    log.info("made the endpoint %s; only API keys that may use external endpoints reach it", found_key.name)


def make(found_key: FoundKey, config: Config) -> Endpoint:
    """Store an endpoint with the key, in a transaction of the caller's. Raises ValueError and django.db.Error."""
    endpoint = Endpoint(
        id=endpoint_id(found_key.provider.kind),
        name=found_key.name,
        base_url=found_key.base_url(),
        health_check_interval_secs=clouds.CHECK_SECONDS,
    )
    endpoint.save(force_insert=True)
    endpoint.set_api_key(found_key.key)
    version = config.openai_api_version if found_key.provider.kind == AZURE else ""
    endpoint.set_options(cloud_type=found_key.provider.kind, external=True, api_version=version or None)
    return endpoint


def _secret(endpoint: Endpoint) -> str | None:
    try:
        return endpoint.api_key
    except Unsealable:
        return None  # it is sealed with another encryption key
