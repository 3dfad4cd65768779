"""A coroutine runner without Tasks: the coroutine starts at once, and resumes in the call that completes its wait.

A Task takes an iteration of the event loop for each step, and a Future for each wait. For a request whose response is
relayed in two or three steps that is a tenth of its whole cost. The coroutine may await everything but code that needs
the current Task (such as `asyncio.timeout`). Run such code in a Task, and await that.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Generator
from typing import Any

_current: "CoroutineRunner | None" = None


class CoroutineRunner:
    """Runner of one coroutine. It has the methods of a Task that uvicorn's server calls, and those of a Future that
    the waits of its coroutine call.
    """

    __slots__ = ("_coroutine", "_loop", "_on_end", "_waits_for", "exception")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[["CoroutineRunner"], None],
    ) -> None:
        """Prepare a runner; `start` starts it. `on_end` is called at the coroutine's end, with or without exception."""
        self._coroutine: Coroutine[Any, Any, None] | None = coroutine
        self._loop = loop
        self._on_end = on_end
        self._waits_for: Any = None
        self.exception: BaseException | None = None

    def cancel(self, msg: str | None = None) -> None:
        """Raise CancelledError where the coroutine waits, in the next iteration of the event loop."""
        self._loop.call_soon(self._cancel)

    def throw(self, error: BaseException) -> None:
        """Raise the error where the coroutine waits, at once. The coroutine itself must not call this."""
        self._step(error)

    # The interface of a Future, for `waiter`

    def __await__(self) -> Generator["CoroutineRunner", None, None]:
        return iter((self,))  # type: ignore[return-value]  # yields itself, and needs no frame

    def done(self) -> bool:
        """Return True unless the coroutine awaits this runner: it then waits for something else, or has ended."""
        return self._waits_for is not self

    def _future_done(self, future: "asyncio.Future[Any]") -> None:
        if self._waits_for is future:
            self._step()

    def _cancel(self) -> None:
        self._step(asyncio.CancelledError())

    def _step(self, error: BaseException | None = None) -> None:
        """Run the coroutine up to its next wait."""
        global _current
        if self._coroutine is None:
            return
        self._waits_for = None
        outer, _current = _current, self
        try:
            awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration:
            self._coroutine = None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:  # noqa: BLE001  # reported by `on_end`
            self.exception = failure
            self._coroutine = None
        else:
            self._waits_for = awaited
            if awaited is not self:
                awaited._asyncio_future_blocking = False  # a Task sets this, too, when it takes over a future
                awaited.add_done_callback(self._future_done)
            return
        finally:
            _current = outer
        on_end, self._on_end = self._on_end, _ended
        on_end(self)
        if self.exception is not None:
            self.exception.__traceback__ = None  # it holds all frames of the coroutine

    start = _step
    set_result = _step  # called with None: the wait is over


def _ended(runner: CoroutineRunner) -> None:
    """Replace `on_end` after the end: its owner may hold the runner, which would be a reference cycle."""


class TaskRunner(CoroutineRunner):
    """Runner of one coroutine in an asyncio Task. Only tests use it, to show that nothing relies on CoroutineRunner."""

    __slots__ = ("_task",)

    def start(self, error: BaseException | None = None) -> None:
        """Start the Task; its first step runs in the next iteration of the event loop."""
        assert self._coroutine is not None
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._task_done)

    def throw(self, error: BaseException) -> None:
        """Cancel the Task: a Task takes no other error."""
        assert isinstance(error, asyncio.CancelledError)
        self.cancel()

    def _cancel(self) -> None:
        self._task.cancel()

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        self.exception = asyncio.CancelledError() if task.cancelled() else task.exception()
        on_end, self._on_end = self._on_end, _ended
        on_end(self)


PLAIN_TASKS = "TEST_PLAIN_TASKS" in os.environ  # a request then ends an iteration after its response was written
RUNNER = TaskRunner if PLAIN_TASKS else CoroutineRunner


def waiter() -> "CoroutineRunner | asyncio.Future[None]":
    """Return an awaitable for the running coroutine. Calling its `set_result(None)` ends the wait."""
    return _current if _current is not None else asyncio.get_running_loop().create_future()
