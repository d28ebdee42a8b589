"""Modules: discovered ones and those of plugins, in dependency order, and what is said about those that cannot start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from core.managers.base import BootError
from core.managers.hooks_manager import HooksManager
from core.managers.module_manager import ModuleManager, discover
from core.modules.base_module import BaseModule
from tests.support.plugins import Module, module
from utils.green import TimeLimitReached


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module manager that discovers these modules, and has no plugins."""

    def make(*modules: type[Module]) -> ModuleManager:
        Module.log.clear()
        monkeypatch.setattr("core.managers.module_manager.discover", lambda: {m.NAME: m for m in modules})
        hooks = HooksManager(None)  # type: ignore[arg-type]
        hooks.initialize()
        plugins = SimpleNamespace(modules={}, scope_of=lambda key: None)
        app_manager: Any = SimpleNamespace(hooks_manager=hooks, plugin_manager=plugins)
        app_manager.module_manager = ModuleManager(app_manager)
        return app_manager.module_manager  # type: ignore[no-any-return]

    return make


def test_modules_start_after_what_they_need_and_end_in_reverse(make: Any) -> None:
    manager = make(module("shop", "wallet"), module("wallet", "users"), module("users"))
    assert manager.initialize() is True
    assert [running.NAME for running in manager.all_modules()] == ["users", "wallet", "shop"]
    manager.dispose()
    manager.dispose()
    assert Module.log == ["+users", "+wallet", "+shop", "-shop", "-wallet", "-users"]
    assert manager.all_modules() == []


def test_a_module_is_found_by_its_key(make: Any) -> None:
    manager = make(module("wallet"))
    manager.initialize()
    assert manager.get_module("wallet").NAME == "wallet"
    for unknown in (manager.get_module, manager.get_module_health):
        with pytest.raises(KeyError):
            unknown("nothing")


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ([module("shop", "wallet", "mail")], "^module shop: needs wallet, mail, which is not there$"),
        ([module("a", "b"), module("b", "a")], "^modules: circular dependency: "),
        ([module("a", start=False)], "^module a: did not start$"),
        ([module("a", start=RuntimeError("canary"))], "^module a: RuntimeError; server.log has the details$"),
    ],
)
def test_a_module_that_cannot_start_stops_the_boot_by_name(modules: list[type[Module]], reason: str, make: Any) -> None:
    manager = make(*modules)
    with pytest.raises(BootError, match=reason):
        manager.initialize()
    manager.dispose()
    assert not manager.initialized


def test_a_module_that_fails_half_way_is_disposed_and_so_are_those_before_it(make: Any) -> None:
    manager = make(module("first"), module("second", "first", start=RuntimeError("half-way")))
    with pytest.raises(BootError):
        manager.initialize()
    assert Module.log == ["+first", "+second", "-second"]
    manager.dispose()
    assert Module.log == ["+first", "+second", "-second", "-first"]


def test_a_module_calls_only_those_that_it_depends_on(make: Any) -> None:
    kept: list[Any] = []
    manager = make(module("users"), module("wallet"), module("shop", "wallet", work=kept.append))
    manager.initialize()
    (seen,) = kept
    assert seen.module_manager.get_module("wallet") is manager.get_module("wallet")
    with pytest.raises(LookupError, match=r"^module shop calls users, which it does not name in DEPENDENCIES$"):
        seen.module_manager.get_module("users")


def test_a_module_can_be_registered_later_with_or_without_its_start(make: Any) -> None:
    manager = make()
    manager.initialize()
    manager.register_module("one", module("one"), manager.app_manager)
    manager.register_module("two", module("two"), manager.app_manager, initialize=False)
    assert Module.log == ["+one"]
    with pytest.raises(ValueError, match="module 'one' is registered already"):
        manager.register_module("one", module("one"), manager.app_manager)


def test_who_listens_hears_of_each_start_and_end(make: Any) -> None:
    manager, heard = make(module("one"), module("two")), []
    hooks: HooksManager = manager.app_manager.hooks_manager
    hooks.register_hook("after_module_init", lambda key: heard.append(f"+{key}"))
    hooks.register_hook("before_module_dispose", lambda key: heard.append(f"-{key}"), context="two")
    manager.initialize()
    manager.dispose()
    assert heard == ["+one", "+two", "-two"]


def test_one_that_fails_to_end_does_not_stop_the_others(make: Any) -> None:
    manager = make(module("a"), module("b", end=RuntimeError("stuck")), module("c"))
    manager.initialize()
    Module.log.clear()
    manager.dispose()
    assert Module.log == ["-c", "-b", "-a"]


@pytest.mark.parametrize("state", ["healthy", "degraded", RuntimeError("canary")])
def test_each_module_is_asked_for_itself_and_the_manager_only_counts_them(state: Any, make: Any) -> None:
    manager = make(module("one", state=state), module("two"))
    manager.initialize()
    answer = manager.health_check()
    assert (answer["status"], answer["modules"]) == ("healthy", 2)
    assert "canary" not in str(manager.get_module_health("one"))
    assert manager.get_module_status()["one"]["status"] == (state if isinstance(state, str) else "unhealthy")
    assert manager.get_module_status()["two"] | {"last_check": ""} == {
        "module": "two",
        "status": "healthy",
        "last_check": "",
        "dependencies": [],
        "routes": 0,
    }


@pytest.mark.parametrize("answer", [None, {}, ["healthy"]], ids=repr)
def test_an_answer_that_is_none_is_a_broken_check(answer: Any, make: Any) -> None:
    manager = make(module("one", health_check=lambda self: answer))
    manager.initialize()
    assert manager.get_module_health("one")["status"] == "unhealthy"


def test_a_check_that_ran_out_of_time_is_told_as_such_to_who_asks(make: Any) -> None:
    manager = make(module("one", state=TimeLimitReached()))
    manager.initialize()
    with pytest.raises(TimeLimitReached):
        manager.get_module_health("one")


def test_the_modules_of_the_core_are_discovered_under_their_own_names() -> None:
    found = discover()
    assert {"wallet_module", "transactions_module"} <= set(found)
    assert all(issubclass(each, BaseModule) and key == each.NAME for key, each in found.items())
