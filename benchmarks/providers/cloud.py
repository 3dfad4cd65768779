"""A simulated cloud: one provider's dialect on one port of 127.0.0.1."""

import asyncio
import json
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from aiohttp import web

from benchmarks.providers.behaviour import CAUSES, DIRECTIVE, USAGES, CloudBehaviour
from benchmarks.providers.dialect import CloudRefusal, Dialect, Problem, Route
from benchmarks.providers.generation import Generation, generate
from benchmarks.providers.quota import Quota
from benchmarks.providers.tokens import Json
from benchmarks.responses import Event
from benchmarks.simulator import COMMENT_SECONDS, FAULTS, HOURS, REMEMBERED, Endpoint, Simulator

PERIOD = 60.0  # seconds of a limit
COOKIE = "simulated-cookie-that-goes-nowhere"
IN_200 = "error_in_200"
UNSTORED = ("models", "model", "stored")
MODEL = web.RequestKey("model", str)
HEADERS = web.RequestKey("headers", dict[str, str])  # of its response
WAIT = web.RequestKey("wait", float)  # seconds until a limit has room


class Cloud(Endpoint):
    """One simulated cloud. `dialect.base` is the path of its base address, `key` the key that it accepts."""

    behaviour: CloudBehaviour

    def __init__(self, simulator: Simulator, dialect: Dialect, port: int) -> None:
        models = list(dialect.models)
        super().__init__(simulator, CloudBehaviour(models=models, api_key=dialect.key, page=dialect.page), port)
        self.dialect = dialect
        self.quota = Quota()
        self.clock = time.time  # of limits; tests replace it
        self.tally: list[Generation] = []  # complete and broken responses, in their order
        self._served: dict[str, int] = {}  # requests by model, for directives
        self._responses: dict[str, Json] = {}  # by id

    @property
    def base_url(self) -> str:
        return self.url + self.dialect.base

    @property
    def key(self) -> str:
        return self.behaviour.api_key

    def faults(self) -> tuple[str, ...]:
        return (*FAULTS, *CAUSES, *self.dialect.problems, IN_200)

    async def change(self, **changes: Any) -> None:
        if changes.get("usage", "") not in USAGES:
            raise ValueError(f"unknown usage; there are {', '.join(filter(None, USAGES))}")
        await super().change(**changes)

    # Requests

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        self._remember(request)
        if self.behaviour.redirect:
            raise web.HTTPTemporaryRedirect(self.behaviour.redirect + request.path_qs)
        response = await self._answer(request)
        encodings = request.headers.get("Accept-Encoding", "")
        if isinstance(response, web.Response) and self.behaviour.gzip and "gzip" in encodings:
            response.enable_compression(web.ContentCoding.gzip)
        return response

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update({**self.dialect.headers(), **request.get(HEADERS, {})})
        response.headers.add("Set-Cookie", f"__cf_bm={COOKIE}; Path=/; HttpOnly; Secure")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        dialect = self.dialect
        try:
            route = dialect.route(request.method, request.path, request.query)
            if cause := dialect.check_key(request.headers, self.key):
                raise CloudRefusal(cause)
            dialect.check_headers(request.headers)
            if route.kind in UNSTORED:
                return await self._look_up(request, route)
            with self._counted():
                async with self._slot():
                    return await self._run(request, route)
        except CloudRefusal as refusal:
            return self._refused(request, refusal)

    async def _look_up(self, request: web.Request, route: Route) -> web.StreamResponse:
        """Model lists and stored responses."""
        self._count(probes=route.kind == "models")
        if fault := self.behaviour.health_fault:
            if fault == "hang":
                await asyncio.sleep(HOURS)
            raise CloudRefusal(self.dialect.cause_of(fault) or "server")
        if route.kind == "models":
            names = self.behaviour.models
            page = self.behaviour.page or len(names) or 1
            return web.json_response(self.dialect.model_list(names, request.query, page))
        if route.kind == "model":
            listed = self.dialect.model_list([route.model], {}, 1)
            if route.model not in self.behaviour.models:
                raise CloudRefusal("model_unknown", route.model)
            return web.json_response((listed if isinstance(listed, list) else listed["data"])[0])
        if request.method == "DELETE" and self._responses.pop(route.model, {}):
            return web.json_response({"id": route.model, "object": "response", "deleted": True})
        if route.model not in self._responses:
            raise CloudRefusal("parameter", f"Response with id '{route.model}' not found.")
        return web.json_response(self._responses[route.model])

    async def _run(self, request: web.Request, route: Route) -> web.StreamResponse:
        body = await _read_json(request)
        self.seen.bodies = [*self.seen.bodies, body][-REMEMBERED:]
        if route.model:
            body = {**body, "model": route.model}
        request[MODEL] = str(body.get("model"))
        fault, finish = self._directive(request[MODEL])
        if not fault.isdigit() and (response := await self._fail(request, body, fault)) is not None:
            return response
        wanted = self.dialect.wanted(route.kind, body)
        if not self._has(wanted.model):
            raise CloudRefusal("model_unknown")
        self.dialect.check_body(body, request.headers)
        if cause := self.dialect.cause_of(fault):
            raise CloudRefusal(cause, "simulated")
        if fault.isdigit():
            problem = Problem(int(fault), f"simulated {fault}")
            return web.json_response(self.dialect.error(problem, problem.message, None, 0), status=problem.status)
        generation = generate(self.behaviour, wanted, body, finish)
        if route.kind != "count_tokens":
            self._take(request, generation)
        if fault == IN_200:
            problem = self.dialect.problems["overloaded"]
            return web.json_response(self.dialect.error(problem, problem.message, None, 0))
        if route.kind != "count_tokens":
            self.tally.append(generation)
        return await self._give(request, route.kind, generation, fault)

    def _has(self, model: str) -> bool:
        return model.startswith(DIRECTIVE) or model.removeprefix("models/") in self.behaviour.models

    def _directive(self, model: str) -> tuple[str, str]:
        """Return fault and finish reason, by the name of the model if it is a directive."""
        self._served[model] = self._served.get(model, 0) + 1
        if not model.startswith(DIRECTIVE):
            return self._fault(), self.behaviour.finish
        fault, _, after = model.removeprefix(DIRECTIVE).partition("-after-")
        if fault.startswith("finish-"):
            return "", fault.removeprefix("finish-")
        return (fault, "") if self._served[model] > int(after or 0) else ("", "")

    def _take(self, request: web.Request, generation: Generation) -> None:
        """Take the request's units of the limits. Raises CloudRefusal if there is no room for them."""
        dialect, now = self.dialect, self.clock()
        limits = dialect.limits(self.behaviour)
        self.quota.configure(limits, PERIOD, now)
        units = {name: count for name, count in dialect.units(generation).items() if name in self.quota.buckets}
        wait = self.quota.take(units, now)
        request[HEADERS] = dialect.quota_headers(self.quota, now)
        if wait > 0:
            request[WAIT] = wait
            raise CloudRefusal("limited")

    def _refused(self, request: web.Request, refusal: CloudRefusal) -> web.Response:
        dialect = self.dialect
        problem = dialect.problems[refusal.cause]
        seconds = math.ceil(request.get(WAIT, self.behaviour.retry_after) * 1000 - 1e-6) / 1000
        key = request.headers.get("x-api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")
        message = problem.message.format(
            model=request.get(MODEL, refusal.text),
            key=key if self.behaviour.echoes_key else "sk-…",
            seconds=f"{seconds:g}",
            text=refusal.text,
        )
        body = dialect.error(problem, message, refusal.param, seconds)
        if problem.names_time:
            request[HEADERS] = {**request.get(HEADERS, {}), **dialect.retry_headers(seconds)}
        return web.json_response(body, status=problem.status)

    # Responses

    async def _give(self, request: web.Request, kind: str, generation: Generation, fault: str) -> web.StreamResponse:
        body = generation.body
        streams = body.get("stream") is True and kind not in ("embeddings", "count_tokens")
        if kind == "responses" and body.get("store", True):
            self._responses[f"resp_{generation.id}"] = self.dialect.whole(kind, generation)
        if streams:
            return await self._stream_events(request, kind, generation, fault)
        pace = generation.count / self.behaviour.tokens_per_second if self.behaviour.tokens_per_second else 0
        await asyncio.sleep(pace)
        whole = self.dialect.whole(kind, generation)
        if self.dialect.blank and (self.behaviour.ttft or fault == "comments"):
            return await self._trickle(request, whole)
        return await self._whole(request, whole, fault)

    async def _trickle(self, request: web.Request, whole: Json) -> web.StreamResponse:
        """Send blank lines until the response is complete."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await self._keep_alive(response, self.dialect.blank)
        await response.write(json.dumps(whole).encode())
        return response

    async def _stream_events(
        self, request: web.Request, kind: str, generation: Generation, fault: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if fault == "headers_then_hang":
            await asyncio.sleep(HOURS)
        await self._keep_alive(response, self.dialect.comment)
        if fault == "empty":
            return response
        events = self.dialect.events(kind, generation)
        await self._send(
            request, response, _without_end(events) if fault == "no_done" else events, fault, _half(generation)
        )
        if fault == "error_event":
            await response.write(self.dialect.stream_error(kind, generation))
        return response

    async def _keep_alive(self, response: web.StreamResponse, text: bytes) -> None:
        """Wait for the first token; send `text` at once and again and again."""
        end = time.monotonic() + self.behaviour.ttft
        if text:
            await response.write(text)
        while (rest := end - time.monotonic()) > 0:
            await asyncio.sleep(min(rest, COMMENT_SECONDS))
            if text:
                await response.write(text)


async def _read_json(request: web.Request) -> Json:
    """Raises CloudRefusal."""
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise CloudRefusal("parameter", "We could not parse the JSON body of your request.")
    return body


def _half(generation: Generation) -> int:
    """Return after how many pieces a stream breaks."""
    return (generation.count + 1) // 2


def _without_end(events: Iterator[Event]) -> Iterator[Event]:
    """Leave the last event out."""
    with suppress(StopIteration):
        held = next(events)
        for event in events:
            yield held
            held = event
