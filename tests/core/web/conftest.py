"""The whole application in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.managers.app_manager import AppManager
from tests.support.in_process import booted
from tools.local_stack import LocalStack


@pytest.fixture(scope="module")
def application(servers: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppManager]:
    with booted(servers.environ, tmp_path_factory.mktemp("application")) as manager:
        yield manager
