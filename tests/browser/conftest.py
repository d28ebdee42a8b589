"""A browser for the file of tests, and people who use the page in windows of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.support.app_server import AppServer
from tests.support.browser import Visitor, chromium

Visit = Callable[..., Visitor]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser: Browser, server: AppServer) -> Iterator[Visit]:
    """Open the page as somebody new, with cookies and storage of their own; nobody's browser may complain of a policy."""
    visitors: list[Visitor] = []

    def open_page(url: str = server.url, **options: Any) -> Visitor:
        context = browser.new_context(**options)
        visitors.append(Visitor.arrive(context, url))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.page.context.close()
    complaints = [text for visitor in visitors for text in visitor.complaints]
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []
