"""Simulated batching servers over HTTP, on many ports of one process.

They answer /v1/chat/completions with streams, and /v1/embeddings; as Ollama also /api/ps. A prompt has as many tokens
as a quarter of the bytes of its texts. The number of tokens of a response is in the `metadata` of the request, which a
router does not look at.
"""

import asyncio
import json
import time
from random import Random
from typing import Any

from aiohttp import web

from benchmarks.routing.server import Job, Server, Shape
from benchmarks.simulator import Behaviour, Endpoint, Simulator

BYTES_PER_TOKEN = 4
BURST_SECONDS = 0.04  # several tokens are sent in one event if a step takes less; the first and last are exact


class _Answer:
    """What a handler waits for."""

    __slots__ = ("ended", "job", "news", "sent")

    def __init__(self, job: Job) -> None:
        self.job, self.news, self.ended, self.sent = job, asyncio.Event(), False, 0


class BatchingEndpoint(Endpoint):
    """A simulated server that takes `scale` seconds for one of `server`."""

    def __init__(self, simulator: Simulator, behaviour: Behaviour, server: Server, scale: float) -> None:
        super().__init__(simulator, behaviour, 0)
        self.server, self._scale = server, scale
        self._begun = time.monotonic()
        self._answers: dict[Job, _Answer] = {}
        self._due: asyncio.TimerHandle | None = None
        server.longest = max(1, int(BURST_SECONDS / (scale * (server.a + server.b))))

    def _now(self) -> float:
        return (time.monotonic() - self._begun) / self._scale

    def _wake(self, due: float | None) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if due is not None:
            loop = asyncio.get_running_loop()
            delay = self._begun + due * self._scale - time.monotonic()
            self._due = loop.call_at(loop.time() + delay, self._advance, due)

    def _advance(self, due: float) -> None:
        """The step that was due at `due` has ended; a late timer delays nothing but the news of it."""
        self._due = None
        for job in self.server.advance(due):
            if (answer := self._answers.get(job)) is not None:
                answer.ended = True
                answer.news.set()
        for job in self.server.writing:
            if (answer := self._answers.get(job)) is not None:
                answer.news.set()
        self._wake(self.server.begin(due))

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/api/ps" and self.behaviour.kind == "ollama":
            return web.json_response({"models": [{"name": name, "model": name} for name in self._in_memory()]})
        return await super()._describe(request)

    def _in_memory(self) -> list[str]:
        """Return the models in memory; like Ollama, also one that is being loaded."""
        if not self.server.shape.one_model:
            return self.behaviour.models
        return [self.server.model] if self.server.model else []

    async def _infer(self, request: web.Request, body: dict[str, Any], fault: str) -> web.StreamResponse:
        if self.behaviour.kind == "llamacpp" and not body:  # a probe of type detection
            known = request.path in ("/v1/chat/completions", "/v1/embeddings")
            return self._error(request, 400 if known else 501, "simulated")
        job = job_of(request.path, body)
        if job is None:
            return self._error(request, 404, "only streamed chats and embeddings are simulated")
        answer = self._answers[job] = _Answer(job)
        self._wake(self.server.submit(job, self._now()))
        try:
            if not job.output:
                await answer.news.wait()
                return web.json_response(_embedding(job))
            return await self._send_tokens(request, answer)
        finally:
            del self._answers[job]
            if not answer.ended:
                self.server.cancel(job)

    async def _send_tokens(self, request: web.Request, answer: _Answer) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while not answer.ended:
            await answer.news.wait()
            answer.news.clear()
            if count := self.server.written(answer.job) - answer.sent:
                answer.sent += count
                await response.write(_event({"choices": [_choice("word" * count)]}))
        choices = {"choices": [{**_choice(""), "finish_reason": "stop"}]}
        await response.write(
            _event(choices) + _event({"choices": [], "usage": usage(answer.job)}) + b"data: [DONE]\n\n"
        )
        return response


def job_of(path: str, body: dict[str, Any]) -> Job | None:
    """Return the request as servers see it: a system prompt, what a conversation already had, and what is new."""
    model = str(body.get("model", ""))
    if path == "/v1/embeddings":
        return Job(max(1, len(str(body.get("input", ""))) // BYTES_PER_TOKEN), 0, model=model)
    if path != "/v1/chat/completions" or not body.get("stream") or "output_tokens" not in body.get("metadata", {}):
        return None
    texts = [str(message["content"]) for message in body["messages"]]
    lengths = [len(text) // BYTES_PER_TOKEN for text in texts]
    return Job(
        max(1, sum(lengths)),
        int(body["metadata"]["output_tokens"]),
        model=model,
        system=texts[0][:64],
        system_tokens=lengths[0],
        conversation=texts[1][:64],
        history=sum(lengths[1:-1]),
    )


def usage(job: Job) -> dict[str, Any]:
    total = job.prompt + job.output
    counts = {"prompt_tokens": job.prompt, "completion_tokens": job.output, "total_tokens": total}
    return {**counts, "prompt_tokens_details": {"cached_tokens": job.cached}}


def _embedding(job: Job) -> dict[str, Any]:
    data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
    counts = {"prompt_tokens": job.prompt, "total_tokens": job.prompt}
    return {"object": "list", "model": job.model, "data": data, "usage": counts}


def _choice(text: str) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": None}


def _event(fields: dict[str, Any]) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "simulated"}
    return b"data: " + json.dumps({**head, **fields}).encode() + b"\n\n"


def add(
    simulator: Simulator, shape: Shape, models: list[str], loads: dict[str, float], scale: float, seed: int
) -> BatchingEndpoint:
    """Start a server in the simulator's loop, from another thread."""
    told = shape.slots if shape.tells_slots else 0
    behaviour = Behaviour(models=models, kind=shape.kind, slots=told, messages=False)
    server = Server(shape, loads=loads, random=Random(seed).random)
    endpoint = BatchingEndpoint(simulator, behaviour, server, scale)
    simulator.run(endpoint.open())
    simulator.endpoints[endpoint.port] = endpoint
    return endpoint
