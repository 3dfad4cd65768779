"""A short run of the evading clients, and what it rests on: the forms, the servers' readings, the judge."""

import json
import subprocess
import sys

import pytest

from benchmarks.process import ROOT
from tests.torture.evade.forms import (
    BUDGET,
    CHAT,
    COMPLETIONS,
    CONTEXT,
    FIRST,
    FORMS,
    GO,
    LLAMACPP,
    VLLM,
    Form,
    all_forms,
)
from tests.torture.evade.judge import Row, judge
from tests.torture.evade.reading import BadBody, read
from tests.torture.evade.server import Served

SEED = "5"


def test_a_short_run() -> None:
    """Two requests of each form, in a process of its own."""
    command = [sys.executable, "-m", "tests.torture", "limits", "--evade", "--requests", "400", "--seed", SEED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 forms" in done.stdout


def test_the_forms_differ() -> None:
    forms = all_forms()
    assert (
        len(forms)
        == len({form.name for form in forms})
        == len({(form.path, form.body, form.cut, form.then) for form in forms})
        == FORMS
    )


TWICE = '{"model":"vllm-small","max_tokens":5,"max_tokens":700}'


@pytest.mark.parametrize(
    ("body", "reader", "path", "output"),
    [
        ('{"model":"m","max_tokens":5,"max_completion_tokens":700}', VLLM, CHAT, 700),
        ('{"model":"m","max_tokens":5,"n_predict":700}', VLLM, CHAT, 5),
        ('{"model":"m","max_tokens":5,"n_predict":700}', LLAMACPP, CHAT, 700),
        ('{"model":"m","max_tokens":5,"n":"3"}', VLLM, CHAT, 15),
        ('{"model":"m","max_tokens":5,"n":2,"best_of":4.0,"prompt":["a","b"]}', VLLM, COMPLETIONS, 40),
        ('{"model":"m","max_tokens":5,"prompt":[1,2]}', VLLM, COMPLETIONS, 5),
        (TWICE, VLLM, CHAT, 700),
        (TWICE, FIRST, CHAT, 5),
        ('{"model":"m","max_tokens":5,"MAX_tokens":700}', GO, CHAT, 700),
        ('{"model":"m","max_tokens":5,"MAX_tokens":700}', VLLM, CHAT, 5),
        ('{"model":"m","options":{"NUM_PREDICT":700}}', GO, "/api/chat", 700),
    ],
)
def test_servers_read_bodies_in_their_ways(body: str, reader: str, path: str, output: int) -> None:
    assert read(path, body.encode(), reader).output_tokens == output


def test_a_server_refuses_what_is_no_number() -> None:
    with pytest.raises(BadBody):
        read(CHAT, b'{"model":"m","n":[]}', VLLM)


def test_models_are_those_of_the_reader() -> None:
    body = json.dumps({"model": "GO-Big:Latest"}).encode()
    assert (read(CHAT, body, GO).model, read(CHAT, body, VLLM).model) == ("go-big", "GO-Big:Latest")
    assert CONTEXT > BUDGET  # so that one response can pass the budget


FORM = Form("a form", CHAT, "{}")
OK = Row("ok", 10, 20, is_estimated=False)


def noticed(served: list[Served], rows: list[Row], form: Form = FORM) -> list[str]:
    return judge([form], {"0-0": 0}, {"0-0": served} if served else {}, {"0-0": rows} if rows else {}).wrong


@pytest.mark.parametrize(
    ("served", "rows", "words"),
    [
        ([Served("vllm-small", 10, 20)], [OK], ""),
        ([], [], ""),
        ([Served("vllm-small", 10, 20)], [], "without a record"),
        ([Served("vllm-small", 10, 21)], [OK], "10 + 20 were counted (ok)"),
        ([Served("vllm-big", 10, 20)], [OK], "forbidden"),
        ([Served("vllm-small", 10, BUDGET)], [Row("ok", 10, BUDGET, is_estimated=False)], f"of {BUDGET}"),
        ([Served("vllm-small", 10, 20)], [Row("cancelled", 12, 3, is_estimated=True)], ""),
        ([Served("vllm-small", 10, 20)], [Row("cancelled", None, 3, is_estimated=True)], "prompt"),
        ([Served("vllm-small", 10, 20)], [Row("ok", 12, 20, is_estimated=True)], "not asked"),
        ([Served("vllm-small", 10, 90)], [Row("cancelled", 12, 3, is_estimated=True)], "a cut stream used 90"),
    ],
)
def test_the_judge_notices(served: list[Served], rows: list[Row], words: str) -> None:
    wrong = noticed(served, rows)
    assert (len(wrong) > 0) is bool(words), wrong
    assert words in "".join(wrong)


def test_background_is_compared_in_total() -> None:
    form = Form("background", CHAT, "{}", has_budget=False)
    assert not noticed([Served("vllm-small", 10, 20)], [Row("ok", None, None, is_estimated=False), OK], form)
    assert "60 were counted" in noticed([Served("vllm-small", 10, 20)], [OK, OK], form)[0]
