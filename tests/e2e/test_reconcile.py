"""`reconcile` while RouterDash serves."""

import threading
import urllib.request

import pytest

from benchmarks.simulator import Simulator
from metrics.reconcile import live
from tests.metrics.reconcile import live_pages
from tests.router import PASSWORD, RouterDash, until

pytestmark = [pytest.mark.every_database, pytest.mark.timeout(180)]


def compare_pages(router: RouterDash) -> str:
    """Return the differences between pages of an administrator and the figures that `reconcile` counts."""
    _, browser = router.log_in("admin", PASSWORD)
    handlers: list[object] = vars(browser)["handlers"]
    (jar,) = (handler.cookiejar for handler in handlers if isinstance(handler, urllib.request.HTTPCookieProcessor))
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)
    code = f"from tests.metrics.reconcile import live_pages; live_pages.main({cookies!r})"
    done = router.manage("shell", "--verbosity", "0", "--command", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_figures_agree_under_traffic(router: RouterDash, sim: Simulator) -> None:
    good, bad = sim.add(models=["good"]), sim.add(models=["bad"], fault="500")
    for simulated in (good, bad):
        router.add(simulated)
    stop = threading.Event()

    def send() -> None:
        number = 0
        while not stop.is_set():
            router.chat(("good", "bad", "unknown")[number % 3], stream=number % 2 == 0)
            number += 1

    clients = [threading.Thread(target=send) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        runs = [router.manage("reconcile") for _ in range(3)]
        shown = [compare_pages(router) for _ in range(2)]
    finally:
        stop.set()
        for client in clients:
            client.join()
    for done in (*runs, router.manage("reconcile")):
        assert (done.stdout, done.stderr, done.returncode) == ("all figures agree\n", "", 0)
    assert shown == ["", ""]
    assert router.stats()["failed_requests"] > 0


def test_all_figures_agree_after_a_kill(router: RouterDash, sim: Simulator) -> None:
    kept, deleted, bad = sim.add(models=["kept"]), sim.add(models=["deleted"]), sim.add(models=["bad"], fault="500")
    ids = [router.add(simulated) for simulated in (kept, deleted, bad)]
    for _ in range(10):
        for model in ("kept", "deleted", "bad", "unknown"):
            router.chat(model)
    assert router.request("DELETE", f"/api/endpoints/{ids[1]}").status == 204
    router.kill()
    done = router.manage("reconcile", "--thorough")
    assert done.stdout == "note: not running: live figures were not compared\nall figures agree\n"
    router.start()
    assert (router.manage("reconcile").stdout, router.stats()["total_requests"]) == ("all figures agree\n", 30)


def test_a_wrong_figure_is_reported_and_repaired_in_operation(router: RouterDash, sim: Simulator) -> None:
    endpoint = router.add(sim.add())
    for _ in range(3):
        router.chat()
    until(lambda: router.stats()["records_waiting"] == 0)
    router.query("UPDATE endpoints SET failed_requests = 7, total_requests = 10 WHERE id = ?", endpoint)
    done = router.manage("reconcile")
    assert done.returncode == 1
    assert f"L2: failed_requests in endpoints id={endpoint}: expected 0, found 7\n" in done.stdout
    reported = f"L5: endpoints/{endpoint}/failed_requests in GET "
    for path in live.RESPONSES:
        assert f"{reported}{path}: expected 7, found 0\n" in done.stdout
    shown = compare_pages(router)
    for path in live_pages.PAGES:
        assert f"{reported}{path}: expected 7, found 0\n" in shown
    assert router.manage("reconcile", "--repair").returncode == 1
    assert router.manage("reconcile", "--repair", "--allow-decrease").returncode == 0
    assert router.manage("reconcile").stdout == "all figures agree\n"


def test_a_running_routerdash_reads_repaired_figures(router: RouterDash, sim: Simulator) -> None:
    endpoint = router.add(sim.add())
    for _ in range(3):
        router.chat()
    until(lambda: router.stats()["records_waiting"] == 0)
    router.kill()
    router.query("UPDATE endpoints SET successful_requests = 1, total_requests = 1 WHERE id = ?", endpoint)
    router.start()
    assert router.counters(endpoint) == (1, 1, 0)
    assert router.manage("reconcile", "--repair").returncode == 0
    until(lambda: router.counters(endpoint) == (3, 3, 0))
    assert router.manage("reconcile").returncode == 0
