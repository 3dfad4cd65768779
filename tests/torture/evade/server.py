"""Simulated servers with counts of their own: which model each request reached, and what it has used."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from aiohttp import web

from benchmarks import responses
from benchmarks.simulator import GENERATED, Behaviour, Endpoint, Simulator
from tests.torture.evade.forms import CONTEXT, GO, LLAMACPP, VLLM
from tests.torture.evade.reading import BadBody, Wish, read

KINDS = {VLLM: "vllm", LLAMACPP: "llamacpp", GO: "ollama"}
SLOW_SECONDS = 0.5
_STREAM_TOKENS_A_SECOND = 400.0


@dataclass(slots=True)
class Served:
    """One request that a server has begun to work on."""

    model: str
    prompt: int
    output: int = 0
    in_background: bool = False

    @property
    def tokens(self) -> int:
        return self.prompt + self.output


class CountingEndpoint(Endpoint):
    """A server that reads bodies in one of the ways of `reading`, and counts by x-request-id."""

    def __init__(self, simulator: Simulator, reader: str, served: dict[str, list[Served]]) -> None:
        super().__init__(simulator, Behaviour(tokens_per_second=_STREAM_TOKENS_A_SECOND), 0)
        self._reader = reader
        self._served = served

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        if request.path not in GENERATED or not raw or raw == b"{}":
            return await super()._serve(request)
        try:
            wish = read(request.path, raw, self._reader)
        except BadBody as error:
            return self._error(request, 400, str(error))
        if wish.model not in self.behaviour.models:
            return self._error(request, 404, f"the model {wish.model!r} does not exist")
        if wish.fault.startswith("quote"):
            status = 400 if b"stream_options" in raw else int(wish.fault.split()[1])
            return self._error(request, status, f"cannot serve this: stream_options; {raw[:200]!r}")
        served = Served(wish.model, wish.prompt_tokens, in_background=wish.in_background)
        self._served.setdefault(request.headers.get("x-request-id", ""), []).append(served)
        if wish.fault == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        return await self._generate_for(request, wish, served)

    async def _generate_for(self, request: web.Request, wish: Wish, served: Served) -> web.StreamResponse:
        own = replace(self.behaviour, tokens=wish.output_tokens, prompt_tokens=wish.prompt_tokens)
        body = {"model": wish.model, "stream": wish.streams, "stream_options": {"include_usage": wish.wants_usage}}
        generated = GENERATED[request.path](own, body)
        if wish.in_background and isinstance(generated, responses.Response):
            served.output = generated.count
            whole = generated.whole()
            self._stored[generated.id] = whole | {"input": ""}
            begun = whole | {"status": "queued", "output": [], "usage": None}
            return web.json_response({key: value for key, value in begun.items() if key != "input"})
        if not generated.streams:
            served.output = generated.count
            return await self._whole(request, generated.whole(), wish.fault)
        response = web.StreamResponse(headers={"Content-Type": generated.content_type})
        await response.prepare(request)
        fault = wish.fault if wish.fault == "cut" else ""
        return await self._send(request, response, _counting(generated.events(), served), fault, generated.count // 2)


def _counting(events: Iterable[responses.Event], served: Served) -> Iterator[responses.Event]:
    for event, is_piece in events:
        served.output += is_piece
        yield event, is_piece


def add(simulator: Simulator, reader: str, served: dict[str, list[Served]]) -> CountingEndpoint:
    """Open a server that reads bodies in this way."""
    names = [f"{reader}-small", f"{reader}-big"]
    behaviour = {"models": names, "kind": KINDS.get(reader, "openai_compatible")}
    endpoint = simulator.run(simulator.open(CountingEndpoint(simulator, reader, served), behaviour))
    assert isinstance(endpoint, CountingEndpoint)
    assert CONTEXT == 4096, "as the simulator reports it"
    return endpoint
