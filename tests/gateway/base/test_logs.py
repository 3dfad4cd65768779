import json
import logging
import re
import sys

import pytest

from gateway.base import logs
from gateway.base.config import load


@pytest.fixture(autouse=True)
def _as_before():
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    before = root.handlers, root.level, uvicorn.level
    yield
    root.handlers, root.level, uvicorn.level = before


def line(capsys, **settings):
    logs.configure(load(settings), "gateway-3")
    logging.getLogger("gateway.test").warning("it is %s", "“so”")
    return capsys.readouterr().err


def test_a_line_of_text(capsys):
    assert line(capsys).endswith(" gateway-3 WARNING gateway.test: it is “so”\n")


def test_a_line_of_json(capsys):
    logged = json.loads(line(capsys, ROUTERDASH_LOG_FORMAT="json"))
    assert logged.pop("time").endswith("+00:00")
    assert logged == {"level": "warning", "process": "gateway-3", "logger": "gateway.test", "message": "it is “so”"}


def test_a_line_of_json_for_an_exception():
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    assert "ValueError: broken\nin two" in json.loads(text)["exception"]


def test_messages_below_the_level_are_not_logged(capsys):
    assert line(capsys, ROUTERDASH_LOG_LEVEL="error") == ""


@pytest.mark.parametrize(("level", "uvicorn"), [("info", logging.WARNING), ("debug", logging.NOTSET)])
def test_messages_of_uvicorn_are_logged_at_debug_level(level, uvicorn):
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    logs.configure(load({"ROUTERDASH_LOG_LEVEL": level}), "control")
    assert logging.getLogger("uvicorn.error").level == uvicorn


def test_a_bad_request_that_django_notices_is_one_line_without_a_traceback(capsys):
    logs.configure(load({}), "control")
    try:
        raise ValueError("secret path")
    except ValueError as error:
        logging.getLogger("django.security.DisallowedHost").error("Invalid HTTP_HOST header", exc_info=error)
    logged = capsys.readouterr().err
    assert logged.count("\n") == 1
    assert "control WARNING django.security.DisallowedHost: Invalid HTTP_HOST header" in logged


EVIL = "x\n2026-11-27 00:00:00,000 control INFO access.audit: FORGED"


def test_a_name_with_line_breaks_stays_on_one_line(capsys):
    logs.configure(load({}), "control")
    logging.getLogger("endpoints").info("%s: its breaker is reset", EVIL)
    logged = capsys.readouterr().err
    assert logged.count("\n") == 1
    assert "endpoints: x\\n2026-11-27 00:00:00,000 control INFO access.audit: FORGED: its breaker is reset\n" in logged


@pytest.mark.parametrize("character", [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)])
def test_no_control_character_reaches_the_log(capsys, character):
    logs.configure(load({}), "control")
    logging.getLogger("endpoints").warning("a%sb", character)
    logged = capsys.readouterr().err.removesuffix("\n")
    assert character not in logged
    assert logged.isprintable()
    assert re.search(r"a\\(x[0-9a-f]{2}|u202[89]|[nrt])b$", logged)


def test_a_traceback_keeps_its_lines_and_cannot_forge_others(capsys):
    logs.configure(load({}), "control")
    try:
        raise ValueError(EVIL + "\x1b[2J")
    except ValueError:
        logging.getLogger("endpoints").exception("failed")
    first, *others = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert first.endswith(" control ERROR endpoints: failed")
    assert others[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in others)
    assert others[-1].endswith("FORGED\\x1b[2J")
