"""`flask settings`: every setting, its value (secrets masked), and the source that won."""

from __future__ import annotations

import json
import sys

import click

from core.managers.app_manager import AppManager
from utils.config.config import quiet_environment


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def settings(as_json: bool) -> None:
    """Show every setting, its value (secrets masked) and where it came from.

    Works while the servers are down. What is missing or cannot be used is named on stderr, and the exit code is 3.
    """
    config, wrong = AppManager(quiet_environment()).survey_settings()
    rows = config.rows()
    if as_json:
        click.echo(json.dumps({row["key"]: {"value": row["value"], "origin": row["origin"]} for row in rows}))
    else:
        for row in rows:
            click.echo(f"{row['key']} = {row['value']} ({row['origin']})")
    for line in wrong:
        click.echo(line, err=True)
    if wrong:
        sys.exit(3)
