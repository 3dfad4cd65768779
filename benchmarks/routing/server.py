"""A batching inference server as a state machine without a clock: virtual time and an HTTP server both drive it.

It works in steps like vLLM and llama.cpp. A step writes one token of each running request, and reads some of the
prompts of those that have begun (chunked prefill). It takes, in seconds, with n requests that write:

    step = a + b * n + c * (tokens of their contexts) + p * (prompt tokens read)

Requests are admitted in order while there are slots and memory. The caller does this:

    due = server.submit(job, now)      # or None; it may be earlier than what an earlier call returned
    ended = server.advance(due)        # when that moment has come: requests that ended, then
    due = server.begin(due)            # the end of the next step, or None if there is nothing to do

Steps that only write are taken as one stretch until a request ends or another arrives, which gives the same times
as single steps.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.routing.caches import Cache, Pages, Slots

READ_ONLY = 0.3  # share of `a` that a step takes in which nothing is written
NOISE = 0.06  # width of the random factor of a step's duration
SPARE = 64  # tokens that must remain free when a request is admitted


@dataclass(frozen=True)
class Shape:
    """A server: its speed in ms, as the terms of a step, and its limits."""

    kind: str  # engine
    a: float  # each step
    b: float  # each request that writes
    c: float  # each 1,000 tokens of context
    p: float  # each prompt token
    slots: int
    memory: int  # tokens of the KV cache
    budget: int = 512  # prompt tokens that a step reads at most
    rtt: float = 1.0
    tells_slots: bool = False
    paged: bool = False  # else one prefix a slot
    one_model: bool = False  # it loads the model of a request if that is not the one in memory
    keep_alive: float = 300.0  # seconds without a request after which it unloads the model


class Job:
    """A request at a server."""

    __slots__ = (
        "cached", "cold", "conversation", "ends_at", "first_at", "history", "model", "output", "place", "prompt",
        "system", "system_tokens", "unread", "written",
    )  # fmt: skip

    def __init__(
        self,
        prompt: int,
        output: int,
        *,
        model: str = "",
        system: str = "",
        system_tokens: int = 0,
        conversation: str = "",
        history: int = 0,
    ) -> None:
        """`output` 0: the request ends when its prompt is read, like an embedding."""
        self.model, self.prompt, self.output = model, prompt, output
        self.system, self.system_tokens = system, system_tokens
        self.conversation, self.history = conversation, history
        self.place = -1
        self.cached = self.unread = self.written = 0  # written: tokens before a preemption
        self.ends_at = 0  # the step, counted from the server's start, that writes its last token
        self.first_at: float | None = None  # when the first token was written
        self.cold = False  # the model was loaded for it


class Server:
    def __init__(self, shape: Shape, *, loads: dict[str, float] | None = None, random: Callable[[], float]) -> None:
        """`loads`: seconds to load each model. `random`: draws from 0 to 1."""
        self.shape = shape
        self.a, self.b, self.c, self.p = shape.a / 1e3, shape.b / 1e3, shape.c / 1e6, shape.p / 1e3
        self.slowdown = 1.0
        self.model: str | None = None
        self.loads = 0  # how often it loaded a model
        self.waiting: deque[Job] = deque()
        self.reading: list[Job] = []
        self.writing: dict[Job, None] = {}  # in the order in which they began
        self.steps = 0
        self.cache: Cache = Pages() if shape.paged else Slots(shape.slots)
        self.longest = 1 << 30  # steps of a stretch; an HTTP server sends every token, so there it is 1
        self._ends: list[tuple[int, int, Job]] = []
        self._number = 0
        self._context = 0  # tokens, of the requests that write
        self._memory = 0  # tokens that running requests take beyond the cache
        self._load_times = loads or {}
        self._loaded_at: float | None = None  # when the model that is loading is ready
        self._idle_since = 0.0
        self._random = random
        self._due: float | None = None
        self._stretch = (0.0, 0, 0.0, 0.0)  # its start, steps, duration of the first, and how much each next is longer
        self._read_now: list[tuple[Job, int]] = []

    @property
    def running(self) -> int:
        return len(self.reading) + len(self.writing)

    @property
    def in_flight(self) -> int:
        return self.running + len(self.waiting)

    @property
    def memory_used(self) -> float:
        """Share of the memory that running requests take."""
        return self._memory / self.shape.memory

    def load_seconds(self, model: str) -> float:
        return self._load_times.get(model, 0.0)

    def loading_until(self) -> float | None:
        return self._loaded_at

    def submit(self, job: Job, now: float) -> float | None:
        """Add a request, and return when `advance` is due."""
        self.waiting.append(job)
        if self._due is None:
            return self.begin(now)
        if self.running < self.shape.slots:
            self._cut(now)
        return self._due

    def set_slowdown(self, factor: float, now: float) -> float | None:
        """Throttle it: every step takes `factor` times as long from now on. Returns when `advance` is due."""
        self.slowdown = factor
        if self._due is not None:
            self._cut(now)
        return self._due

    def _cut(self, now: float) -> None:
        """End the stretch with the step that is under way. A load of a model is not a stretch."""
        if self._loaded_at is not None or self._stretch[1] <= 1:
            return
        start, steps, first, growth = self._stretch
        elapsed = max(0.0, now - start)
        if growth > 1e-12:
            half = first - growth / 2
            count = (math.sqrt(half * half + 2 * growth * elapsed) - half) / growth
        else:
            count = elapsed / first
        count = min(steps, max(1, math.ceil(count - 1e-9)))
        self._stretch = (start, count, first, growth)
        self._due = start + count * first + growth * count * (count - 1) / 2

    def begin(self, now: float) -> float | None:
        """Begin a step, and return when it ends; None if there is nothing to do."""
        if self._due is not None:
            return self._due
        if self.shape.one_model and not self.running and now - self._idle_since > self.shape.keep_alive:
            self.model = None
        self._admit(now)
        if self._loaded_at is not None:
            self._due = self._loaded_at
        elif self.reading:
            self._due = now + self._read()
        elif self.writing:
            self._due = now + self._write(now)
        return self._due

    def _admit(self, now: float) -> None:
        while self.waiting and self.running < self.shape.slots:
            job = self.waiting[0]
            if self.shape.one_model and self.model != job.model:
                if self.running:
                    return
                self.model, self.loads, job.cold = job.model, self.loads + 1, True
                self.cache.clear()
                self._loaded_at = now + self._load_times.get(job.model, 0.0)
            if self._loaded_at is not None:
                return
            cached = self.cache.match(job)
            needed = job.prompt - cached + job.written
            if self.shape.paged and self.running and self._memory + needed + SPARE > self.shape.memory:
                return
            job.cached = self.cache.take(job)
            job.unread = job.prompt - job.cached + job.written
            self.waiting.popleft()
            self._memory += job.unread
            self.cache.shrink(self.shape.memory - self._memory)
            self.reading.append(job)

    def _noise(self, steps: int) -> float:
        return self.slowdown * (1.0 + NOISE * (self._random() - 0.5) / math.sqrt(steps))

    def _read(self) -> float:
        """Read some tokens of prompts, and return how long the step takes."""
        left = self.shape.budget
        for job in self.reading:
            count = min(left, job.unread)
            self._read_now.append((job, count))
            left -= count
            if not left:
                break
        read = self.shape.budget - left
        count = len(self.writing)
        self._stretch = (0.0, 1, 0.0, 0.0)
        base = self.a + self.b * count + self.c * self._context if count else READ_ONLY * self.a
        return (base + self.p * read) * self._noise(1)

    def _write(self, now: float) -> float:
        """Begin a stretch, and return how long it takes."""
        self._forget_preempted()
        count = len(self.writing)
        steps = min(self._ends[0][0] - self.steps, self.longest)
        if self.shape.paged:
            steps = min(steps, max(1, (self.shape.memory - self._memory) // count))
        noise = self._noise(steps)
        first = (self.a + self.b * count + self.c * self._context) * noise
        growth = self.c * count * noise
        self._stretch = (now, steps, first, growth)
        return steps * first + growth * steps * (steps - 1) / 2

    def _forget_preempted(self) -> None:
        while self._ends and (self._ends[0][2] not in self.writing or self._ends[0][2].ends_at != self._ends[0][0]):
            heapq.heappop(self._ends)

    def advance(self, now: float) -> list[Job]:
        """End the step that was due, and return the requests that ended with it."""
        self._due = None
        if self._loaded_at is not None:
            self._loaded_at, self._idle_since = None, now
            return []
        steps, count = self._stretch[1], len(self.writing)
        self.steps += steps
        self._context += steps * count
        self._memory += steps * count
        ended: list[Job] = []
        for job, read in self._read_now:
            job.unread -= read
            if not job.unread:
                self.reading.remove(job)
                self._has_read(job, now, ended)
        self._read_now.clear()
        while self._ends and self._ends[0][0] <= self.steps:
            end, _, job = heapq.heappop(self._ends)
            if job in self.writing and job.ends_at == end:
                self._leave_writing(job)
                self._finish(job, ended)
        if self.shape.paged and self._memory > self.shape.memory:
            self._preempt()
        if not self.running:
            self._idle_since = now
        return ended

    def _has_read(self, job: Job, now: float, ended: list[Job]) -> None:
        """The step that reads the last of a prompt writes the first token."""
        if self.shape.paged:  # others may share the system prompt from now on
            self.cache.keep(job, 0, self.shape.memory - self._memory)
        if job.first_at is None:
            job.first_at = now
        job.written += 1
        if job.written >= job.output:
            self._finish(job, ended)
            return
        self._memory += 1
        self._context += job.prompt + job.written
        job.ends_at = self.steps + job.output - job.written
        self.writing[job] = None
        self._number += 1
        heapq.heappush(self._ends, (job.ends_at, self._number, job))

    def written(self, job: Job) -> int:
        """Return the tokens that a running request has so far."""
        return job.output - (job.ends_at - self.steps) if job in self.writing else job.written

    def _leave_writing(self, job: Job) -> None:
        job.written = job.output - (job.ends_at - self.steps)
        del self.writing[job]
        self._context -= job.prompt + job.written

    def _finish(self, job: Job, ended: list[Job]) -> None:
        self._memory = max(0, self._memory - (job.prompt - job.cached + job.written))
        if job.output:
            tokens = job.prompt - job.system_tokens + job.written
            self.cache.keep(job, tokens, self.shape.memory - self._memory)
        self.cache.end(job)
        ended.append(job)

    def _preempt(self) -> None:
        """Put the latest requests back into the queue until the rest has room; what they had is read again."""
        while self._memory > self.shape.memory and self.running > 1 and self.writing:
            job = next(reversed(self.writing))
            self._leave_writing(job)
            self._memory -= job.prompt - job.cached + job.written
            self.waiting.appendleft(job)

    def cancel(self, job: Job) -> None:
        """The client left. What is running is left out of the next step."""
        if job in self.waiting:
            self.waiting.remove(job)
        elif job in self.writing:
            self._leave_writing(job)
            self._finish(job, [])
        elif job in self.reading:
            self.reading.remove(job)
            self._read_now = [(other, count) for other, count in self._read_now if other is not job]
            job.written = 0
            self._memory = max(0, self._memory - (job.prompt - job.cached))
            self.cache.end(job)
