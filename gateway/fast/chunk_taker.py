"""The relay of chunks that repeat an event but for their text, from an endpoint to the connection of a client."""

import asyncio
from typing import Protocol

from gateway.fast.repeated_event import EventTemplate
from gateway.fast.write_batch import WriteBatch


class EventCounts(Protocol):
    """The counts of a relay; implemented by gateway.dialects.sse_relay.StreamRelay."""

    events: int
    deltas: int
    mismatches: int


class ClientFlow(Protocol):
    """Whether a client can receive more; implemented by gateway.loop.flow_control.FlowControl."""

    lost: bool
    write_paused: bool


class ChunkTaker:
    """Passes chunks that repeat an event to a client's connection, without parsing them.

    It has the few objects that such an event needs, because with hundreds of streams most of what an event touches has
    left the processor's caches since the stream's last one.
    """

    __slots__ = ("_counts", "_flow", "_template", "_transport", "_writes")

    def __init__(
        self,
        template: EventTemplate,
        counts: EventCounts,
        transport: asyncio.Transport,
        writes: WriteBatch,
        flow: ClientFlow,
    ) -> None:
        """`counts`: of the stream. `transport`, `writes`, `flow`: of the client's connection."""
        self._template = template
        self._counts = counts
        self._transport = transport
        self._writes = writes
        self._flow = flow

    def take(self, data: bytes) -> bool | None:
        """Relay a read that is nothing but whole chunks (RFC 9112, section 7.1) which match. Return None if the read
        must be parsed, False if the client cannot take more for now.
        """
        counts, template = self._counts, self._template
        out = template.match_chunk(data)
        if out is not None:
            events = 1
        else:
            if (chunks := template.match_chunks(data)) is None:
                return None
            out, events = b"".join(chunks), len(chunks)
        counts.events += events
        counts.deltas += events
        counts.mismatches = 0
        if self._writes.holding:
            self._writes.write(self._transport, out)
        elif not self._flow.lost:  # no call, unlike `is_closing`; a transport that is being closed ignores more bytes
            self._transport.write(out)
        return not self._flow.write_paused
