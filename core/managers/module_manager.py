"""ModuleManager: discovers core/modules, adds what plugins bring, and starts all in dependency order."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from core import modules as modules_package
from core.disposal import dispose_in_reverse
from core.managers.base import BootError, Manager
from core.modules.base_module import BaseModule
from utils.ordering import dependency_order

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager


class ModuleManager(Manager):
    """Keeps the running modules by key."""

    name = "module"

    def initialize(self) -> bool:
        self._modules: dict[str, BaseModule] = {}
        classes: dict[str, type] = {**discover(), **self.app_manager.plugin_manager.modules}
        try:
            order = dependency_order({key: module.DEPENDENCIES for key, module in classes.items()})  # type: ignore[attr-defined]
        except ValueError as error:
            raise BootError(f"modules: {error}") from error
        for key in order:
            self.register_module(key, classes[key], self.app_manager)
        self.initialized = True
        return True

    def register_module(self, key: str, module_class: type, app_manager: AppManager, initialize: bool = True) -> BaseModule:
        """Instantiate `module_class` under `key`, start it unless told not to; raises BootError or ValueError (key taken)."""
        if key in self._modules:
            raise ValueError(f"module {key!r} is registered already")
        module: BaseModule = module_class()
        if initialize and not module.initialize(app_manager):
            raise BootError(f"module {key}: did not start")
        self._modules[key] = module
        app_manager.hooks_manager.trigger("after_module_init", key, context=key)
        return module

    def get_module(self, key: str) -> Any:
        """The module under `key`; raises KeyError."""
        return self._modules[key]

    def all_modules(self) -> list[BaseModule]:
        """The running modules, in the order in which they started."""
        return list(self._modules.values())

    def get_module_health(self, key: str) -> dict[str, Any]:
        """The health of one module; a check that fails is an unhealthy answer. Raises KeyError for an unknown key."""
        module = self._modules[key]
        try:
            return module.health_check()
        except Exception as error:  # noqa: BLE001  a broken check is a finding, not a failure of who asks
            return {"module": key, "status": "unhealthy", "error": type(error).__name__}

    def get_module_status(self) -> dict[str, dict[str, Any]]:
        """For each module: its health, its dependencies and how many routes it has."""
        return {
            key: {**self.get_module_health(key), "dependencies": list(module.DEPENDENCIES), "routes": len(module.routes)}
            for key, module in self._modules.items()
        }

    def check(self) -> tuple[str, dict[str, Any]]:
        states = [self.get_module_health(key)["status"] for key in self._modules]
        return ("healthy" if all(s == "healthy" for s in states) else "degraded"), {"modules": len(states)}

    def dispose(self) -> None:
        modules, self._modules = getattr(self, "_modules", {}), {}
        for key in reversed(modules):
            self.app_manager.hooks_manager.trigger("before_module_dispose", key, context=key)
        dispose_in_reverse(modules, "module")
        self.initialized = False


def discover() -> dict[str, type]:
    """The module classes of core/modules: each package there has a `module.py` that names its class MODULE."""
    found: dict[str, type] = {}
    for entry in pkgutil.iter_modules(modules_package.__path__):
        if entry.ispkg:
            package = importlib.import_module(f"{modules_package.__name__}.{entry.name}.module")
            found[package.MODULE.NAME] = package.MODULE
    return found
