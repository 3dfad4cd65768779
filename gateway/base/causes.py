"""Causes of errors: each has a code, and a text that is stored where it occurs, in records and with endpoints.

`_cause` defines both; the text has a placeholder for each parameter. `read` finds the code and the parameters of a
stored text. What an endpoint wrote itself is no cause. endpoints.causes has the translated text of each code.
"""

import errno
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from gateway.base.destinations import LINK_LOCAL, OUTSIDE
from gateway.base.earlier_causes import EARLIER

CODES: dict[str, str] = {}  # by the text, with placeholders


class Cause(NamedTuple):
    """A stored text that was read."""

    code: str
    values: Mapping[str, str]  # of its parameters


def _cause(code: str, text: str) -> str:
    CODES[text] = code
    return text


# Connections of health checks and of requests (endpoints.probe, gateway.upstream)
NO_RESPONSE = _cause("no_response", "no answer within {seconds} s")
NO_CONNECTION_IN_TIME = _cause("no_connection_in_time", "no connection within {seconds} s")
NO_CONNECTION = _cause("no_connection", "no connection")
CONNECTION_REFUSED = _cause("connection_refused", "connection refused")
BROKE_OFF = _cause("broke_off", "the connection broke off")
TIMED_OUT = _cause("timed_out", "timed out")
UNRESOLVED = _cause("unresolved", "its name cannot be resolved")
NO_ADDRESS = _cause("no_address", "its host name has no address")
_cause("link_local", LINK_LOCAL)
_cause("outside_networks", OUTSIDE)
SYSTEM_CAUSES = {
    number: _cause(f"system_{errno.errorcode[number].lower()}", os.strerror(number).lower())
    for number in (
        *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT),
        *(errno.ECONNRESET, errno.EACCES, errno.EPERM),
    )
}
NO_TLS = _cause("no_tls", "TLS failed; does it speak http:// instead of https://?")
TLS_FAILED = _cause("tls_failed", "TLS failed: {tls_detail}")
UNKNOWN_ISSUER = _cause("unknown_issuer", "its TLS certificate has an unknown issuer; enter the certificate of its CA")
OTHER_ISSUER = _cause("other_issuer", "its TLS certificate is not from the CA whose certificate was entered")
OTHER_HOST = _cause("other_host", "its TLS certificate is for another host name")
EXPIRED = _cause("expired", "its TLS certificate has expired")
NOT_YET_VALID = _cause("not_yet_valid", "its TLS certificate is not valid yet")
UNVERIFIED = _cause("unverified", "its TLS certificate cannot be verified")
CLIENT_EXPIRED = _cause("client_expired", "the client certificate has expired; enter a new one")
CLIENT_NEEDED = _cause("client_needed", "it asks for a client certificate; enter one with its key")
CLIENT_REFUSED = _cause("client_refused", "it refuses the client certificate")
# Of servers that send no alert: those that run on asyncio
CLIENT_MAY_BE_NEEDED = _cause(
    "client_may_be_needed", "it closes connections after the TLS handshake; it may ask for a client certificate"
)
CLIENT_MAY_BE_REFUSED = _cause(
    "client_may_be_refused", "it closes connections after the TLS handshake; it may refuse the client certificate"
)
UNUSABLE = _cause("unusable", "its CA certificates or its client certificate cannot be used; enter them again")
UNSEALABLE = _cause("unsealable", "its connection settings cannot be opened with this encryption key; enter them again")
PROXY_LOGIN = _cause("proxy_login", "its proxy rejects the login (HTTP 407)")
PROXY_WITHOUT_LOGIN = _cause("proxy_without_login", "its proxy asks for a login (HTTP 407)")
PROXY_SILENT = _cause("proxy_silent", "its proxy closed the connection, or it is not an HTTP proxy")
PROXY_REFUSES = _cause("proxy_refuses", "its proxy refuses the connection (HTTP {status})")
PROXY_FAILS = _cause("proxy_fails", "its proxy cannot reach it (HTTP {status})")
PROXY_TIMEOUT = _cause("proxy_timeout", "its proxy opens no connection within {seconds} s")
PROXY_UNREACHABLE = _cause("proxy_unreachable", "its proxy cannot be reached: {cause}")
NEEDS_NO_PROXY = _cause("needs_no_proxy", "{cause}; if it needs no proxy, add it to ROUTERDASH_UPSTREAM_NO_PROXY")
EXCLUDED = _cause("excluded", "{cause}; ROUTERDASH_UPSTREAM_NO_PROXY excludes it from the proxy")

# Type detection and model lists (endpoints.detection, endpoints.sync, endpoints.operations)
KEY_MISSING = _cause("key_missing", "it answers HTTP {status}: its API key is missing or wrong")
NO_KNOWN_SERVER = _cause(
    "no_known_server", "GET /v1/models answers HTTP {status}, and no known server's own API is there"
)
GET_FAILED = _cause("get_failed", "GET {path} answers HTTP {status}")
NO_DEPLOYMENTS = _cause("no_deployments", "it does not list its deployments; enter their names as allowed models")
NO_CREDIT = _cause("no_credit", "its account has no credit left or has reached its spending limit")
NOT_PERMITTED = _cause("not_permitted", "it does not permit this with the API key that RouterDash sends")
LIMITED = _cause("limited", "it limits requests for a while")
NO_MODEL_NAMES = _cause("no_model_names", "its list of models names none")
LARGE_MODEL_LIST = _cause(
    "large_model_list", "its answer to GET /v1/models is too large, and does not begin as a list of models"
)
NO_MODEL_LIST = _cause("no_model_list", "its answer to GET /v1/models is no list of models")
DELETED = _cause("deleted", "it was deleted meanwhile")
KEY_UNSEALABLE = _cause("key_unsealable", "its API key cannot be opened with this encryption key; store it again")
TOO_MANY_MODELS = _cause("too_many_models", "it lists more than {most} models; the others are left out")
BAD_MODEL_NAMES = _cause(
    "bad_model_names",
    "it lists models whose names are longer than {length_most} characters or cannot be printed; they are left out",
)
BOTH_REMARKS = _cause("too_many_and_bad_models", f"{TOO_MANY_MODELS}; {BAD_MODEL_NAMES}")

# Responses to requests (gateway.upstream, gateway.inference)
STATUS = _cause("status", "HTTP {status}")
STATUS_WORDS = _cause("status_words", "HTTP {status} ({words})")
ERROR_WITHIN = _cause("error_within", "an error in its response")
ERROR_WITHIN_WORDS = _cause("error_within_words", "an error in its response ({words})")
NOT_HTTP = _cause("not_http", "not a proper HTTP response: {http_detail}")
ENDLESS_HEAD = _cause("endless_head", "a header block or trailer without end")
MANY_HEADER_LINES = _cause("many_header_lines", "its header block has more than {most} lines")
LARGE_RESPONSE = _cause("large_response", "the response has more than {most} MiB")
LARGE_TRANSLATION = _cause("large_translation", "its response has more than {most} MiB to be translated")
LONG_EVENT = _cause("long_event", "an event is too long")
STREAM_CUT = _cause("stream_cut", "the stream ended before its response was complete")
STREAM_EMPTY = _cause("stream_empty", "the stream ended before its first event")
RESPONSE_EMPTY = _cause("response_empty", "an empty response")
WEB_PAGE = _cause("web_page", "a web page instead of a response")
NO_TOKEN_COUNTS = _cause("no_token_counts", "it reports no token counts")
COMPLETION_WITHOUT_MESSAGE = _cause(
    "completion_without_message", "the endpoint's response is not a chat completion: it has no message"
)
NO_CHAT_COMPLETION = _cause("no_chat_completion", "the endpoint's response is not a chat completion: {json_detail}")
NO_EMBEDDINGS = _cause("no_embeddings", "the endpoint's response has no embeddings")
MESSAGE_WITHOUT_CONTENT = _cause(
    "message_without_content", "the endpoint's response is not a message: it has no content"
)
NO_MESSAGE = _cause("no_message", "the endpoint's response is not a message: {json_detail}")
MANY_VALUES = _cause("many_values", "the endpoint's response has more than {most} values")
MANY_TOOL_CALLS = _cause("many_tool_calls", "the endpoint's response has more than {most} tool calls")
MANY_BLOCKS = _cause("many_blocks", "the endpoint's response has more than {most} blocks")
DRAINED = _cause("drained", "the endpoint was drained")
KEY_REJECTED = _cause("key_rejected", "it rejects the API key that RouterDash sends")
ACCOUNT_MAY_NOT = _cause("account_may_not", "its account may not do this")
ACCOUNT_EMPTY = _cause("account_empty", "its account has no credit left")
MOVED = _cause("moved", "its address has moved (HTTP {status})")
MODEL_UNKNOWN = _cause("model_unknown", "it does not know the model")
PATH_UNKNOWN = _cause("path_unknown", "it lacks this kind of request")
INTERNAL_ERROR = _cause("internal_error", "an internal error of RouterDash; see its log")
ENDPOINT_FAILED = _cause("endpoint_failed", "The endpoint failed: {cause}.")
RESPONSE_TIMEOUT = _cause("response_timeout", "The endpoint did not respond in time.")
LOAD_TIMEOUT = _cause("load_timeout", "The endpoint did not load the model within {seconds} s.")
NOT_TRIED_AGAIN = _cause("not_tried_again", "RouterDash did not try again: {code}.")
# Stands for an error message of an endpoint that is not shown to everyone.
HIDDEN_ERROR = _cause("hidden_error", "an error message of the endpoint")

# Requests that no endpoint ended (gateway.inference)
CLIENT_LEFT = _cause("client_left", "the client left")
STOPPED = _cause("stopped", "RouterDash was stopped")
CANCELLED = _cause("cancelled", "an operator cancelled it")  # stored: means an administrator
KEY_REVOKED = _cause("key_revoked", "its API key was revoked")
KEY_DISABLED = _cause("key_disabled", "its API key was disabled")
KEY_EXPIRED = _cause("key_expired", "its API key has expired")
NO_ENDPOINT = _cause("no_endpoint", "No endpoint that has the model {model} is available now.")
QUEUE_FULL = _cause("queue_full", "Too many requests wait for an endpoint already.")
QUEUE_OF_KEY_FULL = _cause("queue_of_key_full", "Too many requests of this API key wait for an endpoint already.")
QUEUE_OF_BULK_FULL = _cause("queue_of_bulk_full", "Too many bulk requests wait for an endpoint already.")
QUEUE_TIMEOUT = _cause("queue_timeout", "No endpoint became free in time.")

_PARAMETERS = {
    "cause": ".+",  # another cause
    "code": "[a-z_]{1,40}",  # of gateway.base.errors
    "http_detail": r"[A-Za-z0-9 /'`:,.()_-]{1,200}",  # of the HTTP parser
    "json_detail": r"[A-Z][A-Za-z0-9 `'$.,:()|\[\]-]{1,200}",  # of msgspec
    "length_most": "[0-9]{1,9}",
    "model": ".+",
    "most": "[0-9,]{1,12}",
    "path": r"\S{1,60}",
    "seconds": "[0-9.e+]{1,12}",
    "status": "[1-9][0-9]{0,2}",
    "tls_detail": "[A-Za-z0-9_ ]{1,64}",  # of OpenSSL
    "words": r"[A-Za-z0-9_.\[\]-]{1,64}(?:, [A-Za-z0-9_.\[\]-]{1,64})?",  # of an endpoint's error, as we clean them
}
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def pattern_of(text: str) -> str:
    """Return a regular expression for a text with placeholders, with a named group for each."""
    pieces = _PLACEHOLDER.split(text)
    return "".join(
        f"(?P<{piece}>{_PARAMETERS[piece]})" if number % 2 else re.escape(piece) for number, piece in enumerate(pieces)
    )


_TEXTS = {**CODES, **EARLIER}
_PATTERNS = [(re.compile(pattern_of(text)), code) for text, code in _TEXTS.items() if "{" in text]


def read(text: str) -> Cause | None:
    """Return the cause that a text stands for, also in the wording of earlier releases; None for any other text."""
    code = _TEXTS.get(text)
    if code is not None:
        return Cause(code, {}) if "{" not in text else None
    for pattern, code in _PATTERNS:
        if (match := pattern.fullmatch(text)) is not None:
            return Cause(code, match.groupdict())
    return None
