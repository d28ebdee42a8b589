"""Plugins made by tests, and installed as pip would: with metadata in a folder on the path."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from core.managers.plugin_manager import PluginManager
from core.modules.base_module import BaseModule
from core.plugin_sources import find_plugins
from plugins.base_plugin import BasePlugin


class Plugin(BasePlugin):
    """Notes when it starts and ends; `start` is what comes of it, `work` what it does to the application."""

    log: ClassVar[list[str]] = []
    start: ClassVar[Any] = True
    end: ClassVar[Exception | None] = None
    work: ClassVar[Any] = None

    def initialize(self, app_manager: Any) -> bool:
        self.log.append(f"+{self.NAME}")
        if self.work is not None:
            type(self).work(app_manager)
        if isinstance(self.start, Exception):
            raise self.start
        return bool(self.start)

    def dispose(self) -> None:
        self.log.append(f"-{self.NAME}")
        if self.end is not None:
            raise self.end


class Module(BaseModule):
    """The same for a module; `state` is its health."""

    log: ClassVar[list[str]] = Plugin.log
    start: ClassVar[Any] = True
    end: ClassVar[Exception | None] = None
    state: ClassVar[Any] = "healthy"
    work: ClassVar[Any] = None

    def initialize(self, app_manager: Any) -> bool:
        self.log.append(f"+{self.NAME}")
        for needed in self.DEPENDENCIES:
            app_manager.module_manager.get_module(needed)
        if self.work is not None:
            type(self).work(app_manager)
        if isinstance(self.start, Exception):
            raise self.start
        return bool(self.start)

    def health_check(self) -> dict[str, Any]:
        if isinstance(self.state, Exception):
            raise self.state
        return {**super().health_check(), "status": self.state}

    def dispose(self) -> None:
        self.log.append(f"-{self.NAME}")
        if self.end is not None:
            raise self.end


def plugin(name: str, *needs: str, **traits: Any) -> type[Plugin]:
    return type(name, (Plugin,), {"NAME": name, "DEPENDENCIES": needs, **traits})


def module(name: str, *needs: str, **traits: Any) -> type[Module]:
    return type(name, (Module,), {"NAME": name, "DEPENDENCIES": needs, **traits})


def bring(*modules: type[Module]) -> Any:
    """The `work` of a plugin that brings these."""

    def work(app_manager: Any) -> None:
        for each in modules:
            app_manager.plugin_manager.register_module(each.NAME, each)

    return work


class Installer:
    """Installs plugins for the time of one test."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._patch = patch
        patch.syspath_prepend(str(folder))

    def install(self, key: str, target: Any, distribution: str = "") -> None:
        """A distribution whose entry point `key` leads to `target`; an exception is what its import raises."""
        name = distribution or f"{key}-dist"
        package = f"installed_{name.replace('-', '_')}"
        if isinstance(target, Exception):
            (self._folder / f"{package}.py").write_text(f"raise {type(target).__name__}({str(target)!r})\n")
        else:
            holder = ModuleType(package)
            holder.Target = target  # type: ignore[attr-defined]
            self._patch.setitem(sys.modules, package, holder)
        info = self._folder / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[credit_system.plugins]\n{key} = {package}:Target\n")

    def enable(self, app_manager: Any, *plugins: type[Plugin], enabled: tuple[str, ...] = ()) -> PluginManager:
        """Install `plugins`, and have a manager that is to start those of `enabled` (all of them by default) on `app_manager`."""
        for each in plugins:
            self.install(each.NAME, each)
        Plugin.log.clear()
        app_manager.plugins = find_plugins(enabled or tuple(each.NAME for each in plugins))
        app_manager.plugin_manager = PluginManager(app_manager)
        manager: PluginManager = app_manager.plugin_manager
        return manager
