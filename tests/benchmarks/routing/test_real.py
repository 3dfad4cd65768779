"""The comparison before real servers: how they are started and slowed down, and its figures."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.routing import real
from benchmarks.routing.real import Served, row, sentence, slowed
from tests.router import until


def state_of(process: "subprocess.Popen[bytes]") -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_slowed_process_stops_again_and_again_and_goes_on_at_the_end() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with slowed(process, 3.0):
            for _ in range(3):
                until(lambda: state_of(process) == "T")
                until(lambda: state_of(process) != "T")
        until(lambda: state_of(process) != "T")
        with slowed(process, 1.0):
            assert state_of(process) != "T"
    finally:
        process.kill()
        process.wait()


def test_a_named_program_gets_the_options_of_llama_server() -> None:
    command = real._command(Path("/opt/llama-server"), Path("/models/one.gguf"), 9000, 3)
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert command[0] == "/opt/llama-server"
    assert (given["--model"], given["--port"], given["--threads"]) == ("/models/one.gguf", "9000", "3")


@pytest.mark.parametrize(("number", "value"), [(0, 1.0), (1, 4.0), (5, 4.0)])
def test_the_last_value_counts_for_further_servers(number: int, value: float) -> None:
    assert real._nth([1.0, 4.0], number) == value


def test_texts_have_so_many_words_and_are_the_same_for_a_seed() -> None:
    first, again = (sentence(random.Random(1), 30) for _ in range(2))
    assert first == again
    assert 30 <= len(first.split()) <= 33


def test_a_row_has_the_figures_of_a_balancer() -> None:
    quick, slow = Served(1.0, 1.1, 2.0, 20, 100, 80, "e0"), Served(2.0, 2.5, 6.0, 20, 100, 0, "e1")
    assert row("adaptive", [quick, quick, quick, slow]) == (
        "| adaptive | 4 | 100 | 500 | 50 | 200 | 0.60 | e0 75%, e1 25% |"
    )
