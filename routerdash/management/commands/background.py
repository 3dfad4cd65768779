import ctypes
import logging
import os
import signal
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import Error
from django_q.cluster import Cluster

from gateway import logs
from gateway.main import watch_parent
from routerdash import schedules

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1


class Command(BaseCommand):
    help = "Internal: the background process (django-q2). `serve` starts it."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--alive", type=int, required=True, help="descriptor that closes with the supervisor")

    def handle(self, *args: Any, alive: int, **options: Any) -> None:
        logs.configure(settings.ROUTERDASH, "background")
        try:
            schedules.ensure()
        except Error as error:
            log.warning("background jobs wait for the database: %s", error)
            sys.exit(1)  # the supervisor starts us again, less and less often
        _die_with_parent()
        watch_parent(alive)
        Cluster().start()


def _die_with_parent() -> None:
    """django-q2's children outlive a killed parent and go on working; on Linux the kernel can be asked to end them."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        os.register_at_fork(after_in_child=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
