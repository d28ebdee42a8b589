"""PluginManager: instantiates the enabled plugins in dependency order and keeps what they bring."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.disposal import dispose_in_reverse
from core.managers.base import BootError, Manager
from core.web.routing import Route
from utils.ordering import dependency_order

_REGISTRY = "plugins.plugin_registry"


class PluginManager(Manager):
    """Plugins register their modules, routes and template folders here; later stages pick them up."""

    name = "plugin"

    def initialize(self) -> bool:
        self._plugins: dict[str, Any] = {}
        self.modules: dict[str, type] = {}
        self.routes: list[Route] = []
        self.template_dirs: list[Path] = []
        self.register_plugins(self.app_manager)
        self.initialized = True
        return True

    def register_plugins(self, app_manager: Any) -> None:
        """Start every plugin of the PLUGINS setting; raises BootError that names the one that cannot be started."""
        registry = self.plugin_classes()
        enabled = app_manager.config["PLUGINS"]
        unknown = [key for key in enabled if key not in registry]
        if unknown:
            raise BootError(f"PLUGINS: unknown plugin {', '.join(unknown)}; known are {', '.join(sorted(registry))}")
        try:
            order = dependency_order({key: registry[key].DEPENDENCIES for key in enabled})
        except ValueError as error:
            raise BootError(f"plugins: {error}") from error
        for key in order:
            plugin = registry[key]()
            if not plugin.initialize(app_manager):
                raise BootError(f"plugin {key}: did not start")
            self._plugins[key] = plugin

    def plugin_classes(self) -> dict[str, Any]:
        """The registry's plugins by key. Loaded by name: plugins know the core, the core knows no plugin."""
        registry: dict[str, Any] = importlib.import_module(_REGISTRY).PluginRegistry.get_plugins()
        return registry

    def register_module(self, key: str, module_class: type) -> None:
        """Have `module_class` started with the core's modules, under `key`; a key that is there already is kept."""
        self.modules.setdefault(key, module_class)

    def register_routes(self, routes: Sequence[Route]) -> None:
        """Mount `routes` when all modules have started."""
        self.routes.extend(routes)

    def register_template_dir(self, directory: Path) -> None:
        """Let Jinja find templates in `directory` too."""
        self.template_dirs.append(directory)

    def check(self) -> tuple[str, dict[str, Any]]:
        return "healthy", {"plugins": sorted(self._plugins)}

    def dispose(self) -> None:
        plugins, self._plugins = getattr(self, "_plugins", {}), {}
        dispose_in_reverse(plugins, "plugin")
        self.initialized = False
