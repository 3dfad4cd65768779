"""One form of log line for every process, as ROUTERDASH_LOG_LEVEL and _LOG_FORMAT say."""

import logging
import multiprocessing
import sys
from datetime import UTC, datetime

import msgspec

from gateway.config import Config


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": record.processName,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class WithoutTracebacks(logging.Filter):
    """What strangers can cause is one line each: Django tells where it noticed a bad request, which helps nobody."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("django.security"):
            record.exc_info = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def configure(config: Config, role: str) -> None:
    """Log to standard error; `role` names the process in each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(WithoutTracebacks())
    if config.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(processName)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(config.log_level.upper())
    multiprocessing.current_process().name = role
    if config.log_level != "debug":
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
