"""A dependency goes away and comes back: what every one of the eleven managers says of itself, and that none has to be restarted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.managers.app_manager import AppManager
from core.managers.base import Manager
from tests.support.in_process import NAMES, booted
from tests.support.polling import eventually
from tools.local_stack import LocalStack

# Who says what while a server is away; all the others are as healthy as ever.
AWAY = {
    "openbao": {"vault": "degraded"},
    "mongod": {"database": "unhealthy"},
    "redis": {"redis": "unhealthy", "rate_limiter": "degraded", "websocket": "degraded"},
}
SECONDS = 30


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Servers of its own, to be killed."""
    folder = tmp_path_factory.mktemp("dependencies")
    with LocalStack(folder / "data", folder / "secrets", vault=True) as stack:
        yield stack


@pytest.fixture(scope="module")
def application(own_stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppManager]:
    folder: Path = tmp_path_factory.mktemp("application")
    with booted(own_stack.environ, folder) as app_manager:
        app_manager.prepare()
        yield app_manager


def states(application: AppManager) -> dict[str, str]:
    """What each manager says, asked just now."""
    return {manager.name: manager.health_check()["status"] for manager in application.managers()}


def assert_shape(manager: Manager) -> None:
    answer = manager.health_check()
    assert answer["manager"] == f"{manager.name}_manager"
    assert answer["initialized"] is True
    assert answer["status"] in ("healthy", "degraded", "unhealthy")
    assert {"last_check", "critical"} <= set(answer)


@pytest.mark.parametrize("how", ["kill", "pause"])
@pytest.mark.parametrize("name", AWAY)
def test_who_depends_on_it_says_so_and_recovers_by_itself(own_stack: LocalStack, application: AppManager, name: str, how: str) -> None:
    server = getattr(own_stack, name)
    well = dict.fromkeys(NAMES, "healthy")
    eventually(lambda: states(application) == well, SECONDS)
    (server.kill if how == "kill" else server.pause)()
    try:
        eventually(lambda: states(application) == {**well, **AWAY[name]}, SECONDS)
        for manager in application.managers():
            assert_shape(manager)
        assert application.health()["managers"].keys() == set(NAMES)
    finally:
        if how == "kill":
            server.start()
            if name == "openbao" and server.client().sys.is_sealed():
                server.unseal()
        else:
            server.resume()
    eventually(lambda: states(application) == well, SECONDS)
