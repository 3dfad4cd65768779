"""The interface between connections of clients and the application that handles their requests."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from gateway.base.config import Config
from gateway.base.errors import Refusal
from gateway.fast.write_batch import WriteBatch
from gateway.http.admission import Admission
from gateway.http.exchange import Exchange
from gateway.ipc.bound_hits import Hits


class Application(Protocol):
    """Handles the requests of all connections; implemented by gateway.application."""

    config: Config
    writes: WriteBatch
    bound_hits: Hits
    stopping: bool  # the process drains
    admission: Admission
    on_connect: Callable[[], None]  # called at each new connection, before its first byte is read

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Count a refusal and send it to the client."""

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Return the coroutine that handles a request whose body is complete. Raises Refusal."""

    def failed(self, exchange: Exchange, error: Exception) -> None:
        """Send the refusal, or the internal error, that ended the handling of a request."""
