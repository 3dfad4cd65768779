"""Streams of responses that the endpoint stores."""

from collections.abc import Callable
from functools import partial

from gateway.dialects.openai_events import Dialect, Event
from gateway.dialects.responses.objects import failure_events
from gateway.dialects.sse_relay import StreamRelay
from gateway.inference.attempt import Attempt
from gateway.inference.request import InferenceRequest
from gateway.inference.stored import background
from gateway.inference.stored_ids import item_id


class ResponsesRelay(StreamRelay):
    """A stream of a response's events. `store` receives the ids of the response and of its items as they arrive.

    A response that is created in the background can be read from then on.
    """

    store: Callable[[str], None] | None = None
    response_id: str | None = None  # None: no event has named the response yet

    @property
    def next_number(self) -> int:
        """The sequence number of the next event, if the endpoint counts from 0."""
        return self.events

    def _hold(self, raw: bytes) -> bytes:
        if self.error is not None and self.held:
            return b""  # the endpoint's own `response.failed` after its error
        if self.error is not None and not self.finished:  # some clients ignore an event `error`
            words, sentence = self.error.words, self.error.sentence
            failed = failure_events(
                words[-1] if words else "server_error",
                sentence,
                self._requested_model,
                self.response_id,
                self.next_number,
            )
            raw += self._clean(failed)
        return super()._hold(raw)

    def _count_event(self, event: Event) -> None:
        super()._count_event(event)
        if event.response_id is not None:
            self.response_id = event.response_id
        if self.store is None:
            return
        if event.response_id is not None:
            self.store(event.response_id)
        if event.item is not None and (stored_id := item_id(event.item)):
            self.store(stored_id)


class CountedOnceRelay(ResponsesRelay):
    """A stream of a response that another request may receive, too: its usage counts where `claim` returns True.

    `note` receives the id of a response that the stream has created.
    """

    estimates = False  # it is counted when it is complete
    note: Callable[[str], None] | None = None
    claim: Callable[[], bool] | None = None

    def _count_event(self, event: Event) -> None:
        is_first = self.response_id is None
        super()._count_event(event)
        if self.note is not None and is_first and self.response_id is not None:
            self.note(self.response_id)
        if event.usage is not None and not (event.finished and self.claim is not None and self.claim()):
            self.usage = None


def background_relay(request: InferenceRequest, attempt: Attempt, dialect: Dialect) -> CountedOnceRelay:
    """Return the relay of a response that is created in the background."""
    relay = CountedOnceRelay(dialect, request.parsed.model, hide_usage=False)
    relay.note = partial(background.note, request, attempt)
    relay.claim = lambda: background.claim(request, attempt, relay.response_id or "")
    return relay
