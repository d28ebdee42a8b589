"""The plugin: what it declares, and what it registers when it starts."""

from __future__ import annotations

from pathlib import Path

from hello_plugin.commands import latest
from hello_plugin.greetings import COLLECTIONS
from hello_plugin.module import HelloModule
from plugins.api import BasePlugin, PluginScope, Setting


class HelloPlugin(BasePlugin):
    """Known before anything starts: the attributes. Registered at the start: the rest."""

    NAME = "hello_plugin"
    DEPENDENCIES = ("main_plugin",)
    # Read from Vault, the config file or the environment, in this order, like ours; `flask settings` shows it.
    SETTINGS = (Setting("HELLO_PLUGIN_GREETING", str, "Hello", "The word with which the plugin greets."),)
    COLLECTIONS = COLLECTIONS
    COMMANDS = (latest,)

    def initialize(self, app_manager: PluginScope) -> bool:
        app_manager.plugin_manager.register_template_dir(Path(__file__).parent / "templates")
        app_manager.plugin_manager.register_module(HelloModule.NAME, HelloModule)
        return True
