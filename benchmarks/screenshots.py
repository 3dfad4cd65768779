"""`make screenshots`: screenshots of the main pages, from the demo on a free port in a new data directory.

    python -m benchmarks.screenshots [--to docs/screenshots] [--seconds 20]

A page that this release does not have is left out. Needs Chromium.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import django
from django.urls import NoReverseMatch, reverse
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.demo import PASSWORD, START_SECONDS
from benchmarks.process import ROOT, free_port, stop

MAX_BYTES = 2_000_000  # of all screenshots together, since they are in the repository
HEIGHTS = {390: 844, 1440: 900}


@dataclass(frozen=True, slots=True)
class Picture:
    """`name` is that of the page in routerdash.web.urls; `width` is in pixels."""

    file: str
    name: str
    theme: str = "light"
    width: int = 1440
    language: str = "en"
    query: str = ""


PICTURES = (
    Picture("overview", "overview"),
    Picture("overview-dark", "overview", theme="dark"),
    Picture("overview-phone-ja", "overview", theme="dark", width=390, language="ja"),
    Picture("endpoint", "endpoint"),
    Picture("endpoint-phone", "endpoint", width=390),
    Picture("live", "live", theme="dark"),
    Picture("requests", "requests"),
    Picture("models", "models"),
    Picture("playground", "playground", theme="dark"),
    Picture("usage", "usage"),
    Picture("clients", "clients"),
    Picture("api", "api-docs"),
    Picture("admin", "admin:endpoints_endpoint_changelist"),
    Picture("admin-dark-ja", "admin:endpoints_endpoint_changelist", theme="dark", language="ja"),
)


@contextmanager
def demo(seconds: float) -> Iterator[str]:
    """Run a demo for some seconds, and yield its address."""
    port = free_port()
    environment = {**os.environ, "ROUTERDASH_PORT": str(port)}
    running = subprocess.Popen(  # our own program
        [sys.executable, "-m", "benchmarks.demo"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, running)
        time.sleep(seconds)
        yield url
    finally:
        stop(running, 45)


def _wait(url: str, running: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and running.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{url}/ready", timeout=5):  # noqa: S310  # our own address
            return
        time.sleep(0.2)
    raise SystemExit("the demo did not come up; its messages are above")


def _log_in(page: Page) -> str:
    """Return the id of the endpoint of the endpoint page."""
    page.goto("/login")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    link = page.locator("a[href^='/endpoints/']").first
    return str(link.get_attribute("href")).rstrip("/").rpartition("/")[2]


def _path(picture: Picture, endpoint_id: str) -> str | None:
    arguments = ((), (endpoint_id,)) if picture.name == "endpoint" else ((),)
    for given in arguments:
        with suppress(NoReverseMatch):
            return reverse(picture.name, args=given) + picture.query
    return None


def take(browser: Browser, url: str, folder: Path) -> list[Path]:
    """Take all screenshots into this folder."""
    context = browser.new_context(base_url=url, locale="en", reduced_motion="reduce")
    page = context.new_page()
    endpoint_id = _log_in(page)
    taken: list[Path] = []
    for picture in PICTURES:
        path = _path(picture, endpoint_id)
        if path is None:
            continue
        for name, value in (("routerdash_theme", picture.theme), ("routerdash_language", picture.language)):
            context.add_cookies([{"name": name, "value": value, "url": url}])
        page.set_viewport_size({"width": picture.width, "height": HEIGHTS[picture.width]})
        response = page.goto(path)
        assert response is not None
        if response.status != 200:
            raise SystemExit(f"{path} returns {response.status}")
        with suppress(Exception):  # pages without a live indicator are complete at once
            page.wait_for_selector("[data-live-sign][data-state=live]", timeout=1500)
        taken.append(folder / f"{picture.file}.png")
        page.screenshot(path=taken[-1])
    context.close()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "screenshots", help="folder for the screenshots")
    parser.add_argument("--seconds", type=float, default=20, help="time for which the demo runs before the screenshots")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("there is no Chromium on this machine")
    options.to.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "routerdash.settings")
    django.setup()  # for the paths only
    with demo(options.seconds) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        taken = take(browser, url, options.to)
        browser.close()
    size = sum(picture.stat().st_size for picture in taken)
    print(f"{len(taken)} pictures in {options.to}, {size / 1000:,.0f} kB")
    if size > MAX_BYTES:
        raise SystemExit(f"that is more than {MAX_BYTES / 1000:,.0f} kB")


if __name__ == "__main__":
    main()
