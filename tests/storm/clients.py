"""Clients of all kinds. Each request has an id, under which its outcome is compared with its row of the history."""

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
LEAVING = 0.15  # share of the requests whose clients disconnect
SLOW = 0.05  # share of the responses that are read slowly
TIMEOUT = aiohttp.ClientTimeout(total=120)
PAUSE_SECONDS = (0.2, 3.0)

CHATS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
EMBEDDINGS, TRANSCRIPTIONS = "/v1/embeddings", "/v1/audio/transcriptions"
# Models that clients request by path. RouterDash guesses the capabilities of models from these names.
MODELS = {**dict.fromkeys(CHATS, ("tiny", "small")), EMBEDDINGS: ("embed-tiny",), TRANSCRIPTIONS: ("whisper-tiny",)}
SOUND = b"RIFF" + bytes(20_000)


@dataclass
class Seen:
    """Observations of the clients: the end of each request by id, and the times at which each key was served."""

    ended: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    served: dict[str, list[float]] = field(default_factory=dict)  # key -> times of whole responses
    odd: list[str] = field(default_factory=list)  # responses that no client should ever get

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
    """Send one request after the other, with pauses."""
    rng = random.Random()
    await asyncio.sleep(rng.uniform(0, PAUSE_SECONDS[1]))
    while time.monotonic() < until:
        name = str(uuid.uuid4())
        seen.ended[name] = LEFT
        request = asyncio.ensure_future(_send_request(session, key, name, rng, seen))
        if rng.random() < LEAVING:
            await asyncio.wait([request], timeout=rng.expovariate(5))
            request.cancel()
        try:
            seen.ended[name] = await request
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


async def _send_request(session: aiohttp.ClientSession, key: str, name: str, rng: random.Random, seen: Seen) -> str:
    path = rng.choice((*CHATS, *CHATS, EMBEDDINGS, TRANSCRIPTIONS))
    model = rng.choice(MODELS[path])
    headers = {"Authorization": f"Bearer {key}", "X-Request-Id": name}
    if path == TRANSCRIPTIONS:
        sent: dict[str, Any] = {"data": form(model)}
    else:
        sent = {"json": body_of(path, model, stream=path in CHATS and rng.random() < 0.7)}
    try:
        async with session.post(path, headers=headers, timeout=TIMEOUT, **sent) as response:
            seen.statuses[response.status] += 1
            received = b""
            async for data in response.content.iter_any():
                received += data
                if rng.random() < SLOW:
                    await asyncio.sleep(0.2)
    except (aiohttp.ClientError, TimeoutError) as error:
        seen.odd.append(f"{path}: {error!r}")
        return BROKEN
    if response.status >= 400:
        if response.status == 500 or b"error" not in received:
            seen.odd.append(f"{path}: {response.status} {received[:200]!r}")
        return REFUSED
    if response.content_type == "text/event-stream":
        return _ending(path, received, seen)
    json.loads(received)
    return WHOLE


def _ending(path: str, received: bytes, seen: Seen) -> str:
    """Return how a stream ended: an incomplete stream must end with an error."""
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
