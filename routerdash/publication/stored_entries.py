"""Endpoints and model names read back from the registry store, as far as it has their fields: none if it is damaged."""

import logging
import sqlite3

from endpoints.model_names import registry as name_registry
from endpoints.model_names.registry import NameEntry
from endpoints.registry import Entry
from gateway.registry.schema import Damaged
from gateway.registry.writer import RegistryWriter
from routerdash.publication.facts import entry_of

log = logging.getLogger(__name__)

_ERRORS = (sqlite3.Error, OSError, Damaged)


def endpoints(writer: RegistryWriter) -> dict[str, Entry]:
    """Return all published endpoints by id."""
    try:
        return {facts.id: entry_of(facts, writer.models(facts.id)) for facts in writer.endpoints()}
    except _ERRORS as error:
        log.error("the registry store cannot be read: %s", error)
        return {}


def model_names(writer: RegistryWriter) -> dict[str, NameEntry]:
    """Return all published model names by id, without their notes."""
    try:
        return {facts.id: name_registry.entry_of(facts) for facts in writer.model_names()}
    except _ERRORS as error:
        log.error("the registry store cannot be read: %s", error)
        return {}
