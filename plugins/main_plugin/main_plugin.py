"""The main plugin: brings the ConnectionAPI and the root route."""

from __future__ import annotations

from pathlib import Path

from flask import render_template, request

from core.plugin_scope import PluginScope
from core.web.answers import View
from core.web.routing import PUBLIC, Answer, Call, Route
from plugins.base_plugin import BasePlugin
from plugins.main_plugin.modules.connection_api.connection_api import ConnectionAPI

NAME, VERSION = "credit-system", "0.1.0"


class RootView(View):
    name: str
    version: str
    docs: str


class MainPlugin(BasePlugin):
    """Without it there are no accounts."""

    NAME = "main_plugin"
    VERSION = VERSION

    def initialize(self, app_manager: PluginScope) -> bool:
        plugins = app_manager.plugin_manager
        plugins.register_module(ConnectionAPI.NAME, ConnectionAPI)
        plugins.register_template_dir(Path(__file__).parent / "templates")
        plugins.register_routes([Route("GET", "/", root, PUBLIC, "What this is", html=True, answers={200: (RootView, "text/html")})])
        return True


def root(call: Call) -> Answer:
    """A page for people, JSON for programs."""
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        return Answer(
            content=render_template("main_plugin/index.html", name=NAME, version=VERSION), content_type="text/html; charset=utf-8"
        )
    return Answer({"name": NAME, "version": VERSION, "docs": "/docs"})
