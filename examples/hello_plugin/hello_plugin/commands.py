"""`flask hello_plugin ...`: what operators may do."""

from __future__ import annotations

import click

from plugins.api import booted


@click.command()
@click.option("--limit", default=10, show_default=True, help="How many.")
def latest(limit: int) -> None:
    """Show the newest greetings."""
    # Listed without starting anything; a command boots what it needs, for as long as it runs.
    with booted() as app_manager:
        for greeting in app_manager.module_manager.get_module("hello_plugin").greetings.latest(limit):
            click.echo(f"{greeting['created_at']} {greeting['text']}")
