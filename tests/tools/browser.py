"""Headless Chromium for tests of pages: a page from a file, no network, whatever it complains about kept.

Needs the system's chromium (or chrome) and the playwright package, whose own browsers are not used; tests
skip where either is absent.
"""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Opened(NamedTuple):
    """A page (playwright's ``Page``), what its console and scripts complained about, what it asked for."""

    page: Any
    complaints: list[str]
    requests: list[str]


def executable() -> str:
    """The path of the system's Chromium; skips the test where there is none, or no playwright."""
    pytest.importorskip("playwright.sync_api")
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    path = next(filter(None, found), None)
    if path is None:
        pytest.skip("no chromium")
    return path


@contextmanager
def browser(profile: Path, **options: Any) -> Generator[Any]:
    """A browser context with ``profile``, a new folder, as its user data; ``options`` are playwright's."""
    path = executable()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(profile),
            executable_path=path,
            headless=True,
            args=_FLAGS,
            viewport={"width": 1280, "height": 800},
            **options,
        )
        try:
            yield context
        finally:
            context.close()


def open_file(context: Any, path: Path) -> Opened:
    """Open ``path`` as ``file://`` with everything but that one file refused."""
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda one: complaints.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    address = path.absolute().as_uri()

    def decide(route: Any) -> None:
        requests.append(route.request.url)
        if route.request.url == address:
            route.continue_()
        else:
            route.abort()

    page.route("**/*", decide)
    page.goto(address)
    return Opened(page, complaints, requests)
