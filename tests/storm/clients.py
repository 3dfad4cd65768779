"""Clients of all kinds. Each request bears an id of its own; what became of it is kept, to be compared with its row."""

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

WHOLE, REFUSED, BROKEN, LEFT = "whole", "refused", "broken", "left"
LEAVING = 0.15  # of the requests are given up by their clients
SLOW = 0.05  # are read slowly
PATIENCE = aiohttp.ClientTimeout(total=120)
PAUSE_SECONDS = (0.2, 3.0)

CHATS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
EMBEDDINGS, TRANSCRIPTIONS = "/v1/embeddings", "/v1/audio/transcriptions"
# What is asked of each path; by their names RouterDash knows what they can do.
MODELS = {**dict.fromkeys(CHATS, ("tiny", "small")), EMBEDDINGS: ("embed-tiny",), TRANSCRIPTIONS: ("whisper-tiny",)}
SOUND = b"RIFF" + bytes(20_000)


@dataclass
class Seen:
    """What clients saw: how each request ended, by its id, and when each key was last served."""

    ended: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    served: dict[str, list[float]] = field(default_factory=dict)  # key -> times of whole answers
    odd: list[str] = field(default_factory=list)  # what no client should ever see

    def count(self, how: str) -> int:
        return list(self.ended.values()).count(how)


def body_of(path: str, model: str, *, stream: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Say something of the weather."}]
    usual: dict[str, Any] = {"model": model, "stream": stream}
    if path == "/v1/responses":
        return {**usual, "input": "Say something of the weather."}
    if path == "/v1/completions":
        return {**usual, "prompt": "The weather"}
    if path == EMBEDDINGS:
        return {"model": model, "input": ["a", "b"]}
    return {**usual, "messages": messages, "max_tokens": 64}


async def client(session: aiohttp.ClientSession, key: str, seen: Seen, until: float) -> None:
    """One after the other, with pauses."""
    rng = random.Random()
    await asyncio.sleep(rng.uniform(0, PAUSE_SECONDS[1]))
    while time.monotonic() < until:
        name = str(uuid.uuid4())
        seen.ended[name] = LEFT
        ask = asyncio.ensure_future(_ask(session, key, name, rng, seen))
        if rng.random() < LEAVING:
            await asyncio.wait([ask], timeout=rng.expovariate(5))
            ask.cancel()
        try:
            seen.ended[name] = await ask
        except asyncio.CancelledError:
            pass
        if seen.ended[name] == WHOLE:
            seen.served.setdefault(key, []).append(time.monotonic())
        await asyncio.sleep(rng.uniform(*PAUSE_SECONDS))


def form(model: str) -> aiohttp.FormData:
    made = aiohttp.FormData()
    made.add_field("model", model)
    made.add_field("file", SOUND, filename="a.wav", content_type="audio/wav")
    return made


async def _ask(session: aiohttp.ClientSession, key: str, name: str, rng: random.Random, seen: Seen) -> str:
    path = rng.choice((*CHATS, *CHATS, EMBEDDINGS, TRANSCRIPTIONS))
    model = rng.choice(MODELS[path])
    headers = {"Authorization": f"Bearer {key}", "X-Request-Id": name}
    if path == TRANSCRIPTIONS:
        sent: dict[str, Any] = {"data": form(model)}
    else:
        sent = {"json": body_of(path, model, stream=path in CHATS and rng.random() < 0.7)}
    try:
        async with session.post(path, headers=headers, timeout=PATIENCE, **sent) as answer:
            seen.statuses[answer.status] += 1
            received = b""
            async for data in answer.content.iter_any():
                received += data
                if rng.random() < SLOW:
                    await asyncio.sleep(0.2)
    except (aiohttp.ClientError, TimeoutError) as error:
        seen.odd.append(f"{path}: {error!r}")
        return BROKEN
    if answer.status >= 400:
        if answer.status == 500 or b"error" not in received:
            seen.odd.append(f"{path}: {answer.status} {received[:200]!r}")
        return REFUSED
    if answer.content_type == "text/event-stream":
        return _ending(path, received, seen)
    json.loads(received)
    return WHOLE


def _ending(path: str, received: bytes, seen: Seen) -> str:
    """A stream ends whole, or says that it does not."""
    last = received.rstrip().rsplit(b"\n\n", 1)[-1].rpartition(b"data: ")[2]
    if last == b"[DONE]":
        return WHOLE
    try:
        event = json.loads(last)
    except ValueError:
        event = {}
    kind = event.get("type")
    if kind in ("error", "response.failed") or (kind is None and "error" in event):
        return BROKEN
    if kind in ("message_stop", "response.completed") or b'"finish_reason": "stop"' in received:
        return WHOLE
    seen.odd.append(f"{path}: a stream ended with {last[-200:]!r}")
    return BROKEN
