"""Chromium for tests: opens pages, listens for what a strict content policy would block, takes pictures.

``BRAMLEY_SCREENS=folder`` keeps the pictures there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from playwright.sync_api import BrowserContext, Page, sync_playwright

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    """Where Chromium is, or None on a machine without it."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Visitor:
    """A signed-in browser; ``trouble`` is whatever its console complained about."""

    context: BrowserContext
    page: Page
    base: str
    trouble: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def open(self, path: str, *, until: Literal["load", "networkidle"] = "networkidle") -> None:
        """``until``: "load" is half a second less, and enough for a page whose scripts fetch nothing."""
        self.page.goto(self.base + path, wait_until=until)

    def emulate(self, *, dark: bool) -> None:
        """What the system says that its user likes."""
        self.page.emulate_media(color_scheme="dark" if dark else "light")

    def resize(self, width: int, height: int) -> None:
        self.page.set_viewport_size({"width": width, "height": height})

    def sign_in(self, username: str, password: str) -> None:
        self.open("/admin/login/?next=/admin/")
        self.page.fill("#id_username", username)
        self.page.fill("#id_password", password)
        self.page.click("input[type=submit]")
        self.page.wait_for_load_state("networkidle")

    def theme(self, name: str) -> None:
        """``light`` or ``dark``."""
        self.page.evaluate("name => localStorage.setItem('theme', name)", name)

    def picture(self, name: str, *, whole: bool = True) -> None:
        if folder := os.environ.get("BRAMLEY_SCREENS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            safe = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
            self.page.screenshot(path=str(Path(folder) / f"{safe}.png"), full_page=whole)


@contextmanager
def visitor(base: str, *, width: int = 1360, height: int = 850, dark: bool = False) -> Iterator[Visitor]:
    """A browser window on the server at ``base``."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        context = browser.new_context(
            viewport={"width": width, "height": height},
            timezone_id="Europe/London",
            color_scheme="dark" if dark else "light",
        )
        page = context.new_page()
        seen = Visitor(context, page, base)
        page.on("console", lambda message: _note(seen, message.type, message.text))
        page.on("pageerror", lambda error: seen.trouble.append(str(error)))
        page.on("request", lambda request: _count(seen, request.url))
        try:
            yield seen
        finally:
            context.close()
            browser.close()


def _note(seen: Visitor, kind: str, text: str) -> None:
    if kind in {"error", "warning"}:
        seen.trouble.append(text)


def _count(seen: Visitor, url: str) -> None:
    if not url.startswith((seen.base, "data:", "blob:")):
        seen.foreign.append(url)
