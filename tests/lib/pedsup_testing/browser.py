"""Headless Chromium for the page: Debian's, in the size of a small phone."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
    "disable-background-networking", "disable-component-update", "disable-sync",
    "disable-dev-shm-usage", "lang=en-US", "hide-scrollbars",
)  # fmt: skip


def programs() -> tuple[str, str] | None:
    """Chromium and its driver, or None where they are not installed."""
    chromium_, driver = shutil.which("chromium"), shutil.which("chromedriver")
    return None if chromium_ is None or driver is None else (chromium_, driver)


@contextmanager
def chromium(
    profile: Path, size: tuple[int, int] = (360, 740), *, ratio: float = 2, touch: bool = True
) -> Iterator[Any]:
    """A browser with a profile of its own and a screen of this size, in pixels of CSS."""
    from selenium import webdriver

    found = programs()
    assert found is not None
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for flag in (*FLAGS, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    width, height = size
    options.add_experimental_option("mobileEmulation", {
        "deviceMetrics": {"width": width, "height": height, "pixelRatio": ratio, "touch": touch,
                          "mobile": touch},
    })  # fmt: skip
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(found[1], log_output=subprocess.DEVNULL, env=dict(os.environ))
    browser = webdriver.Chrome(options=options, service=service)
    browser.set_script_timeout(20)
    try:
        yield browser
    finally:
        browser.quit()


def wait(browser: Any, condition: str, seconds: float = 20) -> None:
    """Until a JavaScript expression is true."""
    end = time.monotonic() + seconds
    while not browser.execute_script(f"return Boolean({condition})"):
        assert time.monotonic() < end, f"never: {condition}"
        time.sleep(0.05)


def resize(browser: Any, width: int, height: int) -> None:
    """Another size, as when a keyboard opens."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True},
    )
    wait(browser, f"innerHeight === {height} && innerWidth === {width}")


def colours(browser: Any, scheme: str) -> None:
    """light or dark."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )


def ask(browser: Any, text: str, *, answered: bool = True) -> None:
    """Ask, and by default wait for the answer."""
    browser.find_element("id", "question").send_keys(text)
    browser.find_element("id", "send").click()
    wait(browser, "page.busy || document.querySelector('.turn')")
    if answered:
        wait(browser, "!page.busy", 60)


def shown(browser: Any, selector: str) -> list[str]:
    """The visible texts of all elements that a selector finds."""
    script = "return [...document.querySelectorAll(arguments[0])].map((n) => n.innerText)"
    return list(browser.execute_script(script, selector))


def complaints(browser: Any) -> list[str]:
    """What the browser logged: script errors, blocked content."""
    return [entry["message"] for entry in browser.get_log("browser")]


def choose_language(browser: Any, language: str) -> None:
    """By the panel of options."""
    browser.find_element("id", "open-more").click()
    browser.find_element("id", language).click()
    browser.find_element("css selector", "#more-panel [data-close]").click()


def open_page(browser: Any, server: Any) -> None:
    """The page, ready for a question."""
    browser.get(server.url)
    wait(browser, "!document.getElementById('question').disabled")
