"""The plugins that are built in, by key; installed ones are found by their entry points (core/plugin_sources.py)."""

from __future__ import annotations

from typing import ClassVar

from core.plugin_sources import Claims
from plugins.base_plugin import BasePlugin
from plugins.main_plugin.main_plugin import MainPlugin


class PluginRegistry:
    """The one list of built-in plugins; which of them run is the setting PLUGINS."""

    # What they have outside of `/plugins/<key>` and `<key>_...`, for the API's sake.
    CLAIMS: ClassVar[dict[str, Claims]] = {
        MainPlugin.NAME: Claims(routes=("/", "/auth", "/users"), modules=("connection_api",)),
    }

    @staticmethod
    def get_plugins() -> dict[str, type[BasePlugin]]:
        return {MainPlugin.NAME: MainPlugin}
