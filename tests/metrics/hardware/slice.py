"""Rules for the pages of own hardware, their addresses, and damages that its checks must find."""

from benchmarks import filled
from metrics.hardware import laws
from tests import expected_figures as expected
from tests.displayed_figures import Place
from tests.expected_figures import Reported, Shown
from tests.metrics.world import rows
from tests.slices import SliceTests


def hardware_rates(_: Shown) -> Reported:
    return {Place(""): [0]}


def new_hardware_rate(_: Shown) -> Reported:
    """The number of a standard in a help text."""
    return {Place("Amounts"): []}


RATES = "/admin/metrics/hardwareraterow/"
SLICE_TESTS = SliceTests(
    pages={
        "hardware": [("", expected.nothing)],
        "admin:metrics_hardwareraterow_changelist": [("", hardware_rates)],
        "admin:metrics_hardwareraterow_add": [("", new_hardware_rate)],
    },
    measured={
        "own hardware": "/hardware",
        "own hardware, compared": "/hardware?cloud=openai&model=gpt-4o-mini",
    },
    measured_api={
        "API: own hardware": "/api/hardware",
        "API: rates of own hardware": "/api/hardware-rates",
        "API: rate of own hardware": f"/api/hardware-rates/{filled.PRICE_ID}",
    },
    measured_admin={
        "admin hardware rates": RATES,
        "admin hardware rate": f"{RATES}{filled.PRICE_ID}/change/",
        "admin hardware rate, its edits": f"{RATES}{filled.PRICE_ID}/history/",
        "admin hardware rate to be added": f"{RATES}add/",
        "admin hardware rate to be deleted": f"{RATES}{filled.PRICE_ID}/delete/",
    },
    damages={
        laws.hours: lambda: rows("UPDATE hardware_hours SET cost = cost + 1"),
        laws.rates: lambda: rows("UPDATE rollup_hardware_days SET seconds = seconds + 1"),
        laws.requests: lambda: rows("UPDATE rollup_hardware_days SET requests = requests + 1000000"),
    },
)
