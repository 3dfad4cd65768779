import ctypes
import logging
import os
import signal
import sys
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import Error, connection
from django_q.brokers import get_broker
from django_q.cluster import Cluster
from django_q.models import OrmQ
from django_q.scheduler import scheduler

from gateway.base import logs
from routerdash.processes import schedules

log = logging.getLogger(__name__)

KEPT_SECONDS = 20.0  # after the last job, as jobs often come in groups, and a start costs a second of CPU time
LOOK_SECONDS = 1.0
PR_SET_PDEATHSIG = 1


class Command(BaseCommand):
    help = "Internal: runs queued and due background jobs by django-q2, and ends. `background` starts it."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--kept", type=float, default=KEPT_SECONDS, help="seconds to stay after the last job")

    def handle(self, *args: Any, kept: float, **options: Any) -> None:
        logs.configure(settings.ROUTERDASH, "background")
        _die_with_parent()
        try:
            schedules.ensure()
        except Error as error:
            log.warning("background jobs wait for the database: %s", error)
            sys.exit(1)
        scheduler(get_broker())  # queues what is due; the cluster does so only after 30 s
        connection.close()  # before the cluster forks
        cluster = Cluster()
        cluster.start()
        try:
            _wait(cluster, kept)
            if cluster.is_running and not cluster.sentinel.is_alive():
                log.error("django-q2 ended unexpectedly (code %s)", cluster.sentinel.exitcode)
                sys.exit(1)
        except Error as error:
            log.warning("background jobs wait for the database: %s", error)
            sys.exit(1)
        finally:
            cluster.stop()


def _wait(cluster: Cluster, kept: float) -> None:
    """Wait until there has been no job for `kept` seconds, or a signal has stopped the cluster. Raises Error."""
    last = time.monotonic()
    while cluster.sentinel.is_alive():
        if OrmQ.objects.exists():  # a job stays in the table until its result is stored
            last = time.monotonic()
        elif time.monotonic() - last >= kept:
            return
        time.sleep(LOOK_SECONDS)


def _die_with_parent() -> None:
    """Have the Linux kernel kill this process with the background process, and django-q2's children with this one.

    Otherwise they would outlive a killed parent and continue to work.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        parent = os.getppid()
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent or parent == 1:  # it has ended before
            sys.exit(1)
        os.register_at_fork(after_in_child=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
