"""Endpoints and model names read back from the registry store, as far as it has their fields: none if it is damaged."""

import logging
import sqlite3

from endpoints.model_names import name_cache
from endpoints.model_names.name_cache import NameEntry
from endpoints.registry import Entry
from gateway.registry.kinds import ENDPOINTS, MODEL_NAMES, MODELS
from gateway.registry.schema import Damaged, ref
from gateway.registry.writer import RegistryWriter
from routerdash.publication.facts import entry_of

log = logging.getLogger(__name__)

_ERRORS = (sqlite3.Error, OSError, Damaged)


def endpoints(writer: RegistryWriter) -> dict[str, Entry]:
    """Return all published endpoints by id."""
    try:
        return {facts.id: entry_of(facts, writer.rows(MODELS, ref(facts.id))) for facts in writer.rows(ENDPOINTS)}
    except _ERRORS as error:
        log.error("the registry store cannot be read: %s", error)
        return {}


def model_names(writer: RegistryWriter) -> dict[str, NameEntry]:
    """Return all published model names by id, without their notes."""
    try:
        return {facts.id: name_cache.entry_of(facts) for facts in writer.rows(MODEL_NAMES)}
    except _ERRORS as error:
        log.error("the registry store cannot be read: %s", error)
        return {}
