"""The parts of uvicorn that RouterDash uses, without its command line, which takes more than 1 MiB in each process."""

import sys
from importlib import import_module
from types import ModuleType


def _import_without_command_line() -> None:
    """Import the package, which imports its command line, with an empty module in place of that."""
    if "uvicorn" in sys.modules:
        return
    command_line = ModuleType("uvicorn.main")
    command_line.__dict__.update(Server=None, main=None, run=None)  # what the package takes from it
    sys.modules[command_line.__name__] = command_line
    import_module("uvicorn")
    del sys.modules[command_line.__name__]


_import_without_command_line()

from uvicorn.config import Config  # noqa: E402  # these imports must follow
from uvicorn.protocols.http.httptools_impl import STATUS_LINE  # noqa: E402
from uvicorn.protocols.utils import get_remote_addr  # noqa: E402
from uvicorn.server import Server, ServerState  # noqa: E402

__all__ = ["STATUS_LINE", "Config", "Server", "ServerState", "get_remote_addr"]
