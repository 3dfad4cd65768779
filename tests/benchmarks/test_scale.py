"""The parts of benchmarks/scale that compute, and one small run of it."""

import argparse
import math
import os
import socket
from collections import Counter

import pytest

from benchmarks.scale import fleet, installation
from benchmarks.scale.connections import accepting_process
from benchmarks.scale.installation import FleetSize
from benchmarks.scale.paced import Samples
from benchmarks.scale.verdicts import Verdict, over, percentile, table
from benchmarks.simulator import fails_now


def test_a_percentile_is_the_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile(values, 0.999) == 100
    assert percentile([7.0], 0.01) == 7
    assert math.isnan(percentile([], 0.5))


def test_a_value_is_over_only_above_its_bound() -> None:
    assert not over([Verdict("at the bound", 3.0, "s", 3.0), Verdict("only information", 99.0, "s")])
    assert over([Verdict("above", 3.1, "s", 3.0)])
    assert over([Verdict("not measured", math.nan, "s", 3.0)])


def test_the_table_shows_value_bound_and_verdict() -> None:
    rows = table([Verdict("start", 2.345, "s", 3), Verdict("memory", 120, "MiB", 100), Verdict("CPU", 0.5, "s")])
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()][2:] == [
        ["start", "2.35 s", "3 s", "OK"],
        ["memory", "120 MiB", "100 MiB", "over"],
        ["CPU", "0.5 s", "", ""],
    ]


def test_delays_are_compared_with_the_quiet_period() -> None:
    verdicts = fleet.delays(Samples([1.0] * 1000, []), Samples([1.0] * 500 + [21.1], ["status 500"]))
    assert [(verdict.value, verdict.ok) for verdict in verdicts] == [(1.0, True), (21.1, False), (1, False)]


def test_a_flapping_server_fails_in_two_of_three_periods() -> None:
    period = 10.0
    failing = Counter(fails_now(20_000 + port, period, 25.0) for port in range(300))
    assert 180 <= failing[True] <= 220
    assert sum(fails_now(20_000, period, float(second)) for second in range(30)) == pytest.approx(20, abs=1)


def test_only_the_first_endpoints_have_models_of_their_own() -> None:
    servers = installation.server_list(FleetSize(23, 2, 0))
    shared = Counter(server.models for server in servers)
    assert sorted(shared.values()) == [1, 1, 1, 10, 10]
    assert len({server.url for server in servers}) == 23


def test_proc_tells_which_process_accepted_a_connection() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as connection,
    ):
        assert accepting_process(connection, [os.getpid()]) is None
        accepted, _ = listening.accept()
        with accepted:
            assert accepting_process(connection, [os.getppid()]) is None
            assert accepting_process(connection, [os.getpid()]) == os.getpid()


@pytest.mark.timeout(180)
def test_a_small_fleet_is_measured() -> None:
    options: argparse.Namespace = fleet.parse(["--quick"])
    options.times, options.seconds = 1, 0.5
    verdicts = {verdict.name: verdict for verdict in fleet.run(options)}
    assert verdicts["gateway, private memory at the end"].value > 5
    assert verdicts["paced requests that failed"].value == 0
    assert verdicts["edit of an endpoint, 1 times: answered, median"].value > 0
    assert verdicts["edit of an endpoint, 1 times: longest loop iteration, largest"].value > 0
