"""The operators' commands, `flask <command>`: the one list of them, and the app that carries them."""

from __future__ import annotations

from collections.abc import Iterator

import click
from flask import Flask

from core.cli.audit import audit
from core.cli.backup import backup, restore_
from core.cli.doctor import doctor
from core.cli.hooks import hooks
from core.cli.keys import keys
from core.cli.ledger import ledger
from core.cli.limits import bans, limits
from core.cli.migrations import migrations
from core.cli.routes import endpoints, plugins
from core.cli.schedules import schedules
from core.cli.secrets import secrets
from core.cli.sessions import sessions
from core.cli.settings import settings
from core.cli.users import users
from core.cli.wallets import wallets
from core.cli.webhooks import webhooks
from core.managers.base import BootError
from core.plugin_sources import find_plugins
from utils.config.config import ConfigError, load_plain

# Each starts what it needs itself (`booted`), so that help, and checks of a broken deployment, work while servers are down.
COMMANDS: tuple[click.Command, ...] = (
    audit,
    backup,
    bans,
    doctor,
    endpoints,
    hooks,
    keys,
    ledger,
    limits,
    migrations,
    plugins,
    restore_,
    schedules,
    secrets,
    sessions,
    settings,
    users,
    wallets,
    webhooks,
)


def called_by_flask() -> bool:
    """Whether this process is the `flask` command."""
    return click.get_current_context(silent=True) is not None


def command_line_app() -> Flask:
    """A Flask app without routes, whose `cli` has our commands."""
    context = click.get_current_context()
    if context.info_name == "run":
        raise click.UsageError("The server is started by `make run`, by gunicorn, or by `python app.py`.")
    if context.info_name == "routes":
        # Flask's own command of this name cannot be replaced, and would find none.
        context.invoke(endpoints)
        context.exit()
    app = Flask("credit_system", static_folder=None)
    for command in (*COMMANDS, *_of_plugins()):
        app.cli.add_command(command)
    return app


def _of_plugins() -> Iterator[click.Group]:
    """A group for each enabled plugin that brings commands; nothing is started. PLUGINS is not asked of Vault here."""
    try:
        plugins = find_plugins(load_plain()["PLUGINS"], all_optional=True)
    except (BootError, ConfigError) as error:
        # The commands that help to mend this are there all the same.
        click.echo(f"no commands of plugins: {error}", err=True)
        return
    for plugin in plugins:
        if plugin.is_off:
            click.echo(f"no commands of plugin {plugin.key}: {plugin.error}", err=True)
        elif plugin.key in (command.name for command in COMMANDS):
            click.echo(f"no commands of plugin {plugin.key}: there is one of our own by this name", err=True)
        elif plugin.plugin_class.COMMANDS:
            yield click.Group(plugin.key, plugin.plugin_class.COMMANDS, help=f"Commands of the plugin {plugin.key}.")
