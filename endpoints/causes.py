"""Translated texts of the known causes of errors (gateway.base.causes).

Health checks, syncs and requests store a cause as a short English text, from which its code is read. `shown` returns
its text in the language of the page. A text that is no cause is a server's own, and is shown as it is.
"""

from collections.abc import Mapping

from django.utils.functional import Promise
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _

from gateway.base.causes import read

Text = str | Promise

# By code. Placeholders are those of the parameters.
TEXTS: Mapping[str, Text] = {
    # Connections of health checks and of requests (endpoints.probe, gateway.upstream)
    "no_response": _("no response within %(seconds)s s"),
    "no_connection_in_time": _("no connection within %(seconds)s s"),
    "no_connection": _("no connection"),
    "connection_refused": _("connection refused"),
    "broke_off": _("the connection broke off"),
    "timed_out": _("timeout"),
    "unresolved": _("the host name cannot be resolved"),
    "no_address": _("the host name has no address"),
    "unverified": _("the TLS certificate cannot be verified"),
    "unknown_issuer": _(
        "the TLS certificate has an unknown issuer; enter the certificate of its CA in the endpoint's form"
    ),
    "other_issuer": _(
        "the TLS certificate is not from the CA whose certificate was entered; enter that of the right CA"
    ),
    "other_host": _("the TLS certificate is for another host name; use the name in the certificate as the address"),
    "expired": _("the TLS certificate of the server has expired; renew it there"),
    "not_yet_valid": _("the TLS certificate of the server is not valid yet; check the clocks of both machines"),
    "client_expired": _("the client certificate has expired; enter a new one"),
    "client_needed": _("the server asks for a client certificate; enter one with its key"),
    "client_refused": _("the server refuses the client certificate; enter one that its CA has issued"),
    "client_may_be_needed": _(
        "the server closes connections after the TLS handshake; it may ask for a client certificate"
    ),
    "client_may_be_refused": _(
        "the server closes connections after the TLS handshake; it may refuse the client certificate"
    ),
    "unusable": _("the CA certificates or the client certificate cannot be used; enter them again"),
    "unsealable": _("the connection settings cannot be decrypted with this encryption key; enter them again"),
    # Proxies, and endpoints that a setting excludes from the usual one
    "excluded": _("%(cause)s; ROUTERDASH_UPSTREAM_NO_PROXY excludes the endpoint from the proxy"),
    "needs_no_proxy": _("%(cause)s; if the endpoint needs no proxy, add it to ROUTERDASH_UPSTREAM_NO_PROXY"),
    "proxy_login": _("the proxy rejects the login (HTTP 407); enter its user name and password again"),
    "proxy_without_login": _(
        "the proxy asks for a login (HTTP 407); enter its user name and password in the address of the proxy"
    ),
    "proxy_silent": _("the proxy closed the connection, or there is no HTTP proxy at its address"),
    "proxy_refuses": _(
        "the proxy refuses to connect to the endpoint (HTTP %(status)s); allow its address and port there"
    ),
    "proxy_fails": _("the proxy cannot reach the endpoint (HTTP %(status)s)"),
    "proxy_timeout": _("the proxy opens no connection within %(seconds)s s"),
    "proxy_unreachable": _("the proxy cannot be reached: %(cause)s"),
    "system_eperm": _("operation not permitted"),
    "no_tls": _("the TLS handshake failed; the server may use http:// instead of https://"),
    "tls_failed": _("the TLS handshake failed: %(detail)s"),
    "system_enetunreach": _("the network is unreachable"),
    "system_enetdown": _("the network is down"),
    "system_ehostunreach": _("no route to the host"),
    "system_ehostdown": _("the host is down"),
    "system_etimedout": _("connect timeout"),
    "system_econnreset": _("the server reset the connection"),
    "system_eacces": _("permission denied"),
    "link_local": _("its address is a link-local or metadata address, and ROUTERDASH_ALLOW_LINK_LOCAL is not set"),
    "earlier_link_local": _("its address is link-local; see ROUTERDASH_ALLOW_LINK_LOCAL"),
    "outside_networks": _("its address is outside the networks in ROUTERDASH_ENDPOINT_NETWORKS"),
    # Type detection and model lists (endpoints.detection, endpoints.sync, endpoints.operations)
    "key_missing": _("HTTP %(status)s: the API key is missing or wrong"),
    "no_known_server": _("GET /v1/models returned HTTP %(status)s, and no API of a known server was found"),
    "get_failed": _("GET %(path)s returned HTTP %(status)s"),
    "no_deployments": _("Azure OpenAI does not list its deployments; enter their names as allowed models"),
    "no_credit": _("the account has no credit left or has reached its spending limit"),
    "not_permitted": _("the endpoint does not permit this with the API key stored for it"),
    "limited": _("the cloud limits requests for a while"),
    "no_model_names": _("the model list contains no model names"),
    "large_model_list": _("the response to GET /v1/models is too large and is not a model list"),
    "no_model_list": _("the response to GET /v1/models is not a model list"),
    "deleted": _("the endpoint has since been deleted"),
    "key_unsealable": _("its API key cannot be decrypted with this encryption key; store it again"),
    "too_many_and_bad_models": _(
        "the model list has too many models, and some names are invalid; these models are ignored"
    ),
    "too_many_models": _("the model list has more than %(most)s models; the others are ignored"),
    "bad_model_names": _(
        "some model names are longer than %(most)s characters or not printable; these models are ignored"
    ),
    # Responses to requests (gateway.upstream, gateway.inference)
    "status": "HTTP %(status)s",
    "status_words": "HTTP %(status)s (%(words)s)",
    "error_within": _("an error in the response"),
    "error_within_words": _("an error in the response (%(words)s)"),
    "hidden_error": _("an error message of the endpoint"),
    "not_http": _("invalid HTTP response: %(detail)s"),
    "endless_head": _("the header block or trailer of the response is too long"),
    "many_header_lines": _("the response has more than %(most)s header lines"),
    "large_response": _("the response is larger than %(most)s MiB"),
    "large_translation": _("the response to be translated is larger than %(most)s MiB"),
    "long_event": _("an event of the stream is too long"),
    "stream_cut": _("the stream ended before the response was complete"),
    "stream_empty": _("the stream ended before its first event"),
    "response_empty": _("an empty response"),
    "web_page": _("a web page instead of an API response"),
    "no_token_counts": _("the response contains no token counts"),
    "completion_without_message": _("the response is not a chat completion: it has no message"),
    "no_chat_completion": _("the response is not a chat completion: %(detail)s"),
    "no_embeddings": _("the response has no embeddings"),
    "message_without_content": _("the response is not a message: it has no content"),
    "no_message": _("the response is not a message: %(detail)s"),
    "many_values": _("the response has more than %(most)s values"),
    "many_tool_calls": _("the response has more than %(most)s tool calls"),
    "drained": _("the drain deadline of the endpoint passed"),
    "key_rejected": _("the endpoint rejected the API key stored for it"),
    "account_may_not": _("the endpoint's account may not do this"),
    "account_empty": _("the endpoint's account has no credit left"),
    "moved": _("its address has moved (HTTP %(status)s)"),
    "model_unknown": _("the endpoint does not know the model"),
    "path_unknown": _("the endpoint lacks this kind of request"),
    "many_blocks": _("the response has more than %(most)s blocks"),
    "internal_error": _("an internal error of RouterDash; see its log"),
    "endpoint_failed": _("The endpoint failed: %(cause)s"),
    "response_timeout": _("The endpoint did not respond in time."),
    "load_timeout": _("The endpoint did not load the model within %(seconds)s s."),
    "not_tried_again": _("RouterDash did not try again (%(code)s)"),
    # Requests that no endpoint ended (gateway.inference)
    "client_left": _("the client disconnected"),
    "stopped": _("RouterDash was stopped"),
    "cancelled": _("an administrator cancelled the request"),
    "key_revoked": _("the API key was revoked"),
    "key_disabled": _("the API key was disabled"),
    "key_expired": _("the API key has expired"),
    "no_endpoint": _("No endpoint with the model %(model)s is available."),
    "queue_full": _("Too many requests are already waiting for an endpoint."),
    "queue_of_key_full": _("Too many requests of this API key are already waiting for an endpoint."),
    "queue_of_bulk_full": _("Too many bulk requests are already waiting for an endpoint."),
    "queue_timeout": _("No endpoint became available within the queue timeout."),
}


def localized(stored: str) -> str:
    """Return a cause as the JSON API reports it: the stored text in English, else the text in the active language."""
    return stored if (get_language() or "en").startswith("en") else shown(stored)


def shown(stored_text: object) -> str:
    """Return the text of a cause in the active language; the stored text itself if it is no cause."""
    stored = str(stored_text)
    cause = read(stored)
    if cause is None:
        return stored
    text = str(TEXTS[cause.code])
    if not cause.values:
        return text
    # A prefix of a parameter says how its value is written: `http_detail` is a detail.
    values = {name.rpartition("_")[2]: value for name, value in cause.values.items()}
    if "cause" in values:
        values["cause"] = shown(values["cause"])
    return text % values
