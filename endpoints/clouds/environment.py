"""Endpoints of clouds whose API keys are in the environment. They are made once; the key is stored again at each start.

An endpoint that staff has deleted is not made again. Its id follows from the type of the cloud, so that any name and
address may be edited.
"""

import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from django.contrib.admin.models import DELETION, LogEntry
from django.db import transaction

from endpoints import clouds
from endpoints.base_url import normalise
from endpoints.models import Endpoint
from gateway.base.config import Config
from gateway.base.sealing import Unsealable
from gateway.providers.table import ANTHROPIC, AZURE, GEMINI, OPENAI, PROVIDERS, Provider

log = logging.getLogger(__name__)

NAMESPACE = uuid.UUID("c10d0000-0000-4000-8000-000000000001")
_GEMINI_NATIVE, _GEMINI_OPENAI = "/v1beta", "/openai"


@dataclass(frozen=True, slots=True)
class FoundKey:
    """An API key in the environment, and the variable that has it."""

    provider: Provider
    variable: str
    key: str
    address: str


def endpoint_id(kind: str) -> uuid.UUID:
    """Return the id of the endpoint that is made for a cloud."""
    return uuid.uuid5(NAMESPACE, kind)


def ensure_cloud_endpoints(config: Config) -> None:
    """Make the endpoints that are missing, and store keys that have changed. Raises django.db.Error."""
    if not config.env_endpoints:
        return
    for found in _keys(config):
        with transaction.atomic():
            _ensure(found, config)


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
        if address:
            yield FoundKey(provider, variable, getattr(config, variable.lower()), address)
        else:
            log.warning("%s has no effect without AZURE_OPENAI_ENDPOINT", variable)


def _ensure(found: FoundKey, config: Config) -> None:
    made_id = endpoint_id(found.provider.kind)
    stored = Endpoint.objects.select_related("options").filter(pk=made_id).first()
    if stored is not None:
        if _secret(stored) != found.key:
            stored.set_api_key(found.key)
            log.info("the API key of the endpoint %s is that of %s now", stored.name, found.variable)
        return
    if LogEntry.objects.filter(object_id=str(made_id), action_flag=DELETION).exists():
        return
    try:
        url = clouds.complete(normalise(found.address))
    except ValueError as error:
        log.warning("%s makes no endpoint: its address cannot be used: %s", found.variable, error)
        return
    name = f"{found.provider.label} (from {found.variable})"
    if (
        other := Endpoint.objects.filter(base_url=url).first() or Endpoint.objects.filter(name=name).first()
    ) is not None:
        log.info("%s makes no endpoint: %s has its address or name already", found.variable, other.name)
        return
    endpoint = Endpoint(id=made_id, name=name, base_url=url, health_check_interval_secs=clouds.CHECK_SECONDS)
    endpoint.save(force_insert=True)
    endpoint.set_api_key(found.key)
    version = config.openai_api_version if found.provider.kind == AZURE else ""
    endpoint.set_options(cloud_type=found.provider.kind, external=True, api_version=version or None)
    log.info("made the endpoint %s; only API keys that may use external endpoints reach it", name)


def _secret(endpoint: Endpoint) -> str | None:
    try:
        return endpoint.api_key
    except Unsealable:
        return None  # it is sealed with another encryption key
