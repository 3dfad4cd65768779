"""A simulated inference server: many endpoints in one process, each with its own models, speed and faults.

In tests: `with Simulator() as simulator: endpoint = simulator.add(models=["tiny"])`, then `endpoint.url`,
`endpoint.set(fault="hang")`, `endpoint.seen`. As a program:

    python -m benchmarks.simulator --control 9700 --endpoint '{"port": 9701, "models": ["tiny"], "ttft": 0.2}'

and while it runs `curl -X PATCH 127.0.0.1:9700/9701 -d '{"fault": "500"}'`, `curl 127.0.0.1:9700`.
"""

import argparse
import asyncio
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from aiohttp import web

FAULTS = (
    "",
    "refuse",  # the port is closed
    "hang",  # takes the request, never answers
    "400",
    "401",
    "404",
    "429",
    "500",
    "501",
    "503",
    "die",  # the connection breaks in the middle of the answer
    "no_done",  # the stream ends without [DONE]
    "cut",  # the stream ends in the middle, with a proper end of its body
    "error_event",  # the stream reports an error and ends
    "no_usage",  # never tells usage
    "strict",  # answers 400 to stream_options
    "slow_loris",  # a byte now and then
    "not_json",  # 200 with a page of HTML
)

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "brew",
    "tea",
    "for",
    "kings",
]


@dataclass
class Behaviour:
    """How one endpoint acts. Change any field while it runs."""

    models: list[str] = field(default_factory=lambda: ["tiny"])
    kind: str = "openai_compatible"  # what it says it is: also vllm, llamacpp, ollama, lm_studio, xllm
    ttft: float = 0.0  # seconds to the first token
    tokens_per_second: float = 0.0  # 0: as fast as can be
    tokens: int = 8  # output tokens, unless the request asks for fewer
    prompt_tokens: int = 5
    slots: int = 0  # requests served at a time; 0: any number
    fault: str = ""
    fault_rate: float = 1.0
    health_fault: str = ""  # hang, 500: for GET /v1/models alone
    api_key: str = ""
    canonical_answer: str = ""  # the model name in answers; empty: the one asked for


@dataclass
class Seen:
    """What an endpoint has lived through."""

    started: int = 0
    finished: int = 0
    cancelled: int = 0
    running: int = 0
    peak: int = 0
    probes: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)  # the last 20
    headers: list[dict[str, str]] = field(default_factory=list)


class Endpoint:
    """One simulated server, on one port of 127.0.0.1."""

    def __init__(self, simulator: "Simulator", behaviour: Behaviour, port: int) -> None:
        self.simulator = simulator
        self.behaviour = behaviour
        self.port = port
        self.seen = Seen()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._busy = asyncio.Condition()
        self._taken = 0  # slots

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set(self, **changes: Any) -> None:
        """Change its behaviour, from any thread; returns when it is in force."""
        self.simulator.run(self.change(**changes))

    async def change(self, **changes: Any) -> None:
        known = {item.name for item in fields(Behaviour)}
        if unknown := changes.keys() - known:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
        if changes.get("fault", "") not in FAULTS:
            raise ValueError(f"unknown fault; there are {', '.join(filter(None, FAULTS))}")
        for name, value in changes.items():
            setattr(self.behaviour, name, value)
        if self.behaviour.fault == "refuse":
            await self.close()
        else:
            await self.open()

    async def open(self) -> None:
        if self._runner is not None:
            return
        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True, backlog=1024)
        await site.start()
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    # Requests

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        behaviour = self.behaviour
        if behaviour.api_key and request.headers.get("authorization") != f"Bearer {behaviour.api_key}":
            return _error(401, "invalid api key")
        if request.method == "GET":
            return await self._describe(request)
        self.seen.started += 1
        self.seen.running += 1
        self.seen.peak = max(self.seen.peak, self.seen.running)
        try:
            async with self._slot():
                response = await self._infer(request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.seen.cancelled += 1
            raise
        else:
            self.seen.finished += 1
            return response
        finally:
            self.seen.running -= 1

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        slots = self.behaviour.slots
        if not slots:
            yield
            return
        async with self._busy:
            await self._busy.wait_for(lambda: self._taken < slots)
            self._taken += 1
        try:
            yield
        finally:
            async with self._busy:
                self._taken -= 1
                self._busy.notify()

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        """What type detection, model sync and health checks ask for."""
        behaviour = self.behaviour
        path = "/" + request.match_info["path"]
        models = behaviour.models
        self.seen.probes += path == "/v1/models"
        fault = behaviour.health_fault
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault:
            return _error(int(fault), "simulated")
        if path == "/v1/models":
            owner = {"vllm": "vllm", "lm_studio": "lmstudio"}.get(behaviour.kind, "simulator")
            data = [{"id": model, "object": "model", "owned_by": owner, "max_model_len": 4096} for model in models]
            server = {"vllm": "vllm", "llamacpp": "llama.cpp"}.get(behaviour.kind, "simulator")
            return web.json_response({"object": "list", "data": data}, headers={"Server": server})
        if path == "/api/tags" and behaviour.kind == "ollama":
            return web.json_response({"models": [{"name": model, "model": model} for model in models]})
        if path == "/api/system" and behaviour.kind == "xllm":
            return web.json_response({"xllm_version": "1.0.0"})
        if path == "/api/health" and behaviour.kind == "xllm":
            return web.json_response({"status": "ok"})
        if path == "/props" and behaviour.kind == "llamacpp" and behaviour.slots:
            return web.json_response({"total_slots": behaviour.slots})
        if path == "/health":
            return web.json_response({"status": "ok"})
        return _error(404, "not found")

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        behaviour = self.behaviour
        body = await request.json()
        self.seen.bodies = [*self.seen.bodies[-19:], body]
        self.seen.headers = [*self.seen.headers[-19:], dict(request.headers)]
        fault = behaviour.fault if random.random() < behaviour.fault_rate else ""
        if fault.isdigit():
            headers = {"Retry-After": "1"} if fault == "429" else {}
            return _error(int(fault), f"simulated {fault}", headers)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "not_json":
            return web.Response(text="<html>not what you asked for</html>", content_type="text/html")
        if fault == "strict" and "stream_options" in body:
            return _error(400, "unknown field: stream_options")
        path = request.path
        if behaviour.kind == "llamacpp" and not body:  # a question what it was started for
            return _error(400 if path == "/v1/chat/completions" else 501, "simulated")
        if path == "/v1/embeddings":
            return self._embeddings(body)
        answer = _Answer(
            self, body, responses=path == "/v1/responses", chat=path == "/v1/chat/completions", fault=fault
        )
        if body.get("stream"):
            return await answer.stream(request)
        return await answer.whole(request)

    def _embeddings(self, body: dict[str, Any]) -> web.Response:
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [{"object": "embedding", "index": at, "embedding": [0.25, -0.5]} for at in range(len(texts))]
        usage = {"prompt_tokens": self.behaviour.prompt_tokens, "total_tokens": self.behaviour.prompt_tokens}
        return web.json_response({"object": "list", "model": body["model"], "data": data, "usage": usage})


class _Answer:
    """One generated text, whole or streamed, in the dialect of the path it was asked on."""

    def __init__(self, endpoint: Endpoint, body: dict[str, Any], *, responses: bool, chat: bool, fault: str) -> None:
        self.behaviour = endpoint.behaviour
        self.body = body
        self.responses = responses
        self.chat = chat
        self.fault = fault
        asked = body.get("max_tokens") or body.get("max_completion_tokens") or body.get("max_output_tokens")
        self.count = min(self.behaviour.tokens, asked or self.behaviour.tokens)
        self.words = [WORDS[at % len(WORDS)] + " " for at in range(self.count)]
        self.model = self.behaviour.canonical_answer or body.get("model", "")
        self.id = f"sim-{random.getrandbits(48):012x}"
        self.created = int(time.time())

    async def whole(self, request: web.Request) -> web.StreamResponse:
        pace = self.count / self.behaviour.tokens_per_second if self.behaviour.tokens_per_second else 0
        await asyncio.sleep(self.behaviour.ttft + pace)
        text = json.dumps(self._object())
        if self.fault == "die":
            response = web.StreamResponse(
                headers={"Content-Type": "application/json", "Content-Length": str(len(text))}
            )
            await response.prepare(request)
            await response.write(text[: len(text) // 2].encode())
            _cut(request)
            return response
        return web.Response(text=text, content_type="application/json")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await asyncio.sleep(self.behaviour.ttft)
        gap = 1 / self.behaviour.tokens_per_second if self.behaviour.tokens_per_second else 0
        begun = time.monotonic()
        for at, event in enumerate(self._events()):
            if self.fault in ("die", "cut", "error_event") and at >= (self.count + 1) // 2:
                return await self._break(request, response)
            if self.fault == "slow_loris":
                for byte in event:
                    await response.write(bytes([byte]))
                    await asyncio.sleep(0.01)
            else:
                await response.write(event)
            if gap:
                await asyncio.sleep(max(0.0, begun + (at + 1) * gap - time.monotonic()))
        return response

    async def _break(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if self.fault == "die":
            _cut(request)
        elif self.fault == "error_event":
            await response.write(b'data: {"error": {"message": "simulated error", "type": "server_error"}}\n\n')
        return response

    def _events(self) -> list[bytes]:
        return self._responses_events() if self.responses else self._chunks()

    def _chunks(self) -> list[bytes]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        base = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        chunks: list[dict[str, Any]] = [{**base, "choices": [self._piece(word)]} for word in self.words]
        chunks.append({**base, "choices": [self._piece("") | {"finish_reason": "stop"}]})
        options = self.body.get("stream_options") or {}
        if options.get("include_usage") and self.fault != "no_usage":
            chunks.append({**base, "choices": [], "usage": self._usage()})
        events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
        return events if self.fault == "no_done" else [*events, b"data: [DONE]\n\n"]

    def _piece(self, word: str) -> dict[str, Any]:
        part: dict[str, Any] = {"delta": {"content": word} if word else {}} if self.chat else {"text": word}
        return {"index": 0, "finish_reason": None, **part}

    def _responses_events(self) -> list[bytes]:
        shell = {"id": self.id, "object": "response", "created_at": self.created, "model": self.model}
        message = {"item_id": "msg", "output_index": 0, "content_index": 0}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": {**shell, "status": "in_progress", "output": []}}
        ]
        events += [{"type": "response.output_text.delta", **message, "delta": word} for word in self.words]
        events.append({"type": "response.output_text.done", **message, "text": "".join(self.words)})
        events.append({"type": "response.completed", "response": self._object()})
        return [
            b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event | {"sequence_number": at}).encode())
            for at, event in enumerate(events)
        ]

    def _object(self) -> dict[str, Any]:
        text = "".join(self.words)
        usage = {} if self.fault == "no_usage" else {"usage": self._usage()}
        if self.responses:
            content = [{"type": "output_text", "text": text, "annotations": []}]
            item = {"type": "message", "id": "msg", "role": "assistant", "status": "completed", "content": content}
            shell = {"id": self.id, "object": "response", "created_at": self.created, "model": self.model}
            return {**shell, "status": "completed", "output": [item], "parallel_tool_calls": False, "tools": [],
                    "tool_choice": "auto", "error": None, **usage}  # fmt: skip
        kind = "chat.completion" if self.chat else "text_completion"
        part: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, **part}
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": [choice],
            **usage,
        }

    def _usage(self) -> dict[str, int]:
        made, out = self.behaviour.prompt_tokens, self.count
        if self.responses:
            return {"input_tokens": made, "output_tokens": out, "total_tokens": made + out}
        return {"prompt_tokens": made, "completion_tokens": out, "total_tokens": made + out}


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    error = {"message": message, "type": "simulated", "code": status}
    return web.json_response({"error": error}, status=status, headers=headers)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


class Simulator:
    """Endpoints in a thread with its own event loop, until the `with` block ends."""

    def __init__(self) -> None:
        self.endpoints: dict[int, Endpoint] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulator", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for endpoint in self.endpoints.values():
            self.run(endpoint.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run in the simulator's loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def add(self, port: int = 0, **behaviour: Any) -> Endpoint:
        endpoint = self.run(self.start(port, behaviour))
        assert isinstance(endpoint, Endpoint)
        return endpoint

    async def start(self, port: int, behaviour: dict[str, Any]) -> Endpoint:
        endpoint = Endpoint(self, Behaviour(), port)
        await endpoint.change(**behaviour)
        self.endpoints[endpoint.port] = endpoint
        return endpoint

    async def serve_control(self, port: int) -> None:
        """GET / shows every endpoint, PATCH /{port} changes one."""

        async def show(_: web.Request) -> web.Response:
            return web.json_response(
                [{"port": it.port, **asdict(it.behaviour), "seen": asdict(it.seen)} for it in self.endpoints.values()]
            )

        async def change(request: web.Request) -> web.Response:
            endpoint = self.endpoints.get(int(request.match_info["port"]))
            if endpoint is None:
                return _error(404, "no such endpoint")
            try:
                await endpoint.change(**await request.json())
            except (ValueError, TypeError) as error:
                return _error(400, str(error))
            return web.json_response(asdict(endpoint.behaviour))

        application = web.Application()
        application.router.add_get("/", show)
        application.router.add_patch(r"/{port:\d+}", change)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()


async def _run(control: int, endpoints: list[dict[str, Any]]) -> None:
    simulator = Simulator()
    for behaviour in endpoints:
        endpoint = await simulator.start(behaviour.pop("port", 0), behaviour)
        print(f"{endpoint.url} {', '.join(endpoint.behaviour.models)}", flush=True)
    await simulator.serve_control(control)
    print(f"control: http://127.0.0.1:{control}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--control", type=int, default=9700, help="port of the control API")
    parser.add_argument("--endpoint", action="append", type=json.loads, default=[], help="a behaviour, as JSON")
    options = parser.parse_args()
    try:
        asyncio.run(_run(options.control, options.endpoint or [{}]))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
