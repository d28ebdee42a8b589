"""PluginManager: starts the enabled plugins in dependency order, keeps what they bring, and gives up optional ones that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, FileSystemLoader, PrefixLoader

from core.disposal import dispose_in_reverse
from core.managers.base import BootError, Manager
from core.plugin_scope import PluginScope
from core.plugin_sources import DependencyOff, Found, PluginSet, find_plugins
from core.web.routing import Route
from tools.logger.custom_logger import log_exception


class PluginManager(Manager):
    """Each plugin gets a PluginScope for the app manager, through which it registers what it brings; later stages pick that up."""

    name = "plugin"

    def initialize(self) -> bool:
        self._plugins: dict[str, Any] = {}
        self._scopes: dict[str, PluginScope] = {}
        self._template_dirs: list[Path] = []
        # The AppManager has looked already, for the sake of the settings.
        self._found: PluginSet = getattr(self.app_manager, "plugins", None) or find_plugins(self.app_manager.config["PLUGINS"])
        self.register_plugins(self.app_manager)
        self.initialized = True
        return True

    def register_plugins(self, app_manager: Any) -> None:
        """Start every plugin of the PLUGINS setting; raises BootError that names the required one that cannot be started."""
        for plugin in self._found:
            if not self._found.fail_where_needed(plugin):
                self._start(plugin, app_manager)

    def _start(self, plugin: Found, app_manager: Any) -> None:
        try:
            # Both listed before they start, so that of a half-started one everything is undone.
            scope = self._scopes[plugin.key] = PluginScope(app_manager, plugin)
            instance = self._plugins[plugin.key] = plugin.plugin_class()
            if not instance.initialize(scope):
                raise BootError("did not start")
            scope.check_modules()
        except Exception as error:  # noqa: BLE001  a stranger's code may raise anything
            self.give_up(plugin.key, error)

    def give_up(self, key: str, error: Exception) -> None:
        """End an optional plugin that has failed, and those that need it, with all they brought; BootError for a required one."""
        for doomed in reversed(self.with_dependents(key)):
            self._found[doomed].fail(error if doomed == key else DependencyOff(f"needs {key}, which is off"))
            self._end(doomed)

    def with_dependents(self, key: str) -> list[str]:
        """`key` and the running plugins that need it, in the order of their start."""
        return [doomed for doomed in self._found.with_dependents(key) if doomed == key or doomed in self._plugins]

    # What plugins brought

    @property
    def modules(self) -> dict[str, Any]:
        """The classes of all plugins' modules, by key."""
        return {key: module for scope in self._scopes.values() for key, module in scope.modules.items()}

    @property
    def routes(self) -> list[Route]:
        """The routes of plugins, without those of their modules."""
        return [route for scope in self._scopes.values() for route in scope.routes]

    def scope_of(self, module: str) -> PluginScope | None:
        """What the plugin that brings `module` sees of the application; None for a module of the core."""
        return next((scope for scope in self._scopes.values() if module in scope.modules), None)

    def register_template_dir(self, directory: Path) -> None:
        """Let Jinja find templates in `directory` too, after those of plugins."""
        self._template_dirs.append(directory)

    def template_loader(self) -> BaseLoader:
        """Finds the templates of each plugin under `<plugin>/`, where no other can put any."""
        own = {key: FileSystemLoader(scope.template_dir) for key, scope in self._scopes.items() if scope.template_dir is not None}
        return ChoiceLoader([PrefixLoader(own), *(FileSystemLoader(directory) for directory in self._template_dirs)])

    def prepare(self) -> None:
        """What is done once a start: make the plugins' collections and indexes."""
        for key, scope in self._scopes.items():
            collections = scope.plugin.plugin_class.COLLECTIONS
            if collections:
                self.carefully(key, lambda listed=collections: self.app_manager.database_manager.prepare_plugin_collections(listed))

    def carefully(self, key: str, work: Any) -> None:
        """Do `work` of a plugin, before there are workers: BootError when a required one fails, and of an optional one a log line."""
        try:
            work()
        except Exception as error:
            if not self._found[key].optional:
                raise BootError.at(f"plugin {key}", error) from error
            log_exception("an optional plugin could not prepare", error, plugin=key)

    def check(self) -> tuple[str, dict[str, Any]]:
        off = any(plugin.is_off for plugin in self._found)
        return ("degraded" if off else "healthy"), {"plugins": {plugin.key: _state(plugin) for plugin in self._found}}

    def dispose(self) -> None:
        for key in reversed(list(getattr(self, "_scopes", {}))):
            self._end(key)
        self.initialized = False

    def _end(self, key: str) -> None:
        """First what the plugin holds, then what it registered."""
        parts = {f"{key}: names": self._scopes.pop(key, None), key: self._plugins.pop(key, None)}
        dispose_in_reverse({name: part for name, part in parts.items() if part is not None}, "plugin")


def _state(plugin: Found) -> dict[str, str]:
    state = {"status": "off" if plugin.is_off else "healthy", "version": plugin.version}
    return {**state, "error": plugin.error} if plugin.is_off else state
