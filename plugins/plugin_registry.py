"""The plugins that can be enabled, by key."""

from __future__ import annotations

from plugins.base_plugin import BasePlugin
from plugins.main_plugin.main_plugin import MainPlugin


class PluginRegistry:
    """The one list of plugins; which of them run is the setting PLUGINS."""

    @staticmethod
    def get_plugins() -> dict[str, type[BasePlugin]]:
        return {MainPlugin.NAME: MainPlugin}
