"""Restrictions of an API key: models, endpoints, kinds of requests, and networks of clients.

A model that is asked for directly must be allowed by the name that the client used, and by a name of the model that
serves it. A model name that is allowed also allows the models that it leads to, through this name only. A forbidden
model is never served, under whatever name. `x` and `x:latest` are the same model (gateway.registry.patterns).
"""

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from gateway.registry.patterns import PatternSet

COMPILED = 4096  # different rules in memory
REMEMBERED = 200  # kinds of requests and models of each


class KeyRules(msgspec.Struct, frozen=True, array_like=True):
    """The restrictions of an API key. An empty tuple restricts nothing.

    Models are patterns (gateway.registry.patterns) of models and model names.
    """

    models: tuple[str, ...] = ()
    forbidden_models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()  # ids
    tags: tuple[str, ...] = ()  # of endpoints
    kinds: tuple[str, ...] = ()  # of requests (gateway.base.request_kinds)
    networks: tuple[str, ...] = ()  # of clients, such as 10.0.0.0/8


class AllowedUse:
    """The rules of an API key in a form to check requests with. Equal rules are one object, to be compared by `is`."""

    __slots__ = (
        "_endpoints",
        "_forbidden",
        "_kinds",
        "_models",
        "_networks",
        "_permitted",
        "_tags",
        "permits",
        "restricts_routes",
    )

    def __init__(self, rules: KeyRules) -> None:
        self._models = PatternSet(rules.models)
        self._forbidden = PatternSet(rules.forbidden_models, is_wide=True)
        self._endpoints = frozenset(rules.endpoints)
        self._tags = frozenset(tag.casefold() for tag in rules.tags)
        self._kinds = frozenset(rules.kinds)
        self._networks = [ipaddress.ip_network(network) for network in rules.networks]
        self.restricts_routes = bool(self._models or self._forbidden or self._endpoints or self._tags)
        # Texts that name these rules, without and with the permission for external endpoints.
        self.permits = (f"{id(self):x}", f"{id(self):x} external")
        self._permitted: set[tuple[str, str]] = set()  # kinds of requests and models that were allowed

    def allows_request(self, kind: str, name: str) -> bool:
        """Return True if a client may send a request of this kind for this model or model name."""
        pair = kind, name
        if pair in self._permitted:
            return True
        if not (self.allows_kind(kind) and self.allows_name(name)):
            return False
        if len(self._permitted) >= REMEMBERED:
            self._permitted.clear()
        self._permitted.add(pair)
        return True

    def allows_name(self, name: str) -> bool:
        """Return True if a client may ask for this model or model name."""
        return not self._forbidden.match(name) and (not self._models or self._models.match(name))

    def allows_path(self, names: Sequence[str]) -> bool:
        """Return True if a client may ask for the first of these model names, which leads to the others in turn."""
        return self.allows_name(names[0]) and not any(map(self._forbidden.match, names[1:]))

    def allows_model(self, names: Sequence[str], *, through_name: bool) -> bool:
        """Return True if a model with these names may serve a request. `through_name`: a model name leads to it."""
        if any(map(self._forbidden.match, names)):
            return False
        return through_name or not self._models or any(map(self._models.match, names))

    def allows_endpoint(self, endpoint_id: str, tags: Iterable[str]) -> bool:
        """Return True if an endpoint may serve a request."""
        if self._endpoints and endpoint_id not in self._endpoints:
            return False
        return not self._tags or not self._tags.isdisjoint(tag.casefold() for tag in tags)

    def allows_kind(self, kind: str) -> bool:
        """Return True if requests of this kind may be sent."""
        return not self._kinds or kind in self._kinds

    def allows_address(self, address: str | None) -> bool:
        """Return True if a client with this IP address may use the key."""
        if not self._networks:
            return True
        try:
            ip = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        return any(ip in network for network in self._networks)


@lru_cache(maxsize=COMPILED)
def compiled(rules: KeyRules) -> AllowedUse:
    """Return the rules in a form to check requests with. Raises ValueError if a network is malformed."""
    return AllowedUse(rules)


def allowed_use(rules: KeyRules | None) -> AllowedUse | None:
    """Return the restrictions of a key; None: there are none."""
    return None if rules is None else compiled(rules)
