"""Facts about the translation of a Responses request that its response needs."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from gateway.dialects.chat.translation import Translation

# `encrypted_content` of reasoning that RouterDash has written: the text follows. Clients send it back as it is.
SEAL = "routerdash-reasoning:"


class CalledTool(NamedTuple):
    """A tool, by the name that the endpoint knows."""

    name: str
    namespace: str = ""
    is_custom: bool = False  # it takes text


class ResponsesTranslation(Translation, frozen=True):
    """A Responses request was sent as a chat completion."""

    tools: Mapping[str, CalledTool] = {}
    echoed: Mapping[str, msgspec.Raw] = {}  # fields of the request that the response object repeats
    summarises: bool = False  # the client expects reasoning as a summary, else as text
    seals: bool = False  # the client expects `encrypted_content`
