"""Restrictions of API keys as the database, the JSON API and the admin have them. Gateways enforce them.

They are stored as JSON: an object with the fields of gateway.registry.key_rules.KeyRules that are not empty.
"""

import ipaddress
import uuid
from collections.abc import Callable, Iterable, Mapping

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from endpoints import tags
from endpoints.models import Endpoint
from endpoints.text import validate_line
from gateway.base.request_kinds import BY_NAME, OLLAMA_SHOW
from gateway.registry.key_rules import KeyRules

MAX_ENTRIES = 200  # of a list
MAX_LENGTH = 256  # characters of an entry
FIELDS = KeyRules.__struct_fields__
KINDS = tuple(name for name in BY_NAME if name != OLLAMA_SHOW)  # which is read as lists are
NOTHING_ALLOWED = KeyRules(forbidden_models=("*",), networks=())


def read_rules(column: object) -> KeyRules | None:
    """Return the restrictions in the column of a key; None: there are none. Damaged ones allow nothing."""
    if column is None or column == {}:
        return None
    if not isinstance(column, dict):
        return NOTHING_ALLOWED
    lists = {name: column.get(name) or [] for name in FIELDS}
    if column.keys() - lists.keys() or any(not _is_list_of_texts(value) for value in lists.values()):
        return NOTHING_ALLOWED
    try:
        for network in lists["networks"]:
            ipaddress.ip_network(network)
    except ValueError:
        return NOTHING_ALLOWED
    return KeyRules(**{name: tuple(value) for name, value in lists.items()})


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def check_rules(values: Mapping[str, Iterable[str]]) -> dict[str, list[str]] | None:
    """Return restrictions as they are stored; None: there are none. Raises ValidationError with errors by field."""
    errors: dict[str, list[str]] = {}
    checked: dict[str, list[str]] = {}
    for name, entries in values.items():
        try:
            valid_entries = _CHECKS[name](_lines(entries))
        except ValidationError as error:
            errors[name] = list(error.messages)
            continue
        if valid_entries:
            checked[name] = valid_entries
    if errors:
        raise ValidationError(errors)
    return checked or None


def _lines(entries: Iterable[str]) -> list[str]:
    """Return entries without surrounding blanks, empty ones and repetitions."""
    lines = list(dict.fromkeys(entry.strip() for entry in entries))
    lines = [entry for entry in lines if entry]
    if len(lines) > MAX_ENTRIES or any(len(entry) > MAX_LENGTH for entry in lines):
        text = _("Enter at most %(most)d entries of at most %(longest)d characters.")
        raise ValidationError(text % {"most": MAX_ENTRIES, "longest": MAX_LENGTH})
    for entry in lines:
        validate_line(entry)
    return lines


def _check_endpoints(entries: list[str]) -> list[str]:
    ids = []
    for entry in entries:
        try:
            ids.append(str(uuid.UUID(entry)))
        except ValueError:
            raise ValidationError(_("%(text)s is no id of an endpoint.") % {"text": entry}) from None
    known = {str(pk) for pk in Endpoint.objects.filter(pk__in=ids).values_list("pk", flat=True)}
    if unknown := [entry for entry in ids if entry not in known]:
        raise ValidationError(_("There is no endpoint %(text)s.") % {"text": unknown[0]})
    return ids


def _check_kinds(entries: list[str]) -> list[str]:
    if unknown := [entry for entry in entries if entry not in KINDS]:
        text = _("There is no kind of requests %(text)s; the kinds are %(kinds)s.")
        raise ValidationError(text % {"text": unknown[0], "kinds": ", ".join(KINDS)})
    return entries


def _check_networks(entries: list[str]) -> list[str]:
    networks = []
    for entry in entries:
        try:
            networks.append(str(ipaddress.ip_network(entry, strict=False)))
        except ValueError:
            text = _("%(text)s is no network: enter an address, or one with a prefix, such as 10.0.0.0/8.")
            raise ValidationError(text % {"text": entry}) from None
    return networks


_CHECKS: Mapping[str, Callable[[list[str]], list[str]]] = {
    "models": lambda entries: entries,
    "forbidden_models": lambda entries: entries,
    "endpoints": _check_endpoints,
    "tags": tags.normalise,
    "kinds": _check_kinds,
    "networks": _check_networks,
}
