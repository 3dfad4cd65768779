"""Translated texts of the known causes of errors.

Health checks, syncs and requests store a cause as a short English text. `shown` returns its text in the language of the
page. A cause that is not in the table is a server's own text, and is shown as it is.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from django.utils.functional import Promise
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _

from endpoints.clouds import LIMITED, NO_CREDIT, NOT_PERMITTED
from endpoints.models import BAD_MODEL_NAMES, MAX_MODEL_NAME, MAX_MODELS, TOO_MANY_MODELS
from endpoints.sync import NO_DEPLOYMENTS
from gateway.base.destinations import LINK_LOCAL, OUTSIDE
from gateway.ipc.error_texts import HIDDEN_ERROR

Text = str | Promise


@dataclass(frozen=True)
class Cause:
    """A stored text as a pattern, and its text on pages with a placeholder for each named group.

    `inner` names the group that is itself a cause.
    """

    stored: str
    text: Text
    inner: str = ""

    @cached_property
    def match(self) -> Callable[[str], re.Match[str] | None]:
        return re.compile(self.stored).fullmatch


_SECONDS = r"(?P<seconds>[0-9.e+]{1,12})"

CAUSES = (
    # Connections of health checks and of requests (endpoints.probe, gateway.upstream)
    Cause(rf"no answer within {_SECONDS} s", _("no response within %(seconds)s s")),
    Cause(rf"no connection within {_SECONDS} s", _("no connection within %(seconds)s s")),
    Cause(r"no connection", _("no connection")),
    Cause(r"connection refused", _("connection refused")),
    Cause(r"the connection broke off", _("the connection broke off")),
    Cause(r"timed out", _("timeout")),
    Cause(r"its name cannot be resolved", _("the host name cannot be resolved")),
    Cause(r"its name leads nowhere|its host name has no address", _("the host name has no address")),
    Cause(r"its TLS certificate cannot be verified", _("the TLS certificate cannot be verified")),
    Cause(
        r"TLS failed; does it speak http:// instead of https://\?",
        _("the TLS handshake failed; the server may use http:// instead of https://"),
    ),
    Cause(r"TLS failed: (?P<detail>.+)", _("the TLS handshake failed: %(detail)s")),
    Cause(r"network is unreachable", _("the network is unreachable")),
    Cause(r"network is down", _("the network is down")),
    Cause(r"no route to host", _("no route to the host")),
    Cause(r"host is down", _("the host is down")),
    Cause(r"connection timed out", _("connect timeout")),
    Cause(r"connection reset by peer", _("the server reset the connection")),
    Cause(r"permission denied", _("permission denied")),
    Cause(
        re.escape(LINK_LOCAL),
        _("its address is a link-local or metadata address, and ROUTERDASH_ALLOW_LINK_LOCAL is not set"),
    ),
    Cause(
        r"its address is link-local; see ROUTERDASH_ALLOW_LINK_LOCAL",
        _("its address is link-local; see ROUTERDASH_ALLOW_LINK_LOCAL"),
    ),
    Cause(re.escape(OUTSIDE), _("its address is outside the networks in ROUTERDASH_ENDPOINT_NETWORKS")),
    # Type detection and model lists (endpoints.detection, endpoints.sync, endpoints.operations)
    Cause(
        r"it answers HTTP (?P<status>\d{1,3}): its API key is missing or wrong",
        _("HTTP %(status)s: the API key is missing or wrong"),
    ),
    Cause(
        r"GET /v1/models answers HTTP (?P<status>\d{1,3}), and no known server's own API is there",
        _("GET /v1/models returned HTTP %(status)s, and no API of a known server was found"),
    ),
    Cause(r"GET (?P<path>\S{1,60}) answers HTTP (?P<status>\d{1,3})", _("GET %(path)s returned HTTP %(status)s")),
    Cause(
        re.escape(NO_DEPLOYMENTS),
        _("Azure OpenAI does not list its deployments; enter their names as allowed models"),
    ),
    Cause(re.escape(NO_CREDIT), _("the account has no credit left or has reached its spending limit")),
    Cause(re.escape(NOT_PERMITTED), _("the endpoint does not permit this with the API key stored for it")),
    Cause(re.escape(LIMITED), _("the cloud limits requests for a while")),
    Cause(r"its list of models names none", _("the model list contains no model names")),
    Cause(
        r"its answer to GET /v1/models is too large, and does not begin as a list of models",
        _("the response to GET /v1/models is too large and is not a model list"),
    ),
    Cause(
        r"its answer to GET /v1/models is no list of models", _("the response to GET /v1/models is not a model list")
    ),
    Cause(r"it was deleted meanwhile", _("the endpoint has since been deleted")),
    Cause(
        r"its API key cannot be opened with this encryption key; store it again",
        _("its API key cannot be decrypted with this encryption key; store it again"),
    ),
    Cause(
        rf"{re.escape(TOO_MANY_MODELS)}; {re.escape(BAD_MODEL_NAMES)}",
        _("the model list has too many models, and some names are invalid; these models are ignored"),
    ),
    Cause(
        re.escape(TOO_MANY_MODELS).replace(str(MAX_MODELS), r"(?P<most>\d+)"),
        _("the model list has more than %(most)s models; the others are ignored"),
    ),
    Cause(
        re.escape(BAD_MODEL_NAMES).replace(str(MAX_MODEL_NAME), r"(?P<most>\d+)"),
        _("some model names are longer than %(most)s characters or not printable; these models are ignored"),
    ),
    # Responses to requests (gateway.upstream, gateway.inference)
    Cause(r"(?P<status>HTTP [1-9]\d\d)", "%(status)s"),
    Cause(r"(?P<status>HTTP [1-9]\d\d \(.+\))", "%(status)s"),
    Cause(r"an error in its (?:answer|response)", _("an error in the response")),
    Cause(r"an error in its (?:answer|response) \((?P<words>.+)\)", _("an error in the response (%(words)s)")),
    Cause(re.escape(HIDDEN_ERROR), _("an error message of the endpoint")),
    Cause(r"not a proper HTTP (?:answer|response): (?P<detail>.+)", _("invalid HTTP response: %(detail)s")),
    Cause(
        r"a (?:head|header block) or trailer without end", _("the header block or trailer of the response is too long")
    ),
    Cause(
        r"its (?:head|header block) has more than (?P<most>\d+) lines",
        _("the response has more than %(most)s header lines"),
    ),
    Cause(r"the (?:answer|response) has more than (?P<most>\d+) MiB", _("the response is larger than %(most)s MiB")),
    Cause(
        r"its (?:answer|response) has more than (?P<most>\d+) MiB to be translated",
        _("the response to be translated is larger than %(most)s MiB"),
    ),
    Cause(r"an event is too long", _("an event of the stream is too long")),
    Cause(
        r"the stream ended before its (?:answer did|response was complete)",
        _("the stream ended before the response was complete"),
    ),
    Cause(r"the stream ended before its first event", _("the stream ended before its first event")),
    Cause(r"an empty (?:answer|response)", _("an empty response")),
    Cause(r"a web page instead of (?:an answer|a response)", _("a web page instead of an API response")),
    Cause(r"it (?:tells no tokens|reports no token counts)", _("the response contains no token counts")),
    Cause(
        r"the endpoint's (?:answer is no|response is not a) chat completion: it has no message",
        _("the response is not a chat completion: it has no message"),
    ),
    Cause(
        r"the endpoint's (?:answer is no|response is not a) chat completion: (?P<detail>.+)",
        _("the response is not a chat completion: %(detail)s"),
    ),
    Cause(r"the endpoint's response has no embeddings", _("the response has no embeddings")),
    Cause(
        r"the endpoint's response is not a message: it has no content",
        _("the response is not a message: it has no content"),
    ),
    Cause(
        r"the endpoint's response is not a message: (?P<detail>.+)",
        _("the response is not a message: %(detail)s"),
    ),
    Cause(
        r"the endpoint's (?:answer|response) has more than (?P<most>[0-9,]+) values",
        _("the response has more than %(most)s values"),
    ),
    Cause(
        r"the endpoint's (?:answer|response) has more than (?P<most>[0-9,]+) tool calls",
        _("the response has more than %(most)s tool calls"),
    ),
    Cause(r"the endpoint was drained", _("the drain deadline of the endpoint passed")),
    Cause(
        r"it (?:refuses the key that RouterDash has for it|rejects the API key that RouterDash sends)",
        _("the endpoint rejected the API key stored for it"),
    ),
    Cause(r"its account may not do this", _("the endpoint's account may not do this")),
    Cause(r"its account has no credit left", _("the endpoint's account has no credit left")),
    Cause(r"its address has moved \(HTTP (?P<status>\d+)\)", _("its address has moved (HTTP %(status)s)")),
    Cause(r"it does not know the model", _("the endpoint does not know the model")),
    Cause(r"it lacks this kind of request", _("the endpoint lacks this kind of request")),
    Cause(
        r"the endpoint's (?:answer|response) has more than (?P<most>[0-9,]+) blocks",
        _("the response has more than %(most)s blocks"),
    ),
    Cause(
        r"RouterDash failed; its log says why|an internal error of RouterDash; see its log",
        _("an internal error of RouterDash; see its log"),
    ),
    Cause(r"The endpoint failed: (?P<cause>.+)\.", _("The endpoint failed: %(cause)s"), inner="cause"),
    Cause(r"The endpoint did not (?:answer|respond) in time\.", _("The endpoint did not respond in time.")),
    Cause(
        rf"The endpoint did not load the model within {_SECONDS} s\.",
        _("The endpoint did not load the model within %(seconds)s s."),
    ),
    # Requests that no endpoint ended (gateway.inference)
    Cause(r"the client left", _("the client disconnected")),
    Cause(r"RouterDash was stopped", _("RouterDash was stopped")),
    Cause(r"an operator cancelled it", _("an operator cancelled the request")),
    Cause(r"its API key was revoked", _("the API key was revoked")),
    Cause(r"its API key was disabled", _("the API key was disabled")),
    Cause(r"its API key has expired", _("the API key has expired")),
    Cause(
        r"No endpoint that has the model (?P<model>.+) (?:can be asked|is available) now\.",
        _("No endpoint with the model %(model)s is available."),
    ),
    Cause(
        r"Too many requests wait for an endpoint already\.", _("Too many requests are already waiting for an endpoint.")
    ),
    Cause(
        r"Too many requests of this API key wait for an endpoint already\.",
        _("Too many requests of this API key are already waiting for an endpoint."),
    ),
    Cause(
        r"Too many bulk requests wait for an endpoint already\.",
        _("Too many bulk requests are already waiting for an endpoint."),
    ),
    Cause(r"No endpoint became free in time\.", _("No endpoint became available within the queue timeout.")),
)


def localized(stored: str) -> str:
    """Return a cause as the JSON API reports it: the stored text in English, else the text in the active language."""
    return stored if (get_language() or "en").startswith("en") else shown(stored)


def shown(cause: object) -> str:
    """Return the text of a cause in the active language; the cause itself if it is not in the table."""
    stored = str(cause)
    for known in CAUSES:
        if (found := known.match(stored)) is not None:
            values = found.groupdict()
            if known.inner:
                values[known.inner] = shown(values[known.inner])
            return str(known.text) % values if values else str(known.text)
    return stored
