"""Clients of a fleet over HTTP: the sessions of a workload, one API key for each kind of client."""

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp

from benchmarks.routing.http_servers import BYTES_PER_TOKEN
from benchmarks.routing.workloads import EMBEDDINGS, Session, contexts


class Answer(NamedTuple):
    """A response. Times in simulated seconds since the start."""

    kind: str
    arrived: float
    first: float
    ended: float
    output: int  # tokens
    prompt: int
    cached: int


def text(name: str, tokens: int) -> str:
    """Return a text with so many tokens that begins like every text with this name."""
    block = hashlib.sha256(name.encode()).hexdigest()
    size = tokens * BYTES_PER_TOKEN
    return (block * (size // len(block) + 1))[:size]


def bodies(session: Session) -> Iterator[dict[str, Any]]:
    """Yield the body of each turn. A conversation sends all that was said before, as the client remembers it."""
    name = session.conversation
    messages = [{"role": "system", "content": text(session.system, session.system_tokens)}]
    if session.document:
        messages.append({"role": "user", "content": text(name, session.document)})
    for number, (turn, _, _) in enumerate(contexts(session)):
        if session.kind == EMBEDDINGS:
            yield {
                "model": session.model,
                "input": text(f"{session.number}/{number}", session.system_tokens + turn.new),
            }
            continue
        user = f"{session.number}/{number}" if number or session.document else name
        messages.append({"role": "user", "content": text(user, turn.new)})
        metadata = {"output_tokens": str(turn.output)}
        options = {"stream": True, "stream_options": {"include_usage": True}, "metadata": metadata}
        yield {"model": session.model, "messages": list(messages), **options}
        messages.append({"role": "assistant", "content": text(f"{user}/answer", turn.output)})


class Clients:
    """All sessions at one address. `keys`: API keys by kind of client."""

    def __init__(self, url: str, keys: Mapping[str, str], scale: float) -> None:
        self._url, self._keys, self._scale = url, keys, scale
        self.answers: list[Answer] = []
        self.errors: list[str] = []

    async def run(self, sessions: Sequence[Session], until: float | None = None) -> None:
        """Run all sessions. No further turn begins after `until`; None: once the last session has started."""
        self._end = sessions[-1].start if until is None else until
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
            self._begun = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                for session in sessions:
                    tasks.create_task(self._session(client, session))

    def _now(self) -> float:
        return (time.monotonic() - self._begun) / self._scale

    async def _session(self, client: aiohttp.ClientSession, session: Session) -> None:
        await asyncio.sleep((session.start - self._now()) * self._scale)
        for number, (turn, body) in enumerate(zip(session.turns, bodies(session), strict=True)):
            if number:
                await asyncio.sleep(turn.think * self._scale)
            if self._now() > self._end + 1.0:
                return
            try:
                await self._request(client, session.kind, body, turn.output)
            except (aiohttp.ClientError, ValueError, TimeoutError) as error:
                self.errors.append(f"{session.kind}: {error or type(error).__name__}")
                return

    async def _request(self, client: aiohttp.ClientSession, kind: str, body: dict[str, Any], output: int) -> None:
        path = "/v1/embeddings" if kind == EMBEDDINGS else "/v1/chat/completions"
        headers = {"Authorization": f"Bearer {self._keys[kind]}", "Content-Type": "application/json"}
        arrived, first = self._now(), 0.0
        async with client.post(self._url + path, data=json.dumps(body), headers=headers) as response:
            if response.status != 200:
                raise ValueError(f"{response.status} {(await response.text())[:200]}")
            tail = b""
            async for chunk in response.content.iter_any():
                if not first and (not output or b'"content"' in chunk):
                    first = self._now()
                tail = (tail + chunk)[-2000:]
        ended = self._now()
        usage = _usage(tail)
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        if output and usage.get("completion_tokens") != output:
            raise ValueError(f"a response with {usage.get('completion_tokens')} instead of {output} tokens")
        self.answers.append(Answer(kind, arrived, first, ended, output, usage.get("prompt_tokens", 0), cached))


def _usage(tail: bytes) -> dict[str, Any]:
    """Return the usage at the end of a response."""
    position = tail.rfind(b'"usage"')
    if position < 0:
        return {}
    usage, _ = json.JSONDecoder().raw_decode(tail[tail.index(b"{", position) :].decode(errors="replace"))
    return dict(usage)
