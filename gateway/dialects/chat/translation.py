"""Facts about the translation of one request that its response needs."""

import msgspec


class Translation(msgspec.Struct, frozen=True):
    """A request was sent in another dialect than the client's."""

    headers: tuple[tuple[bytes, bytes], ...] = ()  # that the endpoint needs in addition
    dropped: bytes = b""  # header line of the response, with the parameters that the endpoint has not received
    custom_tools: frozenset[str] = frozenset()  # names of tools that take text
    one_call: bool = False  # the client expects `function_call` instead of `tool_calls`
    content_type: bytes = b""  # of a stream, if it is another one for the client
    kind: str = ""  # of the request that was sent, if a kind is translated to more than one


TRANSLATED = Translation()
