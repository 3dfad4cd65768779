"""The laws that hold at any time, checked by SQL and journal bytes alone. Each function returns the violations."""

from collections import Counter

from gateway.base.addresses import client_of
from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from metrics.counting.cells import CELL_COLUMNS
from metrics.counting.plausibility import NO_ENDPOINT
from metrics.counting.totals import UNRECORDED
from metrics.memory.figures import Figures
from metrics.models import AdoptedHistory, RequestHistory
from tests.metrics.world import rows

ROW_OUTCOMES = (record.OK, record.REFUSED, record.FAILED, record.TRUNCATED)


def check_all() -> None:
    check_sums()
    check_daily_rows()
    check_hours()
    check_roll_ups()
    check_clients()
    check_totals()


def check_sums() -> None:
    """L1: total = successful + failed, for each endpoint and each daily row."""
    for table in ("endpoints", "endpoint_daily_stats"):
        wrong = f"SELECT count(*) FROM {table} WHERE total_requests <> successful_requests + failed_requests"
        assert rows(wrong) == [(0,)]


def check_daily_rows() -> None:
    """L2: an endpoint's counters less its baseline are the sum of its daily rows since."""
    columns = ("total", "successful", "failed")
    for column in columns:
        baseline = (
            f"(SELECT b.{column}_requests - b.daily_{column} FROM endpoint_baselines b WHERE b.endpoint_id = e.id)"
        )
        daily = f"(SELECT SUM(d.{column}_requests) FROM endpoint_daily_stats d WHERE d.endpoint_id = e.id)"
        wrong = (
            f"SELECT e.id FROM endpoints e WHERE e.{column}_requests - COALESCE({baseline}, 0) <> COALESCE({daily}, 0)"
        )
        assert rows(wrong) == []


def check_hours() -> None:
    """L3: in each hour, attempts of the roll-ups = rows of requests with a response + failed-over attempts."""
    rolled_up: Counter[int] = Counter()
    for minute, attempts in rows("SELECT minute, attempts_ok + attempts_failed FROM rollup_minutes"):
        rolled_up[minute // 60] += attempts
    attempts_in_rows: Counter[int] = Counter()
    llmlbs_minutes = AdoptedHistory.objects.values_list("minutes_since", flat=True).first() or 0
    for row in RequestHistory.objects.all():
        hour = int(row.completed_at.timestamp()) // 3600
        if row.outcome is None:  # rows of llmlb, of which only the last have minutes
            attempts_in_rows[hour] += str(row.endpoint_id) != NO_ENDPOINT and hour * 60 >= llmlbs_minutes
            continue
        made = [attempt["outcome"] for attempt in row.attempts or ()]
        responses = row.outcome != record.QUEUE  # otherwise all its attempts had failed before the client gave up
        failed_over = len(made) - responses if made else 0
        own = 1 if row.outcome in ROW_OUTCOMES and str(row.endpoint_id) != NO_ENDPOINT else 0
        attempts_in_rows[hour] += own + failed_over
    assert +rolled_up == +attempts_in_rows


def check_clients() -> None:
    """L3: the hours and days of clients contain each request of the history once."""
    sent: Counter[tuple[int, str, str]] = Counter()
    for row in RequestHistory.objects.exclude(client_ip=None):
        assert row.client_ip is not None
        outcome = row.outcome or (record.OK if row.status == "success" else record.FAILED)
        kind = {record.OK: "ok", record.CANCELLED: "cancelled"}.get(outcome, "failed")
        sent[int(row.completed_at.timestamp()) // 3600, row.client_ip, kind] += 1
    for table, span, hours in (("rollup_client_hours", "hour", 1), ("rollup_client_days", "day", 24)):
        expected: Counter[tuple[int, str, str]] = Counter()
        for (hour, client_ip, kind), count in sent.items():
            expected[hour // hours, client_ip, kind] += count
        stored: Counter[tuple[int, str, str]] = Counter()
        for kind in ("ok", "failed", "cancelled"):
            for period, client_ip, count in rows(f"SELECT {span}, client_ip, requests_{kind} FROM {table}"):
                stored[period, client_ip, kind] += count
        assert +stored == +expected
    together: dict[int, tuple[Counter[str], set[str]]] = {}
    for (hour, client_ip, kind), count in sent.items():
        counts, clients = together.setdefault(hour, (Counter(), set()))
        counts[kind] += count
        clients.add(client_of(client_ip))
    every = rows("SELECT hour, requests_ok, requests_failed, requests_cancelled, clients FROM rollup_all_clients")
    assert {hour: tuple(counts) for hour, *counts in every} == {
        hour: (counts["ok"], counts["failed"], counts["cancelled"], len(clients))
        for hour, (counts, clients) in together.items()
    }


def check_timeline(figures: Figures) -> None:
    """L4: the 60 slots are a GROUP BY over the history without cancelled requests."""
    counts: Counter[tuple[int, bool]] = Counter()
    for moment, status, outcome in RequestHistory.objects.values_list("completed_at", "status", "outcome"):
        if outcome != record.CANCELLED:
            counts[int(moment.timestamp()) // 60, status == "success"] += 1
    assert [(slot.success, slot.error) for slot in figures.timeline] == [
        (counts[slot.minute, True], counts[slot.minute, False]) for slot in figures.timeline
    ]


def check_roll_ups() -> None:
    """Minutes, days and months contain the same sums, and each month the sums of its days."""
    sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in CELL_COLUMNS)
    assert rows(f"SELECT {sums} FROM rollup_minutes") == rows(f"SELECT {sums} FROM rollup_days")
    keys = "endpoint_id, model, kind, api_key_id"
    whole = ", ".join(f"CAST(COALESCE(SUM({name}), 0) AS bigint)" for name in CELL_COLUMNS)
    of_days = f"SELECT substr(date, 1, 7), {keys}, {whole} FROM rollup_days GROUP BY substr(date, 1, 7), {keys}"
    of_months = f"SELECT month, {keys}, {', '.join(CELL_COLUMNS)} FROM rollup_months"
    assert sorted(map(str, rows(of_months))) == sorted(map(str, rows(of_days)))


def check_totals() -> None:
    """Totals equal the roll-ups, and the history if it is complete."""
    stored = dict(rows("SELECT name, value FROM metric_totals"))
    names = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")
    sums = rows(f"SELECT {', '.join(f'COALESCE(SUM({name}), 0)' for name in names)} FROM rollup_days")[0]
    assert tuple(stored.get(name, 0) for name in names) == sums


def check_against(entries: list[RequestRecord]) -> None:
    """The database contains exactly these records."""
    kept = {entry.id: entry for entry in entries if entry.outcome != record.REJECTED}
    stored = {str(row.id): row.outcome for row in RequestHistory.objects.all()}
    assert stored == {key: entry.outcome for key, entry in kept.items()}
    totals = dict(rows("SELECT name, value FROM metric_totals"))
    assert totals.get("requests_ok", 0) == sum(entry.outcome == record.OK for entry in entries)
    assert totals.get("output_tokens", 0) == sum(entry.output_tokens or 0 for entry in kept.values())
    rejected = sum(value for name, value in totals.items() if name.startswith("rejected:"))
    assert rejected == sum(entry.count for entry in entries if entry.outcome == record.REJECTED)
    assert UNRECORDED not in totals
