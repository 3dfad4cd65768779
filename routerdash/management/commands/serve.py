import os
import signal
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from gateway import logs
from gateway.config import load
from routerdash import prepare
from routerdash.supervisor import Supervisor


class Command(BaseCommand):
    help = "Run RouterDash: gateways, control and background jobs, on one port. Settings come from the environment."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--workers", type=int, help="gateway processes (ROUTERDASH_WORKERS)")

    def handle(self, *args: Any, workers: int | None = None, **options: Any) -> None:
        config = settings.ROUTERDASH
        logs.configure(config, "serve")
        if os.getpid() == 1:  # of a container: the kernel keeps signals from it that it does not ask for
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        if workers is not None:
            os.environ["ROUTERDASH_WORKERS"] = str(workers)
            config = settings.ROUTERDASH = load(os.environ)
        try:
            prepare.data_directory(config)
            prepare.warn_of_lost_data(config)
            supervisor = Supervisor(config, str(settings.BASE_DIR))
            prepare.whole_database(config)
        except prepare.CannotStart as error:
            self.stderr.write(f"routerdash: {error}")
            sys.exit(2)
        code = supervisor.run()
        supervisor.close()
        sys.exit(code)
