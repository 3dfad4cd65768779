"""Log lines of every process in one format, as ROUTERDASH_LOG_LEVEL and ROUTERDASH_LOG_FORMAT define."""

import logging
import sys
from datetime import UTC, datetime

import msgspec

from gateway.base.config import Config

# Control characters (C0, DEL, C1) and the line separators of Unicode, as they appear in a line of text.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}


class TextFormatter(logging.Formatter):
    """Format of log lines: one for each record; the lines of a traceback follow, each indented.

    A text of a stranger, such as a name, can neither begin a line nor move a terminal's cursor.
    """

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        lines = [self.formatMessage(record).translate(_ESCAPES)]
        if record.exc_info:
            lines += _indented(self.formatException(record.exc_info))
        if record.stack_info:
            lines += _indented(self.formatStack(record.stack_info))
        return "\n".join(lines)


def _indented(text: str) -> list[str]:
    return [f"    {line.translate(_ESCAPES)}" for line in text.split("\n")]


class JsonFormatter(logging.Formatter):
    """Format of log lines: one JSON object for each record."""

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
    """Logging filter that limits an event to one line if strangers can cause it.

    Django's traceback of a bad request is of no use.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("django.security"):
            record.exc_info = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


class NamedProcess(logging.Filter):
    """Logging filter that names the process in each record. To rename it by `multiprocessing` takes 0.4 MiB."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def filter(self, record: logging.LogRecord) -> bool:
        record.processName = self._role
        return True


def configure(config: Config, role: str) -> None:
    """Log to standard error; `role` names the process in each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(NamedProcess(role))
    handler.addFilter(WithoutTracebacks())
    if config.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(processName)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(config.log_level.upper())
    if config.log_level != "debug":
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
