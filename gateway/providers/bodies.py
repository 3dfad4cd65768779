"""Request bodies for cloud providers: parameters that a provider is known to refuse."""

import msgspec

from gateway.base.types import Body
from gateway.dialects.json_text import encode
from gateway.dialects.surrogates import replaced
from gateway.providers.table import Provider

MAX_BYTES = 2 << 20  # a larger body is passed on as it is: it would have to be parsed at once
_OPTIONS = "stream_options"

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def provider_body(body: Body, provider: Provider, kind: str, model: str, *, has_options: bool) -> Body:
    """Return the body without what the provider refuses, and with the provider's names of parameters.

    `model`: the provider's own id; `has_options`: the body has `stream_options`. It is the same object if nothing
    changes.
    """
    drops_options = has_options and not provider.takes_usage_option
    renames = [rename for rename in provider.renames if rename.kind == kind and rename.models.search(model)]
    if not (drops_options or any(b'"%b"' % rename.old.encode() in body for rename in renames)) or len(body) > MAX_BYTES:
        return body
    try:
        fields = _fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body  # the provider reports what is wrong with it
    changed = {}
    for name, value in fields.items():
        if drops_options and name == _OPTIONS:
            continue
        new = next((rename.new for rename in renames if rename.old == name and rename.new not in fields), name)
        changed[new] = value
    return body if changed == fields else encode(changed)


def _fields(body: Body) -> dict[str, msgspec.Raw]:
    try:
        return _decode(body)
    except msgspec.DecodeError:
        return _decode(replaced(body))
