"""What the responses of an endpoint have shown about it, until it is edited."""

from gateway.providers.errors import ErrorCause


class EndpointMemory:
    """Facts that an endpoint does not declare, but that its responses show."""

    __slots__ = ("chat_as_messages", "pause_cause", "paused_until", "recent_prompt", "refused_tools", "usage_refused")

    def __init__(self, *, usage_refused: bool = False) -> None:
        # It refuses stream_options.include_usage: with a 4xx, or by the documentation of its provider.
        self.usage_refused = usage_refused
        self.chat_as_messages = False  # it is self-hosted, and lacks chat completions: it may have Messages
        self.paused_until = 0  # second (since 1970) until which its provider wants no requests; 0: it wants them
        self.pause_cause = ErrorCause.LIMITED
        self.recent_prompt = 0.0  # see gateway.routing.adaptive.LoadedCandidate
        # Types of tools, each with a kind of requests, and when (time.monotonic()) they may be tried again.
        self.refused_tools: dict[tuple[str, str], float] = {}
