"""ModuleManager: discovers core/modules, adds what plugins bring, and starts all in dependency order."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from core import modules as modules_package
from core.disposal import dispose_in_reverse
from core.managers.base import BootError, Manager
from core.modules.base_module import BaseModule
from core.plugin_scope import ModuleScope
from utils import green
from utils.ordering import dependency_order


class ModuleManager(Manager):
    """Keeps the running modules by key."""

    name = "module"

    def initialize(self) -> bool:
        self._modules: dict[str, BaseModule] = {}
        plugins = self.app_manager.plugin_manager
        own = discover()
        for key in own.keys() & plugins.modules.keys():
            self._give_up(key, BootError(f"module {key} is there already"))
        classes = {**own, **plugins.modules}
        for key in _start_order(classes):
            # A plugin that failed meanwhile took its modules with it.
            if key in own or key in plugins.modules:
                self._start(key, classes[key])
        self.initialized = True
        return True

    def register_module(self, key: str, module_class: type, app_manager: Any, initialize: bool = True) -> BaseModule:
        """Instantiate `module_class` under `key`, start it unless told not to; raises BootError or ValueError (key taken).

        A module that does not start is disposed at once.
        """
        if key in self._modules:
            raise ValueError(f"module {key!r} is registered already")
        module: BaseModule = module_class()
        try:
            if initialize and not module.initialize(ModuleScope(app_manager, key, module.DEPENDENCIES)):  # type: ignore[arg-type]
                raise BootError(f"module {key}: did not start")
        except BaseException:
            dispose_in_reverse({key: module}, "module")
            raise
        self._modules[key] = module
        self.app_manager.hooks_manager.trigger("after_module_init", key, context=key)
        return module

    def prepare(self) -> None:
        """What modules do once a start and not in every worker."""
        plugins = self.app_manager.plugin_manager
        for key, module in self._modules.items():
            scope = plugins.scope_of(key)
            if scope is None:
                module.prepare()
            else:
                plugins.carefully(scope.key, module.prepare)

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
            answer = module.health_check()
            # One of another shape fails here.
            return {**answer, "status": answer["status"]}
        except green.TimeLimitReached:
            raise
        except Exception as error:  # noqa: BLE001  a broken check is a finding, not a failure of who asks
            return {"module": key, "status": "unhealthy", "error": type(error).__name__}

    def get_module_status(self) -> dict[str, dict[str, Any]]:
        """For each module: its health, its dependencies and how many routes it has."""
        return {
            key: {**self.get_module_health(key), "dependencies": list(module.DEPENDENCIES), "routes": len(module.routes)}
            for key, module in self._modules.items()
        }

    def check(self) -> tuple[str, dict[str, Any]]:
        # The modules are asked one by one, by who asks the managers: none can hold up the answer of all.
        return "healthy", {"modules": len(self._modules)}

    def dispose(self) -> None:
        self._end(list(getattr(self, "_modules", {})))
        self.initialized = False

    def _start(self, key: str, module_class: Any) -> None:
        scope = self.app_manager.plugin_manager.scope_of(key)
        try:
            missing = [other for other in module_class.DEPENDENCIES if other not in self._modules]
            if missing:
                raise BootError(f"module {key}: needs {', '.join(missing)}, which is not there")
            module = self.register_module(key, module_class, scope or self.app_manager)
            if scope is not None:
                scope.check_routes(module.routes)
        except Exception as error:
            if scope is None:
                raise error if isinstance(error, BootError) else BootError.at(f"module {key}", error) from error
            self._give_up(key, error)

    def _give_up(self, key: str, error: Exception) -> None:
        """The module `key` of a plugin failed: what runs of that plugin, and of those that need it, goes with it."""
        plugins = self.app_manager.plugin_manager
        plugin = plugins.scope_of(key).plugin  # type: ignore[union-attr]
        if not isinstance(error, BootError):
            error = BootError.at(f"module {key}", error) if not plugin.optional else error
        if plugin.optional:
            doomed = plugins.with_dependents(plugin.key)
            self._end([each for each in self._modules if (scope := plugins.scope_of(each)) is not None and scope.key in doomed])
        plugins.give_up(plugin.key, error)

    def _end(self, keys: list[str]) -> None:
        for key in reversed(keys):
            self.app_manager.hooks_manager.trigger("before_module_dispose", key, context=key)
        dispose_in_reverse({key: self._modules.pop(key) for key in keys}, "module")


def _start_order(classes: dict[str, Any]) -> list[str]:
    """Each after those it depends on; what is missing is told when its turn comes. Raises BootError for a circle."""
    try:
        return dependency_order({key: [other for other in c.DEPENDENCIES if other in classes] for key, c in classes.items()})
    except ValueError as error:
        raise BootError(f"modules: {error}") from error


def discover() -> dict[str, type]:
    """The module classes of core/modules: each package there has a `module.py` that names its class MODULE."""
    found: dict[str, type] = {}
    for entry in pkgutil.iter_modules(modules_package.__path__):
        if entry.ispkg:
            package = importlib.import_module(f"{modules_package.__name__}.{entry.name}.module")
            found[package.MODULE.NAME] = package.MODULE
    return found
