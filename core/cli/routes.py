"""`flask endpoints` and `flask plugins`: what the application answers, and what it is made of."""

from __future__ import annotations

import sys

import click

from core.cli.booted import booted
from core.cli.output import EXIT_CODES, Group, json_option, show_rows
from core.web.routing import Route


@click.command(epilog=EXIT_CODES)
@json_option
def endpoints(as_json: bool) -> None:
    """Show every route: who may call it, the scope that an API key needs, and the limit on top of the caller's own.

    `flask routes` shows the same, but takes no options.
    """
    with booted() as app_manager:
        mounted = app_manager.chain.routes
    rows = sorted((_row(route) for route in mounted), key=lambda row: (row["path"], row["method"]))
    show_rows(rows, ("method", "path", "roles", "scope", "limit", "summary"), len(rows), as_json)


@click.group(cls=Group)
def plugins() -> None:
    """Plugins of the setting PLUGINS."""


@plugins.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Start every enabled plugin, and show how that went. Exit code 1 when one is off."""
    with booted() as app_manager:
        found = [
            {
                "plugin": plugin.key,
                "version": plugin.version,
                "status": "off" if plugin.is_off else "on",
                "optional": plugin.optional,
                "built_in": plugin.built_in,
                "error": plugin.error or None,
            }
            for plugin in app_manager.plugins
        ]
    show_rows(found, ("plugin", "version", "status", "optional", "built_in", "error"), len(found), as_json)
    sys.exit(1 if any(row["status"] == "off" for row in found) else 0)


def _row(route: Route) -> dict[str, object]:
    return {
        "method": route.method,
        "path": route.path,
        "roles": ",".join(sorted(route.roles)) or "everyone, without a token",
        "scope": route.scope,
        "limit": route.limit,
        "summary": route.summary,
    }
