"""A real Chromium, of Debian's package, and the page at `/` as a person uses it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from tests.support.client import PASSWORD, unique

_ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WAIT_MS = 10_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips the test where there is none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visitor:
    """Someone with the page open; `complaints`: what the browser's console got to say, policies that were broken above all."""

    page: Page
    url: str
    name: str = field(default_factory=lambda: unique("u")[:14])
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def arrive(cls, context: BrowserContext, url: str) -> Visitor:
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        visitor = cls(page, url)
        page.on("console", lambda message: visitor.complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
        page.goto(url)
        return visitor

    def register(self) -> Visitor:
        """Make an account, and wait until the page is live."""
        self.page.get_by_role("button", name="Make an account").click()
        self.field("Username").fill(self.name)
        self.field("E-mail").fill(f"{self.name}@example.com")
        self.field("Password").fill(PASSWORD)
        self.button("Make the account").click()
        self.expect_live()
        return self

    def sign_in(self, name: str, password: str = PASSWORD) -> None:
        self.field("Username or e-mail").fill(name)
        self.field("Password").fill(password)
        self.button("Sign in").click()

    def expect_live(self) -> None:
        expect(self.page.get_by_text("Live", exact=True)).to_be_visible(timeout=WAIT_MS)

    def join(self, room: str) -> None:
        self.field("Room").fill(room)
        self.button("Join").click()
        expect(self.page.get_by_role("heading", name=room)).to_be_visible(timeout=WAIT_MS)

    def talk(self, text: str) -> None:
        self.page.locator("#text").fill(text)
        self.button("Say it").click()

    def send(self, receiver: str, amount: object, memo: str = "") -> None:
        self.field("To (username)").fill(receiver)
        self.field("Amount").fill(str(amount))
        self.field("Message (optional)").fill(memo)
        self.button("Send").click()

    def field(self, label: str) -> Locator:
        return self.page.get_by_label(label, exact=True).locator("visible=true")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def expect_text(self, selector: str, text: str) -> None:
        expect(self.page.locator(selector)).to_have_text(text, timeout=WAIT_MS)

    def expect_visible(self, selector: str, text: str) -> None:
        """An element that contains `text`."""
        expect(self.page.locator(selector).filter(has_text=text).first).to_be_visible(timeout=WAIT_MS)

    def requests_during(self, work: Callable[[], Any]) -> list[str]:
        """`GET /path` of each request that the page makes while `work` runs."""
        seen: list[str] = []
        keep = lambda request: seen.append(f"{request.method} {request.url.removeprefix(self.url)}")  # noqa: E731
        self.page.on("request", keep)
        work()
        self.page.remove_listener("request", keep)
        return seen
