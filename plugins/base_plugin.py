"""BasePlugin: what every plugin is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from click import Command

from core.plugin_scope import PluginScope
from utils.config.config import Setting


class BasePlugin(ABC):
    """A bundle of what makes up a feature.

    What has to be known without starting it is declared here; modules, routes, templates, hooks, socket events and metrics
    are registered during `initialize`. All of it bears the plugin's name: see docs/plugins.md.
    """

    NAME: ClassVar[str]
    # Of an installed plugin, its distribution's version counts.
    VERSION: ClassVar[str] = ""
    # Keys of plugins that have to be started before.
    DEPENDENCIES: ClassVar[tuple[str, ...]] = ()
    # Keys begin with `<NAME>_` in capitals.
    SETTINGS: ClassVar[tuple[Setting, ...]] = ()
    # By name, which begins with `<NAME>_`: {"indexes": [...], "append_only": bool}, as in init-scripts/collections.json.
    COLLECTIONS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # Run as `flask <NAME> <command>`.
    COMMANDS: ClassVar[tuple[Command, ...]] = ()

    @abstractmethod
    def initialize(self, app_manager: PluginScope) -> bool:
        """Register what the plugin brings. False or an exception stops the boot, or turns the plugin off where it is optional."""

    def dispose(self) -> None:
        """Release what `initialize` took, also when it failed half-way; safe to call twice. What was registered goes by itself."""
