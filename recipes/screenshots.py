"""Take the pictures of the studio that README and docs show, from the real page of a running server.

    pip install '.[serve]' playwright      # in a clone of the repository
    python recipes/screenshots.py [--output docs/images] [--chromium /usr/bin/chromium]

Serves the bundled pair on a free port of this machine, and ends it afterwards.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]
WIDE = {"viewport": {"width": 1360, "height": 960}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
GAPS = "The [MASK*4] was built in [MASK*3] by the [MASK*6], and it is now [MASK*10]."


def main():
    """Serve, look, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    settings = parser.parse_args()
    with serving() as address, sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=settings.chromium, args=ARGUMENTS)
        for name, picture in (("wide", wide), ("dark", dark), ("phone", phone), ("frontier", frontier)):
            path = settings.output / f"studio-{name}.png"
            picture(browser, address, path)
            print(path)
        browser.close()


@contextmanager
def serving():
    """`understudy serve`, once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "understudy", "serve", "--port", str(port), "--no-access-log"])
    try:
        while server.poll() is None and not is_ready(address):
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def is_ready(address):
    """Whether the server takes requests."""
    try:
        with urllib.request.urlopen(f"{address}/ready", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def visit(browser, address, scheme, options):
    """A page of a new user, when everything on it is there."""
    page = browser.new_context(color_scheme=scheme, **options).new_page()
    page.goto(address)
    page.locator("body[data-state=ready][data-draft=read]").wait_for()
    return page


def wide(browser, address, path):
    """Two schedules side by side, half-way."""
    page = visit(browser, address, "light", WIDE)
    page.fill("#text", "The history of the city")
    page.check("#compare")  # with the costliest model alone, unless told otherwise
    page.click("#run")
    page.locator("[data-sample] > [data-key]").nth(100).wait_for()
    page.screenshot(path=path)


def dark(browser, address, path):
    """Two samples, finished, in the dark."""
    page = visit(browser, address, "dark", WIDE)
    page.fill("#num-samples", "2")
    page.select_option("#preset", label="Light first")
    page.click("#run")
    page.locator(".run[data-state=done]").wait_for()
    page.mouse.move(1300, 940)
    page.screenshot(path=path, animations="disabled")


def phone(browser, address, path):
    """Gaps that were filled, on a phone."""
    page = visit(browser, address, "light", PHONE)
    page.fill("#text", GAPS)
    page.tap("#run")
    page.locator(".run[data-state=done]").wait_for()
    page.locator("#stage").evaluate("element => element.scrollIntoView({block: 'start', behavior: 'instant'})")
    page.screenshot(path=path, animations="disabled")


def frontier(browser, address, path):
    """Cost against path KL."""
    page = visit(browser, address, "light", {"viewport": {"width": 1360, "height": 760}})
    page.click("#tab-frontier")
    page.locator(".selected .shares b").nth(4).wait_for()
    page.mouse.move(1300, 740)
    page.screenshot(path=path)


if __name__ == "__main__":
    main()
