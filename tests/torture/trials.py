"""Trials of one guarantee each, with measurements: long outages, stops under load, read-your-writes, big starts."""

import http.client
import sqlite3
import statistics
import threading
import time
from contextlib import closing

from benchmarks import filled
from benchmarks.process import free_port
from benchmarks.sustained import growth, memory
from gateway.ipc.journal import Writer
from gateway.ipc.record import OK, AttemptRecord, RequestRecord, uuid7
from tests.router import RouterDash, until
from tests.torture.run import Result, started
from tests.torture.traffic import BROKEN, UNSENT

MEMORY_GROWTH = 1.05  # ratio of the last third of a run to the second


class Memory:
    """Samples the resident memory of RouterDash's processes once a second, by role, in kB."""

    def __init__(self, supervisor: int) -> None:
        self.samples: dict[str, list[int]] = {}
        self._supervisor = supervisor
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(1.0):
            for role, kilobytes in memory(self._supervisor).items():
                self.samples.setdefault(role, []).append(kilobytes)

    def check(self, result: Result, *, min_samples: int = 60) -> None:
        """Report memory. Growth is judged only from `min_samples` samples on, when a process has warmed up."""
        for role in ("gateway", "control"):
            samples = self.samples.get(role, [])
            ratio = growth(samples)
            result.measurements.append(
                f"{role}: at most {max(samples, default=0) / 1024:.0f} MiB, last third {ratio:.3f}"
            )
            if len(samples) >= min_samples and ratio > MEMORY_GROWTH:
                result.wrong.append(f"the memory of {role} grew to {ratio:.3f}")


def outage(*, seconds: float, rate: float, workers: int = 1, postgres: bool = False) -> Result:
    """A long database outage under load: no request fails, figures change, and all records are written afterwards."""
    with started("outage", workers=workers, rate=rate, postgres=postgres) as run:
        scene, sender, result = run.scene, run.sender, run.result
        supervisor = scene.router.process
        assert supervisor is not None
        sender.go()
        time.sleep(1)
        with Memory(supervisor.pid) as watched:
            with scene.away():
                end, last = time.monotonic() + seconds, -1
                while time.monotonic() < end:
                    time.sleep(min(10.0, seconds / 4))
                    stats = scene.router.stats()
                    scene.log(
                        f"{stats['records_waiting']} records wait, the oldest for {stats['oldest_waiting_secs']:.0f} s"
                    )
                    if stats["total_requests"] <= last:
                        result.wrong.append(f"the figures stand still at {last}")
                    if stats["records_waiting_secs"] is None or not stats["writer_error"]:
                        result.wrong.append("the outage is not shown")
                    last = stats["total_requests"]
                waiting = scene.router.stats()["records_waiting"]
            back = time.monotonic()
            until(lambda: scene.router.stats()["records_waiting_secs"] is None, 60, 0.1)
            result.measurements.append(
                f"{waiting} records waited, written {time.monotonic() - back:.1f} s after the return"
            )
        watched.check(result)
        run.audit()
        if bad := sender.tally.total(BROKEN, UNSENT):
            result.wrong.append(f"{bad} requests got no response")
        return run.finish()


def drain(*, rate: float = 50.0, workers: int = 2, seconds: float = 10.0) -> Result:
    """Send SIGTERM under load: accepted requests are completed, the exit code is 0, and the figures stay."""
    with started("drain", workers=workers, rate=rate) as run:
        result, router, sender = run.result, run.scene.router, run.sender
        sender.go()
        time.sleep(seconds)
        code = router.stop()
        sender.pause()
        result.measurements.append(f"exit code {code}")
        if code:
            result.wrong.append(f"the stop ended with code {code}")
        if broken := sender.tally.total(BROKEN):
            result.wrong.append(f"{broken} responses were broken")
        stored = _stored(router)
        router.start()
        stats = router.stats()
        reported = tuple(stats[f"{name}_requests"] for name in ("successful", "failed", "cancelled"))
        if reported != stored:
            result.wrong.append(f"{stored} in the database after the stop, {reported} reported after the start")
        run.audit()
        return run.finish()


def _stored(router: RouterDash) -> tuple[int, ...]:
    totals = dict(router.query("SELECT name, value FROM metric_totals"))
    return tuple(totals.get(f"requests_{name}", 0) for name in ("ok", "failed", "cancelled"))


def read_your_write(*, times: int, workers: int = 4, postgres: bool = False) -> Result:
    """Read an endpoint after each request, over a new connection: it is always counted, whichever worker serves."""
    with started("read your write", workers=workers, rate=1, postgres=postgres) as run:
        router, result = run.scene.router, run.result
        (endpoint,) = (row for row in router.overview()["endpoints"] if row["name"] == "two")
        took: list[float] = []
        start_time = time.monotonic()
        for count in range(1, times + 1):
            assert router.chat("second").status == 200
            before = time.perf_counter()
            counters = router.counters(endpoint["id"])
            took.append(time.perf_counter() - before)
            if counters != (count, count, 0):
                result.wrong.append(f"after request {count} the read says {counters}")
            if count % 1000 == 0:
                run.scene.log(f"{count} right" if not result.wrong else f"{len(result.wrong)} of {count} wrong")
        result.sent, result.seconds = times, time.monotonic() - start_time
        took.sort()
        median, late = statistics.median(took), took[int(len(took) * 0.99)]
        result.measurements.append(f"a read took {median * 1000:.1f} ms (p50), {late * 1000:.1f} ms (p99)")
        return result


# A start with a large history


def big_start(*, rows: int, backlog: int, within: float = 2.0, endpoints: int = 200, models: int = 500) -> Result:
    """Start with many endpoints and models, millions of history rows and a backlog in the journal.

    Measures the time to the first response, and checks the first figures.
    """
    with started("big start", workers=1, rate=1) as run:
        router, result, log = run.scene.router, run.result, run.scene.log
        assert router.stop() == 0
        database = router.data_dir / "routerdash.sqlite3"
        fleet = filled.fleet([free_port()], endpoints, models)
        with closing(sqlite3.connect(database)) as connection, connection:
            for table in ("prices", "currency_rates", "rollup_months", "rollup_days", "rollup_minutes"):
                connection.execute(f"DELETE FROM {table}")  # rows of the run, whose keys the fleet has
        cells = filled.fill(str(database), fleet, rows)
        log(f"{sum(cell.rows for cell in cells)} rows, {database.stat().st_size >> 20} MiB")
        with closing(sqlite3.connect(database)) as connection:
            ((there,),) = connection.execute("SELECT SUM(requests_ok) FROM rollup_days")
        router.start()
        until(
            lambda: len(router.overview()["endpoints"]) >= len(fleet), 60
        )  # and therefore the gateways' snapshot has them
        assert router.stop() == 0
        _journal(router, fleet[0].id, backlog)
        log(f"{backlog} records wait in the journal")
        start_time = time.monotonic()
        router.start(wait=False)
        until(lambda: _serves(router), 60, 0.005)
        served = time.monotonic() - start_time
        result.measurements.append(f"the first response was received {served:.2f} s after the start")
        if served > within:
            result.wrong.append(f"serving took {served:.1f} s")
        stats = router.stats()
        result.measurements.append(
            f"the first figures were reported {time.monotonic() - start_time:.2f} s after the start"
        )
        expected = there + backlog + 1
        if stats["successful_requests"] != expected:
            result.wrong.append(f"{stats['successful_requests']} reported at the first read, {expected} exist")
        until(lambda: router.stats()["records_waiting"] == 0, 120, 0.1)
        result.measurements.append(f"the backlog was written {time.monotonic() - start_time:.1f} s after the start")
        stored = _stored(router)[0]
        if stored != expected:
            result.wrong.append(f"{stored} stored, {expected} there")
        return result


def backlog(*, records: int, postgres: bool = False) -> Result:
    """A long backlog is written steadily, with constant memory, while requests are served."""
    with started("backlog", workers=1, rate=50, postgres=postgres) as run:
        router, result, log = run.scene.router, run.result, run.scene.log
        ids = {row["name"]: row["id"] for row in router.overview()["endpoints"]}
        assert router.stop() == 0
        _journal(router, ids["one"], records)
        log(f"{records} records wait in the journal")
        router.start()
        assert router.process is not None
        with Memory(router.process.pid) as watched:
            run.sender.go()
            start_time = time.monotonic()
            while (waiting := router.stats()["records_waiting"]) > 200:
                if time.monotonic() - start_time > 600:
                    result.wrong.append(f"{waiting} records still wait after ten minutes")
                    break
                log(f"{waiting} records wait")
                time.sleep(1)
            took = time.monotonic() - start_time
        run.sender.pause()
        result.measurements.append(f"{records} records written in {took:.0f} s, {records / took:.0f} a second")
        watched.check(result, min_samples=15)
        tally = run.sender.tally
        if bad := tally.total(BROKEN, UNSENT):
            result.wrong.append(f"{bad} requests got no response in the meantime")
        return run.finish()


def _journal(router: RouterDash, endpoint: str, records: int) -> None:
    """Write a gateway's journal that control has not yet read."""
    ((database_id,),) = router.query("SELECT database_id FROM installation")
    writer = Writer(router.data_dir / "journal", database_id, max_bytes=4 << 30)
    now = time.time_ns() // 1000
    for number in range(records):
        completed = now - (records - number) * 100
        duration = 20_000 + number % 9_000
        attempts = (AttemptRecord(endpoint, OK, 200, duration),)
        entry = RequestRecord(
            id=uuid7(completed * 1000),
            completed_us=completed,
            kind="chat_completions",
            model="whole",
            outcome=OK,
            status=200,
            duration_us=duration,
            attempts=attempts,
            input_tokens=5,
            output_tokens=8,
        )
        assert writer.append(entry)
    writer.close()


def _serves(router: RouterDash) -> bool:
    try:
        return router.chat("second").status == 200
    except (OSError, http.client.HTTPException):
        return False
