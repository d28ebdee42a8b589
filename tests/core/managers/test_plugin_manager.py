"""Plugins: which start, in which order, and what is said about those that cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from core.managers.base import BootError
from core.managers.plugin_manager import PluginManager
from core.web.routing import PUBLIC, Answer, Route
from plugins.base_plugin import BasePlugin
from plugins.plugin_registry import PluginRegistry


class Plugin(BasePlugin):
    """Notes when it starts and ends."""

    log: ClassVar[list[str]] = []
    start: ClassVar[Any] = True
    end: ClassVar[Exception | None] = None

    def initialize(self, app_manager: Any) -> bool:
        self.log.append(f"+{self.NAME}")
        if isinstance(self.start, Exception):
            raise self.start
        return bool(self.start)

    def dispose(self) -> None:
        self.log.append(f"-{self.NAME}")
        if self.end is not None:
            raise self.end


class AppManager:
    def __init__(self, *enabled: str) -> None:
        self.config = {"PLUGINS": enabled}


def plugin(name: str, *needs: str, **traits: Any) -> type[Plugin]:
    return type(name, (Plugin,), {"NAME": name, "DEPENDENCIES": needs, **traits})


def manager_of(*plugins: type[Plugin], enabled: tuple[str, ...] | None = None) -> PluginManager:
    Plugin.log.clear()
    app_manager = AppManager(*(enabled if enabled is not None else (p.NAME for p in plugins)))
    manager = PluginManager(app_manager)  # type: ignore[arg-type]
    manager.plugin_classes = lambda: {p.NAME: p for p in plugins}  # type: ignore[method-assign]
    return manager


def test_plugins_start_after_what_they_need_and_end_in_reverse() -> None:
    manager = manager_of(plugin("shop", "mail"), plugin("mail", "users"), plugin("users"))
    assert manager.initialize() is True
    assert manager.health_check()["plugins"] == ["mail", "shop", "users"]
    manager.dispose()
    manager.dispose()
    assert Plugin.log == ["+users", "+mail", "+shop", "-shop", "-mail", "-users"]


def test_only_what_is_enabled_starts() -> None:
    manager = manager_of(plugin("one"), plugin("two"), enabled=("two",))
    manager.initialize()
    assert Plugin.log == ["+two"]


@pytest.mark.parametrize(
    ("plugins", "enabled", "reason"),
    [
        ([plugin("one")], ("one", "tow", "three"), "PLUGINS: unknown plugin tow, three; known are one"),
        ([plugin("shop", "mail")], ("shop",), "plugins: shop needs mail, which is not there"),
        ([plugin("shop", "mail"), plugin("mail")], ("shop",), "plugins: shop needs mail, which is not there"),
        ([plugin("a", "b"), plugin("b", "a")], ("a", "b"), "plugins: circular dependency: "),
        ([plugin("a", start=False)], ("a",), "plugin a: did not start"),
    ],
)
def test_a_plugin_that_cannot_start_stops_the_boot_by_name(plugins: list[type[Plugin]], enabled: tuple[str, ...], reason: str) -> None:
    manager = manager_of(*plugins, enabled=enabled)
    with pytest.raises(BootError, match=reason):
        manager.initialize()
    assert not manager.initialized


def test_what_had_started_before_a_failure_is_disposed() -> None:
    manager = manager_of(plugin("first"), plugin("second", "first", start=False))
    with pytest.raises(BootError):
        manager.initialize()
    manager.dispose()
    assert Plugin.log[-1] == "-first"


def test_one_that_fails_to_end_does_not_stop_the_others() -> None:
    manager = manager_of(plugin("a"), plugin("b", end=RuntimeError("stuck")), plugin("c"))
    manager.initialize()
    Plugin.log.clear()
    manager.dispose()
    assert Plugin.log == ["-c", "-b", "-a"]


def test_what_plugins_bring_is_kept_for_the_later_stages(tmp_path: Path) -> None:
    manager = manager_of()
    manager.initialize()
    route = Route("GET", "/x", lambda call: Answer(), PUBLIC, "X")
    manager.register_module("one", int)
    manager.register_module("one", str)
    manager.register_routes([route])
    manager.register_template_dir(tmp_path)
    assert (manager.modules, manager.routes, manager.template_dirs) == ({"one": int}, [route], [tmp_path])


def test_the_registry_lists_plugins_by_their_own_names() -> None:
    plugins = PluginRegistry.get_plugins()
    assert "main_plugin" in plugins
    assert all(key == found.NAME and issubclass(found, BasePlugin) for key, found in plugins.items())
    assert PluginManager(AppManager()).plugin_classes() == plugins  # type: ignore[arg-type]
