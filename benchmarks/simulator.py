"""A simulated inference server: many endpoints in one process, each with its own models, speed and faults.

In tests: `with Simulator() as simulator: endpoint = simulator.add(models=["tiny"])`, then `endpoint.url`,
`endpoint.set(fault="hang")`, `endpoint.seen`. As a program:

    python -m benchmarks.simulator --control 9700 --endpoint '{"port": 9701, "models": ["tiny"], "ttft": 0.2}'

and while it runs `curl -X PATCH 127.0.0.1:9700/9701 -d '{"fault": "500"}'`, `curl 127.0.0.1:9700`.
"""

import argparse
import asyncio
import json
import logging
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeVar

from aiohttp import BodyPartReader, web

from benchmarks import ollama_responses, responses

FAULTS = (
    "",
    "refuse",  # the port is closed
    "reset",  # accepts the connection and resets it
    "hang",  # receives the request, never responds
    "400",
    "401",
    "404",
    "408",
    "429",
    "500",
    "501",
    "502",
    "503",
    "early_400",  # responds before it has read the body
    "flap",  # every other request fails with 500, the first of them too
    "empty",  # 200 without a body, or a stream without an event
    "headers_then_hang",  # only the header block of a response; of a stream, endless comments
    "comments",  # before the first token of a stream, a comment every 0.05 s
    "mid_hang",  # hangs in the middle of the response
    "die",  # the connection breaks in the middle of the response
    "no_done",  # the stream ends without [DONE]
    "cut",  # the stream ends in the middle, with a proper end of its body
    "error_event",  # the stream reports an error and ends
    "no_usage",  # never reports usage
    "strict",  # responds 400 to stream_options
    "slow_loris",  # sends single bytes with pauses
    "not_json",  # 200 with a page of HTML
)

HOURS = 3600.0
COMMENT_SECONDS = 0.05
GOLDEN_RATIO = 0.618034  # its multiples are spread evenly over the numbers from 0 to 1
REMEMBERED = 20  # requests
STORED = 100  # responses

GENERATED: dict[str, type[responses.Generated]] = {
    "/v1/chat/completions": responses.Chat,
    "/v1/completions": responses.Completion,
    "/v1/responses": responses.Response,
    "/v1/messages": responses.Message,
    "/v1/audio/transcriptions": responses.Transcript,
    "/v1/audio/translations": responses.Transcript,
    "/api/chat": ollama_responses.OllamaChat,
    "/api/generate": ollama_responses.OllamaGeneration,
}
NEEDED = {"/v1/messages": "max_tokens", "/v1/embeddings": "input", "/v1/moderations": "input"}


@dataclass
class Behaviour:
    """Behaviour of one endpoint. Any field can be changed while it runs."""

    models: list[str] = field(default_factory=lambda: ["tiny"])
    kind: str = "openai_compatible"  # reported type: also vllm, llamacpp, ollama, lm_studio, xllm
    ttft: float = 0.0  # seconds to the first token
    tokens_per_second: float = 0.0  # 0: as fast as possible
    tokens: int = 8  # output tokens, unless the request asks for fewer
    prompt_tokens: int = 5
    cached_tokens: int | None = None  # of the prompt's; None, as for the next two: as servers without such a count do
    cache_write_tokens: int | None = None  # of the prompt's
    reasoning_tokens: int | None = None  # output beside the text
    slots: int = 0  # requests served at a time; 0: any number
    messages: bool = True  # serves Anthropic's /v1/messages
    responses: bool = True  # serves /v1/responses
    tools: bool = True  # calls the first tool that a request offers
    fault: str = ""
    fault_rate: float = 1.0
    health_fault: str = ""  # hang, 500: only for GET /v1/models
    flap_secs: float = 0.0  # of three periods of this length, GET /v1/models fails in two; 0: it never flaps
    api_key: str = ""
    response_model: str = ""  # the model name in responses; empty: the requested one


@dataclass
class Seen:
    """Requests that an endpoint received."""

    started: int = 0
    finished: int = 0
    cancelled: int = 0
    cancelled_at: float = 0.0  # time.monotonic() of the last one
    running: int = 0
    peak: int = 0
    probes: int = 0
    paths: list[str] = field(default_factory=list)  # of the last 20, as are
    bodies: list[dict[str, Any]] = field(default_factory=list)  # a file in a form is its name, type and size
    headers: list[dict[str, str]] = field(default_factory=list)


class BadRequest(Exception):
    """A request that lacks something, with a sentence for the client."""


class _Resetting(asyncio.Protocol):
    """A connection that is reset at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        _reset(transport)


class Endpoint:
    """One simulated server, on one port of 127.0.0.1."""

    def __init__(self, simulator: "Simulator", behaviour: Behaviour, port: int) -> None:
        self.simulator = simulator
        self.behaviour = behaviour
        self.port = port
        self.seen = Seen()
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self._busy = asyncio.Condition()
        self._taken = 0  # slots
        self._flaps = 0
        self._stored: dict[str, dict[str, Any]] = {}  # responses, with the request's input under `input`
        self._news = threading.Condition()  # notified when `seen` has changed

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set(self, **changes: Any) -> None:
        """Change its behaviour from any thread. Returns when the change is effective."""
        self.simulator.run(self.change(**changes))

    def wait_for(self, condition: Callable[[Seen], bool], seconds: float = 10.0) -> Seen:
        """Wait in another thread until a condition on `seen` is true. Raises TimeoutError."""
        with self._news:
            if not self._news.wait_for(lambda: condition(self.seen), seconds):
                raise TimeoutError(f"not within {seconds} s; {self.seen}")
        return self.seen

    def faults(self) -> tuple[str, ...]:
        """Return the values that `fault` may have."""
        return FAULTS

    async def change(self, **changes: Any) -> None:
        known = {item.name for item in fields(self.behaviour)}
        if unknown := changes.keys() - known:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
        if changes.get("fault", "") not in (faults := self.faults()):
            raise ValueError(f"unknown fault; there are {', '.join(filter(None, faults))}")
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
        application.router.add_route("*", "/{path:.*}", self._respond)
        application.on_response_prepare.append(self._prepare)
        self._runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        self._listening = await asyncio.get_running_loop().create_server(
            self._protocol, "127.0.0.1", self.port, reuse_address=True, backlog=1024
        )
        self.port = self._listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if (runner := self._runner) is not None and self._listening is not None:
            # Connections that were accepted already need an open server until asyncio has made their transports.
            asyncio.get_running_loop().remove_reader(self._listening.sockets[0])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self._runner = None
            self._listening.close()
            await runner.cleanup()

    def _protocol(self) -> asyncio.Protocol:
        if self.behaviour.fault == "reset":
            self._count(started=1)
            return _Resetting()
        assert self._runner is not None
        assert self._runner.server is not None
        return self._runner.server()

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers of every response."""

    # Requests

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        key = self.behaviour.api_key
        if key and request.headers.get("x-api-key") != key and request.headers.get("authorization") != f"Bearer {key}":
            return self._error(request, 401, "invalid api key")
        if request.method == "GET" and not request.path.startswith("/v1/responses/"):
            return await self._describe(request)
        try:
            with self._counted():
                async with self._slot():
                    return await self._serve(request)
        except ConnectionResetError:
            return web.Response()  # which nobody receives: the client has left

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._count(started=1, running=1)
        try:
            yield
        except (asyncio.CancelledError, ConnectionResetError):
            self.seen.cancelled_at = time.monotonic()
            self._count(cancelled=1, running=-1)
            raise
        except BaseException:
            self._count(running=-1)
            raise
        else:
            self._count(finished=1, running=-1)

    def _count(self, **changes: int) -> None:
        for name, by in changes.items():
            setattr(self.seen, name, getattr(self.seen, name) + by)
        self.seen.peak = max(self.seen.peak, self.seen.running)
        with self._news:
            self._news.notify_all()

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
        """Requests of type detection, model sync and health checks."""
        behaviour = self.behaviour
        path = "/" + request.match_info["path"]
        models = behaviour.models
        self._count(probes=path == "/v1/models")
        fault = behaviour.health_fault
        if behaviour.flap_secs and fails_now(self.port, behaviour.flap_secs, time.monotonic()):
            fault = "500"
        if fault == "hang":
            await asyncio.sleep(HOURS)
        if fault:
            return self._error(request, int(fault), "simulated")
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
        return self._error(request, 404, "not found")

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        fault = self._fault()
        self._remember(request)
        if fault == "reset":
            assert request.transport is not None
            _reset(request.transport)
            return web.Response()
        if fault == "early_400":
            return self._error(request, 400, "simulated 400")
        if request.path.startswith("/v1/responses/") and request.path != "/v1/responses/compact":
            return self._stored_response(request)
        try:
            body = await _read(request)
        except BadRequest as error:
            return self._error(request, 400, str(error))
        self.seen.bodies = [*self.seen.bodies, body][-REMEMBERED:]
        failed = await self._fail(request, body, fault)
        return failed if failed is not None else await self._infer(request, body, fault)

    def _fault(self) -> str:
        fault = self.behaviour.fault if random.random() < self.behaviour.fault_rate else ""
        if fault == "flap":
            self._flaps += 1
            return "500" if self._flaps % 2 else ""
        return fault

    def _remember(self, request: web.Request) -> None:
        self.seen.paths = [*self.seen.paths, request.path_qs][-REMEMBERED:]
        self.seen.headers = [*self.seen.headers, dict(request.headers)][-REMEMBERED:]

    async def _fail(self, request: web.Request, body: dict[str, Any], fault: str) -> web.Response | None:
        """Faults without a complete response."""
        if fault.isdigit():
            headers = {"Retry-After": "1"} if fault == "429" else {}
            return self._error(request, int(fault), f"simulated {fault}", headers)
        if fault == "hang":
            await asyncio.sleep(HOURS)
        if fault == "not_json":
            return web.Response(text="<html>another page</html>", content_type="text/html")
        if fault == "strict" and "stream_options" in body:
            return self._error(request, 400, "unknown field: stream_options")
        return None

    async def _infer(self, request: web.Request, body: dict[str, Any], fault: str) -> web.StreamResponse:
        behaviour, path = self.behaviour, request.path
        is_missing = path.startswith("/v1/messages") and not behaviour.messages
        if is_missing or (path.startswith("/v1/responses") and not behaviour.responses):
            return self._error(request, 404, "not found")
        if path.startswith("/api/") and behaviour.kind != "ollama":
            return self._error(request, 404, "not found")
        if behaviour.kind == "llamacpp" and not body:  # a probe of type detection
            return self._error(request, 400 if path == "/v1/chat/completions" else 501, "simulated")
        if not body.get("model"):
            return self._error(request, 400, "model is missing")
        if (needed := NEEDED.get(path)) and needed not in body:
            return self._error(request, 400, f"{needed} is missing")
        if path == "/v1/audio/speech":
            return await self._speak(request, body, fault)
        if path in GENERATED:
            return await self._generate(request, GENERATED[path](behaviour, body, fault), fault)
        response = self._other(path, body)
        if response is None:
            return self._error(request, 404, "not found")
        return await self._whole(request, response, fault)

    def _other(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        made = self.behaviour.prompt_tokens
        if path == "/api/embed":
            return ollama_responses.ollama_embeddings(body, made)
        if path == "/api/embeddings":
            return ollama_responses.ollama_vector(body)
        if path == "/v1/embeddings":
            return responses.embeddings(body, made)
        if path in ("/v1/images/generations", "/v1/images/edits", "/v1/images/variations"):
            return responses.images(body, made)
        if path == "/v1/rerank":
            return responses.rerank(body, made)
        if path == "/v1/moderations":
            return responses.moderations(body)
        if path == "/tokenize":
            return responses.tokens(body)
        if path == "/v1/messages/count_tokens":
            return {"input_tokens": made}
        if path == "/v1/responses/compact":
            return responses.Response(self.behaviour, body).compacted()
        return None

    # Responses

    async def _generate(self, request: web.Request, generated: responses.Generated, fault: str) -> web.StreamResponse:
        body = generated.body
        if isinstance(generated, responses.Response) and body.get("store", True):
            self._stored[generated.id] = generated.whole() | {"input": body.get("input")}
            if len(self._stored) > STORED:
                del self._stored[next(iter(self._stored))]
        if generated.streams:
            return await self._stream(request, generated, fault)
        if isinstance(generated, responses.Transcript) and body.get("response_format") in ("text", "srt", "vtt"):
            return web.Response(text=f"{generated.text}\n")
        pace = generated.count / self.behaviour.tokens_per_second if self.behaviour.tokens_per_second else 0
        await asyncio.sleep(pace)
        return await self._whole(request, generated.whole(), fault)

    async def _whole(self, request: web.Request, value: dict[str, Any], fault: str) -> web.StreamResponse:
        await asyncio.sleep(self.behaviour.ttft)
        text = b"" if fault == "empty" else json.dumps(value).encode()
        if fault not in ("die", "mid_hang", "headers_then_hang"):
            return web.Response(body=text, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(text))})
        await response.prepare(request)
        if fault != "headers_then_hang":
            await response.write(text[: len(text) // 2])
        if fault != "die":
            await asyncio.sleep(HOURS)
        _cut(request)
        return response

    async def _speak(self, request: web.Request, body: dict[str, Any], fault: str) -> web.StreamResponse:
        kind = body.get("response_format") or "mp3"
        response = web.StreamResponse(headers={"Content-Type": f"audio/{'mpeg' if kind == 'mp3' else kind}"})
        await response.prepare(request)
        await asyncio.sleep(self.behaviour.ttft)
        pieces = [
            (bytes([index % 256]) * 1024, True) for index in range(0 if fault == "empty" else self.behaviour.tokens)
        ]
        return await self._send(request, response, pieces, fault)

    async def _stream(self, request: web.Request, generated: responses.Generated, fault: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": generated.content_type})
        await response.prepare(request)
        if fault == "headers_then_hang":
            await _comment(response, HOURS)
        elif fault == "comments":
            await _comment(response, self.behaviour.ttft)
        else:
            await asyncio.sleep(self.behaviour.ttft)
        if fault == "empty":
            return response
        await self._send(request, response, generated.events(), fault, (generated.count + 1) // 2)
        if fault == "error_event":
            await response.write(generated.error_event())
        return response

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        events: Iterable[responses.Event],
        fault: str,
        half: int = 1,
    ) -> web.StreamResponse:
        """Send events at the configured pace. Some faults stop after `half` of the pieces."""
        breaks = fault in ("die", "cut", "error_event", "mid_hang")
        gap = 1 / self.behaviour.tokens_per_second if self.behaviour.tokens_per_second else 0
        started, sent = time.monotonic(), 0
        for event, is_piece in events:
            if breaks and sent == half:
                break
            for part in (bytes([byte]) for byte in event) if fault == "slow_loris" else (event,):
                await response.write(part)
                if fault == "slow_loris":
                    await asyncio.sleep(0.01)
            sent += is_piece
            if gap and is_piece:
                await asyncio.sleep(max(0.0, started + sent * gap - time.monotonic()))
        if fault == "mid_hang":
            await asyncio.sleep(HOURS)
        if fault == "die":
            _cut(request)
        return response

    def _stored_response(self, request: web.Request) -> web.Response:
        """GET, DELETE /v1/responses/{id}, POST …/cancel, GET …/input_items"""
        name, _, action = request.path.removeprefix("/v1/responses/").partition("/")
        stored = self._stored.get(name)
        wanted = {("GET", ""), ("DELETE", ""), ("POST", "cancel"), ("GET", "input_items")}
        if stored is None or (request.method, action) not in wanted:
            return self._error(request, 404, f"there is no response {name!r}")
        if request.method == "DELETE":
            del self._stored[name]
            return web.json_response({"id": name, "object": "response", "deleted": True})
        if action == "input_items":
            content = [{"type": "input_text", "text": str(stored["input"])}]
            item = {"type": "message", "id": f"in_{name}", "role": "user", "status": "completed", "content": content}
            ends = {"first_id": item["id"], "last_id": item["id"], "has_more": False}
            return web.json_response({"object": "list", "data": [item], **ends})
        if action == "cancel":
            stored["status"] = "cancelled"
        return web.json_response({key: value for key, value in stored.items() if key != "input"})

    def _error(
        self, request: web.Request, status: int, message: str, headers: dict[str, str] | None = None
    ) -> web.Response:
        if request.path.startswith("/api/"):
            return web.json_response({"error": message}, status=status, headers=headers)
        of_messages = request.path.startswith("/v1/messages")
        return web.json_response(
            responses.error(status, message, of_messages=of_messages), status=status, headers=headers
        )


async def _read(request: web.Request) -> dict[str, Any]:
    """Read JSON or the fields of a form. Raises BadRequest."""
    if request.content_type == "multipart/form-data":
        return await _read_form(request)
    try:
        body = await request.json()
    except ValueError as error:
        raise BadRequest(f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest("the body is no JSON object")
    return body


async def _read_form(request: web.Request) -> dict[str, Any]:
    form_fields: dict[str, Any] = {}
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise BadRequest("a form within a form")
            data = await part.read()
            if part.filename is not None:
                kind = part.headers.get("Content-Type", "")
                form_fields[str(part.name)] = {"name": part.filename, "type": kind, "size": len(data)}
            else:
                form_fields[str(part.name)] = data.decode()
    except (ValueError, AssertionError) as error:
        raise BadRequest(f"the form cannot be read: {error}") from None
    return form_fields


async def _comment(response: web.StreamResponse, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await response.write(b": still here\n\n")
        await asyncio.sleep(COMMENT_SECONDS)


def fails_now(port: int, period: float, now: float) -> bool:
    """Return True in two of three periods. Endpoints begin at other moments, spread over the three."""
    return (now / period + port * 3 * GOLDEN_RATIO) % 3 >= 1


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _reset(transport: asyncio.Transport) -> None:
    """Close the connection with RST instead of FIN."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


Opened = TypeVar("Opened", bound=Endpoint)


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
        return await self.open(Endpoint(self, Behaviour(), port), behaviour)

    async def open(self, endpoint: Opened, behaviour: dict[str, Any]) -> Opened:
        """Configure and open an endpoint of any class, and keep it."""
        await endpoint.change(**behaviour)
        self.endpoints[endpoint.port] = endpoint
        return endpoint

    async def serve_control(self, port: int) -> None:
        """GET / shows every endpoint, PATCH /{port} changes one."""

        async def show(_: web.Request) -> web.Response:
            return web.json_response(
                [
                    {"port": endpoint.port, **asdict(endpoint.behaviour), "seen": asdict(endpoint.seen)}
                    for endpoint in self.endpoints.values()
                ]
            )

        async def change(request: web.Request) -> web.Response:
            endpoint = self.endpoints.get(int(request.match_info["port"]))
            if endpoint is None:
                return web.json_response(responses.error(404, "no such endpoint", of_messages=False), status=404)
            try:
                await endpoint.change(**await request.json())
            except (ValueError, TypeError) as error:
                return web.json_response(responses.error(400, str(error), of_messages=False), status=400)
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
    parser.add_argument(
        "--endpoint", action="append", type=json.loads, default=[], help="an endpoint's behaviour, as JSON"
    )
    options = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # clients come and go
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each endpoint listens, and has connections
    try:
        asyncio.run(_run(options.control, options.endpoint or [{}]))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
