"""The whole application in the test's own process, with its logs and its Redis to itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.managers.app_manager import AppManager
from plugins.main_plugin.modules.connection_api.connection_api import ConnectionAPI
from tests.support.in_process import booted
from tools.local_stack import LocalStack

# One of its own, as it is wiped and its commands are counted here.
_REDIS_DATABASE = 8


@pytest.fixture(scope="module")
def application(servers: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppManager]:
    environ = {**servers.environ, "REDIS_URL": f"{servers.environ['REDIS_URL'].rsplit('/', 1)[0]}/{_REDIS_DATABASE}"}
    with booted(environ, tmp_path_factory.mktemp("connection-api")) as manager:
        manager.prepare()
        yield manager


@pytest.fixture(scope="module")
def api(application: AppManager) -> ConnectionAPI:
    module: ConnectionAPI = application.module_manager.get_module("connection_api")
    return module
