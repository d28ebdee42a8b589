"""The operators' commands, `flask <command>`: the one list of them, and the app that carries them."""

from __future__ import annotations

import click
from flask import Flask

from core.cli.keys import keys
from core.cli.settings import settings

# Each starts what it needs itself (`booted`), so that help, and checks of a broken deployment, work while servers are down.
COMMANDS: tuple[click.Command, ...] = (settings, keys)


def called_by_flask() -> bool:
    """Whether this process is the `flask` command."""
    return click.get_current_context(silent=True) is not None


def command_line_app() -> Flask:
    """A Flask app without routes, whose `cli` has our commands."""
    if click.get_current_context().info_name == "run":
        raise click.UsageError("The server is started by `make run`, by gunicorn, or by `python app.py`.")
    app = Flask("credit_system", static_folder=None)
    for command in COMMANDS:
        app.cli.add_command(command)
    return app
