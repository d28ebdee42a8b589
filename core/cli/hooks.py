"""`flask hooks`: every declared event, its kind, its data, and how many listen to it."""

from __future__ import annotations

import click

from core.cli.booted import booted
from core.managers.hooks_manager import Hook
from core.managers.hooks_payload import payload_name


@click.command()
def hooks() -> None:
    """Show every event that callbacks can be registered for."""
    with booted() as app_manager:
        declared = app_manager.hooks_manager.hooks()
    for hook, callbacks in declared:
        click.echo(f"{hook.name} ({_manner(hook)}; data: {payload_name(hook.payload)}; callbacks: {callbacks}) {hook.doc}".rstrip())


def _manner(hook: Hook) -> str:
    return "asynchronous notice" if hook.asynchronous else hook.kind.value
