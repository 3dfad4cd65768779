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

from gateway import logs
from gateway.main import Server, raise_descriptor_limit, server_config, watch_parent
from routerdash.asgi import application
from routerdash.control import Control

GRACE_SECONDS = 2
# Figures, events and pages are made in threads; one that waits for its turn five times waits five times as long.
SWITCH_SECONDS = 0.001


class Command(BaseCommand):
    help = "Internal: the control process. `serve` starts it, with the secrets of its first people on standard input."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--listen", type=int, required=True, help="descriptor of the Unix socket")
        parser.add_argument("--alive", type=int, required=True, help="descriptor that closes with the supervisor")

    def handle(self, *args: Any, listen: int, alive: int, **options: Any) -> None:
        first_people = msgspec.json.decode(sys.stdin.buffer.read(), type=dict[str, str])
        settings.ROUTERDASH = replace(
            settings.ROUTERDASH,
            admin_password=first_people["admin_password"],
            bootstrap_api_key=first_people["bootstrap_api_key"],
        )
        logs.configure(settings.ROUTERDASH, "control")
        raise_descriptor_limit()
        sys.setswitchinterval(SWITCH_SECONDS)
        watch_parent(alive)
        uvloop.run(_serve(socket.socket(fileno=listen)))


async def _serve(listen: socket.socket) -> None:
    server = Server(server_config(settings.ROUTERDASH, "httptools", application, GRACE_SECONDS))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    await Control().run(server, listen)
