import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web
from django.db import connection, transaction

from access.models import MANAGE_ENDPOINTS, READ_ENDPOINTS, User
from benchmarks.process import free_port
from benchmarks.simulator import Simulator
from endpoints import probe
from endpoints.changes import triggers
from endpoints.changes.models import RegistryChange
from endpoints.health import HealthChecker
from endpoints.models import Endpoint, EndpointModel
from endpoints.probe import Probe
from endpoints.registry import Entry, registry
from tests.access.people import Api, key_for, with_key
from tests.router import until


@pytest.fixture(autouse=True)
def _clean_state(empty_caches: None) -> None:
    """Run `empty_caches` in every test of this package."""


# Rows


@pytest.fixture
def logged(db: None) -> Iterator[None]:
    """Let the triggers of the change log exist during a test, and begin with an empty log."""
    triggers.ensure()
    RegistryChange.objects.all().delete()
    yield
    if not connection.in_atomic_block:  # else they vanish with the transaction of the test
        triggers.remove()


def make_endpoint(name: str = "gpu-box", base_url: str = "", **fields: Any) -> Endpoint:
    """An endpoint at an address where no server listens, unless the test names one."""
    return Endpoint.objects.create(name=name, base_url=base_url or f"http://{name}.invalid:8000", **fields)


def make_model(endpoint: Endpoint, model_id: str = "tiny", **fields: Any) -> EndpointModel:
    model = EndpointModel(endpoint=endpoint, model_id=model_id, **fields)
    model.save(force_insert=True)
    return model


def sql(statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Read or write rows without the ORM, as llmlb does."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def rolled_back() -> Iterator[None]:
    """Run a transaction that is rolled back at its end."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def meanwhile(edit: Callable[[], Any]) -> None:
    """Edit like another process: call it in a thread with its own connection."""
    try:
        edit()
    finally:
        connection.close()


# Servers


class Server:
    """A server that sends the responses that a test gives: JSON by path, or a handler; 404 for the rest."""

    def __init__(self, responses: Mapping[str, Any], name: str) -> None:
        self.responses = dict(responses)
        self.name = name
        self.requests: list[tuple[str, str, str]] = []  # method, path as sent, Authorization
        self.url = ""
        self.runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._respond)
        self.runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.requests]

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path, request.headers.get("Authorization", "")))
        scripted = self.responses.get(request.raw_path)
        if callable(scripted):
            response: web.StreamResponse = await scripted(request)
        elif scripted is None:
            response = web.json_response({"error": "not found"}, status=404)
        elif isinstance(scripted, int):
            response = web.json_response({"error": "simulated"}, status=scripted)
        else:
            response = web.json_response(scripted)
        response.headers["Server"] = self.name
        return response


Serve = Callable[..., Server]


@pytest.fixture
def serve(simulator: Simulator) -> Iterator[Serve]:
    """Start servers of shapes that the simulator does not offer, in the simulator's loop."""
    started: list[Server] = []

    def start(responses: Mapping[str, Any], name: str = "anything") -> Server:
        server = Server(responses, name)
        simulator.run(server.start())
        started.append(server)
        return server

    yield start
    for server in started:
        simulator.run(server.stop())


async def hang(request: web.Request) -> web.StreamResponse:
    """Receive the request and never respond."""
    await asyncio.Event().wait()
    raise AssertionError


async def break_off(request: web.Request) -> web.StreamResponse:
    """Close the connection instead of a response."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def listing(*models: str, **fields: Any) -> dict[str, Any]:
    """OpenAI's list of models; `fields` go into every item."""
    return {"object": "list", "data": [{"id": model, "object": "model", **fields} for model in models]}


@pytest.fixture
def nowhere() -> str:
    """A base URL whose port is closed."""
    return f"http://127.0.0.1:{free_port()}"


def run_probe(
    function: Callable[..., Awaitable[Any]], url: str, key: str | None = None, *, timeout: float = 5.0
) -> Any:
    """Run a coroutine function with a probe of a server: `run_probe(detect, server.url)`."""

    async def run() -> Any:
        async with probe.session() as session:
            return await function(Probe(session, url, key, timeout))

    return asyncio.run(run())


# The health checker


class Running:
    """A health checker in its own thread and loop, notified of changes as in control."""

    def __init__(self) -> None:
        self.last_byte: Callable[[str], float] = lambda endpoint_id: 0.0
        self.secret: Callable[[Entry], str | None] = lambda entry: entry.plain_api_key
        self.came_up: list[tuple[str, bool]] = []
        self.checker = HealthChecker(
            registry,
            lambda entry: self.secret(entry),
            lambda endpoint_id: self.last_byte(endpoint_id),
            lambda endpoint_id, recovered: self.came_up.append((endpoint_id, recovered)),
        )
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run)

    def start(self) -> None:
        registry.all()
        registry.subscribe(lambda ids: self.call(self.checker.registry_changed, ids))
        self.thread.start()

    def stop(self) -> None:
        if self.thread.is_alive():
            self.call(self.task.cancel)
            self.thread.join()
        self.checker._threads.shutdown()  # finish storing checks before the database is emptied
        self.loop.close()  # if it never ran

    def call(self, function: Any, *arguments: Any) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(function, *arguments)

    def nudge(self, endpoint: Endpoint) -> None:
        self.call(self.checker.nudge, str(endpoint.pk))

    def watches(self, endpoint_id: str) -> bool:
        return f"health {endpoint_id}" in {task.get_name() for task in asyncio.all_tasks(self.loop)}

    def _run(self) -> None:
        self.task = self.loop.create_task(self.checker.run())
        try:
            self.loop.run_until_complete(self.task)
        except asyncio.CancelledError:
            pass
        self.loop.run_until_complete(asyncio.sleep(0))  # the endpoints' own tasks end too
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@pytest.fixture
def running(transactional_db: None) -> Iterator[Running]:
    running_checker = Running()
    yield running_checker
    running_checker.stop()


def entry_of(endpoint: Endpoint) -> Entry:
    entry = registry.get(str(endpoint.pk))
    assert entry is not None
    return entry


def wait_for(endpoint: Endpoint, status: str) -> Entry:
    until(lambda: entry_of(endpoint).status == status)
    return entry_of(endpoint)


@pytest.fixture
def manager(admin: User) -> Api:
    """A client with an API key that has all permissions for endpoints."""
    return with_key(key_for(admin, READ_ENDPOINTS, MANAGE_ENDPOINTS))
