"""Runs a coroutine without a Task: it begins at once, and goes on in the very call that brings what it waits for.

A Task takes a turn of the event loop for each step, and a Future for each wait. For a request whose answer is relayed
in two or three steps that is a tenth of its whole cost. The coroutine may await anything but what asks for the current
Task (`asyncio.timeout`, say); that belongs into a Task of its own, which may be awaited.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

_current: "Drive | None" = None


class Drive:
    """One coroutine on its way. As much of a Task as uvicorn's server wants, of a Future as its waits want."""

    __slots__ = ("_coroutine", "_done", "_loop", "_waits_for", "exception")

    def __init__(
        self, coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, done: Callable[["Drive"], None]
    ) -> None:
        """`done` is called when the coroutine has ended, with or without an exception."""
        self._coroutine: Coroutine[Any, Any, None] | None = coroutine
        self._loop = loop
        self._done = done
        self._waits_for: Any = None
        self.exception: BaseException | None = None

    def cancel(self, msg: str | None = None) -> None:
        """Raise CancelledError where the coroutine waits, soon."""
        self._loop.call_soon(self._cancel)

    def throw(self, error: BaseException) -> None:
        """Raise it where the coroutine waits, at once. Not to be called by that coroutine."""
        self._step(error)

    # What it waits for

    def __await__(self) -> Generator["Drive", None, None]:
        return iter((self,))  # type: ignore[return-value]  # yields it, too, and takes no frame of its own

    def done(self) -> bool:
        """Does the coroutine await something else by now?"""
        return self._waits_for is not self

    def _arrived(self, future: "asyncio.Future[Any]") -> None:
        if self._waits_for is future:
            self._step()

    def _cancel(self) -> None:
        self._step(asyncio.CancelledError())

    def _step(self, error: BaseException | None = None) -> None:
        global _current
        if self._coroutine is None:
            return
        self._waits_for = None
        outer, _current = _current, self
        try:
            found = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration:
            self._coroutine = None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failed:  # noqa: BLE001  # whoever began this is told of it
            self.exception = failed
            self._coroutine = None
        else:
            self._waits_for = found
            if found is not self:
                found._asyncio_future_blocking = False  # as a Task says that it has seen the future
                found.add_done_callback(self._arrived)
            return
        finally:
            _current = outer
        done, self._done = self._done, _told
        done(self)
        if self.exception is not None:
            self.exception.__traceback__ = None  # which holds the frames of all that the coroutine knew

    start = _step  # up to where the coroutine first has to wait
    set_result = _step  # with None: what the coroutine awaited this for has come


def _told(drive: Drive) -> None:
    """Instead of whoever was told of the end, who may hold the drive."""


def waiter() -> "Drive | asyncio.Future[None]":
    """To be awaited by the running coroutine until somebody calls its `set_result(None)`."""
    return _current if _current is not None else asyncio.get_running_loop().create_future()
