"""What the responses of an endpoint have shown about it, until it is edited."""

import time

from gateway.providers.errors import ErrorCause

LEARNED_SECONDS = 600.0
MAX_LEARNED = 100  # of an endpoint, of each kind
USAGE_OPTION = ("", "stream_options")

# What an endpoint refuses, and until when (time.monotonic()). A client could have an error quote words of its request,
# so that it is learned only if the server accepts the request without it, and not for long.
Refused = dict[tuple[str, str], float]


def remember(known: Refused, kind: str, names: list[str], now: float) -> list[str]:
    """Add names to `known`, without those whose time has ended. Return the names that have found a place."""
    for old in [name for name, until in known.items() if until <= now]:
        del known[old]
    new = names[: MAX_LEARNED - len(known)]
    known.update({(kind, name): now + LEARNED_SECONDS for name in new})
    return new


class EndpointMemory:
    """Facts that an endpoint does not declare, but that its responses show."""

    __slots__ = (
        "chat_as_messages", "lacks_usage_option", "pause_cause", "paused_until", "recent_prompt", "refused_options",
        "refused_tools",
    )  # fmt: skip

    def __init__(self) -> None:
        self.lacks_usage_option = False  # by the documentation of its provider
        self.refused_options: Refused = {}
        self.chat_as_messages = False  # it is self-hosted, and lacks chat completions: it may have Messages
        self.paused_until = 0  # second (since 1970) until which its provider wants no requests; 0: it wants them
        self.pause_cause = ErrorCause.LIMITED
        self.recent_prompt = 0.0  # see gateway.routing.expected_time.LoadedCandidate
        self.refused_tools: Refused = {}  # types of tools, each with a kind of requests

    @property
    def usage_refused(self) -> bool:
        """True if it does not take stream_options.include_usage."""
        if not self.refused_options:
            return self.lacks_usage_option
        return self.lacks_usage_option or self.refused_options.get(USAGE_OPTION, 0.0) > time.monotonic()

    def refuse_usage(self, now: float) -> None:
        """Note that it took a request without stream_options.include_usage, which it had refused with it."""
        kind, name = USAGE_OPTION
        remember(self.refused_options, kind, [name], now)
