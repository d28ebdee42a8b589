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


_HERE = Path(__file__).parent
# Nothing but what we serve ourselves, and no text that becomes markup or code.
_PAGE_POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
        *(f"{what} 'none'" for what in ("base-uri", "form-action", "frame-ancestors")),
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)


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
        plugins.register_template_dir(_HERE / "templates")
        self._assets = plugins.register_asset_dir(_HERE / "static")
        answers = {200: (RootView, "text/html")}
        plugins.register_routes([Route("GET", "/", self._root, PUBLIC, "What this is", html=True, answers=answers)])
        return True

    def _root(self, call: Call) -> Answer:
        """A page for people, JSON for programs."""
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html":
            return Answer({"name": NAME, "version": VERSION, "docs": "/docs"})
        page = render_template("main_plugin/index.html", name=NAME, version=VERSION, asset=self._assets.url)
        headers = {"Content-Security-Policy": _PAGE_POLICY, "Cross-Origin-Opener-Policy": "same-origin"}
        return Answer(headers=headers, content=page, content_type="text/html; charset=utf-8")
