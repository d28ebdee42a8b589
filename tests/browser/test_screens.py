"""What the page looks like on a phone and on a desk, by day and by night: nothing sticks out, everything can be read and touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Visit
from tests.support.browser import Visitor
from tests.support.client import Client

SIZES = {"small phone": (320, 568), "phone": (390, 844), "desk": (1280, 900)}
# WCAG 2.2: 1.4.3 for text, 2.5.8 for what is touched (24; we want more).
CONTRAST, TOUCH_PIXELS = 4.5, 40

# Of every visible piece of text: its contrast with the ground that it stands on.
FAINT = """
(wanted) => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const found = parts(getComputedStyle(e).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const says = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) || element.matches("input");
    if (!says || !element.checkVisibility()) continue;
    const [a, b] = [light(parts(getComputedStyle(element).color)), light(ground(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < wanted) faint.push(`${element.tagName} ${element.textContent.trim().slice(0, 30)}: ${contrast.toFixed(2)}`);
  }
  return faint;
}
"""
TOO_SMALL = """
(wanted) => [...document.querySelectorAll("button:not(.link), input")].filter((each) => each.checkVisibility())
  .filter((each) => each.getBoundingClientRect().height < wanted).map((each) => each.outerHTML)
"""
NAMELESS = """
() => [...document.querySelectorAll("button, input")].filter((each) => each.checkVisibility())
  .filter((each) => !(each.labels?.[0] ?? each).textContent.trim()).map((each) => each.outerHTML)
"""
STICKS_OUT = """
() => [...document.querySelectorAll("body *")].filter((each) => each.checkVisibility() && !each.matches(".skip, .visually-hidden"))
  .filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5).map((each) => each.outerHTML.slice(0, 80))
"""


def assert_fit(visitor: Visitor) -> None:
    def ask(question: str, *more: Any) -> Any:
        return visitor.page.evaluate(question, *more)

    assert ask("document.documentElement.scrollWidth <= innerWidth")
    assert ask(STICKS_OUT) == []
    assert ask(FAINT, CONTRAST) == []
    assert ask(TOO_SMALL, TOUCH_PIXELS) == []
    assert ask(NAMELESS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_fits_and_can_be_read(visit: Visit, admin: Client, bob: Client, tmp_path: Path, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    visitor = visit(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce")
    visitor.expect_visible("h2", "Sign in")
    assert_fit(visitor)
    visitor.page.screenshot(path=tmp_path / "sign-in.png", full_page=True)
    visitor.register()
    wallet = Client.login(visitor.url, visitor.name).wallet()["id"]
    admin.grant(wallet, 9_007_199_254_740_000, reason="the largest there is, so that it shows")
    visitor.expect_text("#available", "9,007,199,254,740,000")
    visitor.send(bob.user["username"], 250, "thanks for all the fish and the chips that came along with it")
    visitor.expect_text("#settled", "9,007,199,254,739,750")
    visitor.send("nobody-is-called-so", 1)
    visitor.expect_visible("#send-form .error", "There is no such destination wallet.")
    visitor.join("a-room-with-quite-a-long-name-that-nobody-would-ever-choose")
    visitor.talk("Hello. " + "A" * 60)
    visitor.expect_visible("#messages li", "Hello.")
    assert_fit(visitor)
    visitor.page.screenshot(path=tmp_path / "signed-in.png", full_page=True)
