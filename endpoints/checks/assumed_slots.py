"""Assumed slots: how many requests at a time a new endpoint gets until an administrator enters a number.

Servers such as Ollama take any number of requests, and run few at once. So requests would wait there, where keys do
not take turns. The column `assumed_slots` of EndpointOptions says what is assumed:

| value | meaning |
|---|---|
| null | nothing, and nothing will be: administrators have entered a limit, or the endpoint is older than this column |
| NONE_YET | nothing so far |
| any other | requests at a time; a limit that the server reports, or that administrators enter, applies instead |
"""

import logging
from collections.abc import Mapping

from django.db import transaction

from endpoints.clouds.kinds import Kind
from endpoints.models import Endpoint, EndpointOptions

NONE_YET = 0
OF_KIND: Mapping[str, int] = {Kind.OLLAMA: 4, Kind.LM_STUDIO: 4}

log = logging.getLogger(__name__)


def of_new(kind: str) -> int:
    """Return the column's value for a new endpoint of this type."""
    return OF_KIND.get(kind, NONE_YET)


def follow_kind(endpoint: Endpoint) -> None:
    """Assume what is usual for the type that an endpoint now has, unless administrators have entered a limit."""
    assumed = endpoint.options_or_default.assumed_slots
    if assumed is not None and assumed != of_new(endpoint.kind):
        endpoint.set_options(assumed_slots=of_new(endpoint.kind))


def learn(endpoint_id: str, slots: int) -> bool:
    """Assume a limit that was learned, if nothing is assumed so far. Return True if it was stored."""
    waiting = EndpointOptions.objects.filter(endpoint_id=endpoint_id, assumed_slots=NONE_YET, max_concurrency=None)
    if not waiting.exists():  # most calls end here, without a lock
        return False
    with transaction.atomic():
        options = waiting.select_for_update().first()
        if options is None:
            return False
        options.assumed_slots = slots
        options.save(update_fields=["assumed_slots"])
    log.info("endpoint %s: %d requests at a time are assumed, as a token takes twice as long then", endpoint_id, slots)
    return True
