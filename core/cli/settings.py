"""`flask settings`: every setting, its value (secrets masked), and the source that won."""

from __future__ import annotations

import json

import click

from core.cli.booted import booted


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def settings(as_json: bool) -> None:
    """Show every setting, its value (secrets masked) and where it came from."""
    with booted() as app_manager:
        rows = app_manager.config.rows()
    if as_json:
        click.echo(json.dumps({row["key"]: {"value": row["value"], "origin": row["origin"]} for row in rows}))
        return
    for row in rows:
        click.echo(f"{row['key']} = {row['value']} ({row['origin']})")
