"""What holds for every one of the eleven managers, on real servers: the same suite for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from core.managers.app_manager import BOOT_ORDER
from core.managers.base import Manager
from tests.core.conftest import Factory
from tests.support.in_process import NAMES, Managers

NEEDS = {
    "rate_limiter": ("database", "redis", "jwt", "encryption"),
    "websocket": ("redis", "hooks"),
    "module": ("database", "redis", "jwt", "encryption", "rate_limiter", "hooks", "services", "websocket", "plugin"),
}


class EarlierOnly:
    """An app manager as one manager may see it while it starts: those that boot later are not there yet."""

    def __init__(self, managers: Managers, name: str) -> None:
        self._managers = managers
        self._later = {f"{later}_manager" for later in NAMES[NAMES.index(name) + 1 :]}

    def __getattr__(self, name: str) -> Any:
        assert name not in self._later, f"uses {name}, which boots later"
        return getattr(self._managers, name)


@pytest.fixture(params=BOOT_ORDER, ids=NAMES)
def managers(request: pytest.FixtureRequest, app_manager_factory: Factory) -> Iterator[Managers]:
    """The manager of the parameter (the last one started) with those it needs."""
    name = request.param.name
    started = app_manager_factory(*NEEDS.get(name, ()), name)
    yield started
    started.dispose()


@pytest.fixture
def manager(managers: Managers) -> Manager:
    return managers.started[-1]


def test_it_starts_answers_and_ends(manager: Manager) -> None:
    assert manager.initialized is True
    answer = manager.health_check()
    assert answer["manager"] == f"{manager.name}_manager"
    assert answer["status"] == "healthy"
    assert answer["initialized"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer["last_check"])
    manager.dispose()
    manager.dispose()
    answer = manager.health_check()
    assert (answer["manager"], answer["status"], answer["initialized"]) == (f"{manager.name}_manager", "unhealthy", False)
    assert {"manager", "status", "initialized", "last_check"} <= set(answer)


@pytest.mark.parametrize("manager_class", BOOT_ORDER, ids=NAMES)
def test_one_that_never_started_can_be_asked_and_disposed(manager_class: type[Manager]) -> None:
    manager = manager_class(None)  # type: ignore[arg-type]
    assert manager.initialized is False
    assert manager.health_check()["status"] == "unhealthy"
    manager.dispose()
    manager.dispose()
    assert manager.health_check()["status"] == "unhealthy"


@pytest.mark.parametrize("manager_class", BOOT_ORDER, ids=NAMES)
def test_one_whose_start_failed_can_be_disposed(manager_class: type[Manager], app_manager_factory: Factory) -> None:
    nobody = app_manager_factory()
    nobody.config = {}  # type: ignore[assignment]
    manager = manager_class(nobody)  # type: ignore[arg-type]
    try:
        manager.initialize()
    except (KeyError, AttributeError):
        assert manager.health_check()["status"] == "unhealthy"
    manager.dispose()
    assert manager.health_check()["status"] == "unhealthy"


def test_nobody_uses_during_its_start_a_manager_that_boots_later(app_manager_factory: Factory) -> None:
    managers = app_manager_factory()
    for manager_class in BOOT_ORDER:
        manager = manager_class(EarlierOnly(managers, manager_class.name))  # type: ignore[arg-type]
        setattr(managers, f"{manager.name}_manager", manager)
        managers.started.append(manager)
        assert manager.initialize() is True, manager.name
    managers.dispose()


def test_a_manager_can_start_again_after_its_end(app_manager_factory: Factory) -> None:
    managers = app_manager_factory("database", "redis", "hooks", "services")
    for manager in managers.started:
        manager.dispose()
        assert manager.initialize() is True
        assert manager.health_check()["status"] == "healthy"


def test_every_manager_has_a_name_of_its_own_and_what_may_be_away_is_not_critical() -> None:
    assert len(set(NAMES)) == 11
    # Requests go on, under a local limit, while Redis is away.
    assert [manager_class.name for manager_class in BOOT_ORDER if not manager_class.critical] == ["redis"]
