import asyncio
import signal
import socket
import sys
from dataclasses import replace
from typing import Any

import msgspec
import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import connection
from django.urls import get_resolver

from gateway.base import logs
from gateway.base.process import raise_descriptor_limit, watch_parent
from gateway.server import Server, server_config
from metrics.storage import seeding
from routerdash.processes import prepare
from routerdash.processes.control import Control
from routerdash.processes.data_directory import CannotStart
from routerdash.processes.supervisor import CANNOT_START
from routerdash.processes.wiring import make_services
from routerdash.web.asgi import application

GRACE_SECONDS = 2
# Threads compute figures, events and pages. A thread that waits for the interpreter lock five times waits five
# intervals, so the interval is short.
SWITCH_SECONDS = 0.001


class Command(BaseCommand):
    help = "Internal: the control process. `serve` starts it, with the secrets of the first users on standard input."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--listen", type=int, required=True, help="descriptor of the Unix socket")
        parser.add_argument("--alive", type=int, required=True, help="descriptor that closes with the supervisor")
        parser.add_argument("--prepared", type=int, help="descriptor; at the first start, prepare the database")

    def handle(self, *args: Any, listen: int, alive: int, prepared: int | None = None, **options: Any) -> None:
        first_user_settings: Any = msgspec.json.decode(sys.stdin.buffer.read(), type=dict[str, str])
        settings.ROUTERDASH = replace(settings.ROUTERDASH, **first_user_settings)
        logs.configure(settings.ROUTERDASH, "control")
        raise_descriptor_limit()
        sys.setswitchinterval(SWITCH_SECONDS)
        watch_parent(alive)
        _reuse_connections()
        if prepared is not None:
            self._prepare(prepared)
        seeding.seed_once_prepared()
        get_resolver().url_patterns  # noqa: B018  # imports all views now, while gateways start, not at the first request
        uvloop.run(_serve(socket.socket(fileno=listen)))

    def _prepare(self, prepared: int) -> None:
        """Prepare the database, and tell the supervisor, which starts the other processes then."""
        try:
            prepare.prepare_database(settings.ROUTERDASH)
        except CannotStart as error:
            self.stderr.write(f"routerdash: {error}")
            sys.exit(CANNOT_START)
        with open(prepared, "wb") as pipe:
            pipe.write(b"\n")


def _reuse_connections() -> None:
    if connection.vendor == "postgresql":
        from routerdash.postgresql.base import MAX_IDLE, idle_connections  # psycopg is not imported for SQLite

        idle_connections.limit = MAX_IDLE


async def _serve(listen: socket.socket) -> None:
    server = Server(server_config(settings.ROUTERDASH, "httptools", application, GRACE_SECONDS))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    await Control(make_services(settings.ROUTERDASH)).run(server, listen)
