"""`flask secrets`: the secret files of a deployment: made once, checked, and replaced while everything runs."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from redis.exceptions import RedisError

from core.cli.keys import new
from core.cli.server_passwords import MongoUsers, RedisPassword
from core.managers.base import BootError
from core.plugin_sources import find_plugins
from tools.error_handling.errors import Unavailable
from utils.config.config import SETTINGS, Config, ConfigError, Setting, load_plain, quiet_environment
from utils.keys import ring_lines
from utils.secret_files import COMPOSE, MIN_LENGTHS, PLACEHOLDER, VAULT, SecretFolder, always, own_certificate

_RINGS = {"jwt_secret": "jwt", "encryption_key": "encryption"}
_MONGODB_USERS = {
    "mongodb_password": "mongodb",
    "mongodb_analytics_password": "mongodb_analytics",
    "mongodb_admin_password": "mongodb_admin",
}
# What nobody can replace from here without an interruption, or without somebody else's doing.
_BY_HAND = {
    "mongodb_root_password": "as root in mongosh, db.getSiblingDB('admin').changeUserPassword('root', passwordPrompt()); then write it into"
    " the file. Nothing that runs uses it.",
    "mongodb_keyfile": "mongod reads several keys. Write `- OLD` and `- NEW` as two lines and restart the members one by one; then `- NEW`"
    " and `- OLD`, and restart; then `- NEW` alone, and restart.",
    "admin_password": "it is only read at the first start. Change the password of the account instead.",
    "admin_email": "it is only read at the first start. Change the account instead.",
    "grafana_admin_password": "it is only read at Grafana's first start: run `grafana cli admin reset-admin-password` in its container,"
    " and write the same into the file.",
    "tls_certificate": "write the new chain and key into the file, in place (`cat new.pem > tls_certificate`), and have HAProxy read it:"
    " `docker compose kill -s USR2 haproxy`. No connection is lost.",
    "metrics_token": "write the new one into the file, and restart the copies of the application and Prometheus.",
    "smtp_password": "write the new one into the file and restart Alertmanager.",
    "slack_webhook_url": "write the new one into the file and restart Alertmanager.",
    "vault_role_id": "make it in Vault, and write it into the file: workers use it when they next have to log in.",
    "vault_secret_id": "make it in Vault, and write it into the file: workers use it when they next have to log in.",
}
_CERTIFICATES = ("MONGODB_CA_FILE", "MONGODB_CERTIFICATE_FILE", "REDIS_CA_FILE", "REDIS_CERTIFICATE_FILE")
_NEXT = "Now restart the copies of the application one after the other, then: flask secrets rotate {name} --finish"

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
group_option = click.option("--group", type=click.IntRange(0), help="Id of a group that may read them: containers of other users have it.")


@click.group()
def secrets() -> None:
    """Secret files in SECRETS_DIR, one file a secret.

    `init` makes those that are missing, `check` says what is wrong with any of them, `rotate NAME` replaces one.
    """


@secrets.command()
@click.option("--admin-email", default="admin@example.com", show_default=True, help="Of the first admin.")
@click.option("--host", default="localhost", show_default=True, help="Name in the certificate that does until there is a real one.")
@group_option
@json_option
def init(admin_email: str, host: str, group: int | None, as_json: bool) -> None:
    """Make every secret file of the compose stack that is not there yet.

    None is ever overwritten. Files are for their owner alone (0600), with --group for that group too (0640).
    """
    makers = {**COMPOSE, "admin_email": always(admin_email), "tls_certificate": lambda: own_certificate(host)}
    with _failures_in_one_line():
        folder = _folder(_settings())
        made = folder.create_missing(makers)
        if group is not None:
            folder.share([name for name in folder.names() if name in {*COMPOSE, *VAULT}], group)
        waiting = [name for name in makers if folder[name] == PLACEHOLDER]
    if as_json:
        kept = [name for name in makers if name not in made]
        click.echo(json.dumps({"directory": str(folder.directory), "made": made, "kept": kept, "placeholders": waiting}))
        return
    click.echo(f"{folder.directory}: made {len(made)}, kept {len(makers) - len(made)}" + (f": {', '.join(made)}" if made else ""))
    for name in waiting:
        click.echo(f"{name} is a placeholder: write the real one into {folder.directory / name}")


@secrets.command()
@click.option("--stack", is_flag=True, help="Also what the servers around the application need, as in the compose stack.")
@group_option
@json_option
def check(stack: bool, group: int | None, as_json: bool) -> None:
    """Name each secret file that is missing, unreadable, too short, a placeholder, open to others, or unknown.

    Exit code 1 when there is one.
    """
    with _failures_in_one_line():
        config = _settings()
        folder = _folder(config)
        problems = _problems(folder, config, stack, group)
    if as_json:
        rows = [{"name": name, "problem": problem} for name, problem in problems]
        click.echo(json.dumps({"directory": str(folder.directory), "problems": rows}))
    else:
        for name, problem in problems:
            click.echo(f"{name}: {problem}")
        click.echo(f"{folder.directory}: " + (f"{len(problems)} problems" if problems else "all is well"))
    sys.exit(1 if problems else 0)


@secrets.command()
@click.argument("name")
@click.option("--finish", is_flag=True, help="Once every worker uses the new one: the old one is good for nothing any more.")
@click.pass_context
def rotate(context: click.Context, name: str, finish: bool) -> None:
    """Replace the secret NAME while everything runs; what cannot be done from here is said step by step (exit code 1).

    Passwords of MongoDB and Redis go in two steps: after the first, old and new are both good; --finish ends the old one.
    MongoDB needs mongodb_root_password in SECRETS_DIR.
    """
    with _failures_in_one_line():
        config = _settings()
        folder = _folder(config)
        if name in _BY_HAND:
            raise click.ClickException(f"{name} is replaced by hand: {_BY_HAND[name]}")
        if config["VAULT_ADDR"]:
            raise click.ClickException(f"The secrets are in Vault: change {name} there.")
        if name in _RINGS:
            context.invoke(new, ring=_RINGS[name], write=True)
        elif name == "redis_encryption_key":
            _add_first(folder, name)
        elif name == "redis_password":
            _rotate_redis(RedisPassword(config, folder), name, finish)
        elif name in _MONGODB_USERS:
            _rotate_mongodb(MongoUsers(config, folder), name, finish)
        else:
            able = ", ".join([*_RINGS, "redis_encryption_key", "redis_password", *_MONGODB_USERS])
            raise click.ClickException(f"{name} cannot be replaced here, only {able}")


def _add_first(folder: SecretFolder, name: str) -> None:
    """A new first key. What it seals, workers that have not read it yet take as absent, which costs a look into MongoDB."""
    folder.replace({name: "\n".join([COMPOSE[name](), *ring_lines(folder[name])])})
    click.echo(f"A new key is the first line of {folder.directory / name}; workers take it over by themselves.")
    click.echo("The old one stays the last line: it names the bans, and goes only with a restart of all workers.")


def _rotate_redis(password: RedisPassword, name: str, finish: bool) -> None:
    if finish:
        password.finish()
        click.echo("Redis accepts the new password only.")
        return
    password.begin()
    click.echo(f"Redis accepts two passwords, and the file {name} has the new one.")
    click.echo(_NEXT.format(name=name))


def _rotate_mongodb(users: MongoUsers, name: str, finish: bool) -> None:
    kind = _MONGODB_USERS[name]
    if finish:
        click.echo(f"The user {users.finish(kind)} is gone.")
        return
    click.echo(f"A second user, {users.begin(kind)}, has the same roles; the files {kind}_user and {name} name it.")
    click.echo(_NEXT.format(name=name))


def _problems(folder: SecretFolder, config: Config, stack: bool, group: int | None) -> list[tuple[str, str]]:
    """Name and problem, in the order of the list; then what nobody knows."""
    settings = {setting.file_name: setting for setting in _secret_settings(config)}
    lengths = {**MIN_LENGTHS, **{name: setting.min_length for name, setting in settings.items()}}
    certificates = [config[key] for key in _CERTIFICATES]
    there = folder.names()
    needed = [*_app_names(config), *(name for name in COMPOSE if stack and name not in settings)]
    found = [(name, "missing") for name in needed if name not in there]
    for name in there:
        known = name in settings or name in COMPOSE or str(folder.directory / name) in certificates
        problem = _problem(folder, name, lengths.get(name, 1), group) if known else "unknown: no setting has it"
        if problem:
            found.append((name, problem))
    return found


def _problem(folder: SecretFolder, name: str, min_length: int, group: int | None) -> str:
    path = folder.directory / name
    was = path.stat()
    if was.st_mode & stat.S_IRWXO:
        return f"open to every user of this machine: chmod o= {path}"
    if was.st_mode & stat.S_IRWXG and was.st_gid != group:
        return f"open to the group {was.st_gid}: chmod g= {path}, or say --group {was.st_gid} if it is meant to be"
    try:
        text = folder[name]
    except (OSError, UnicodeDecodeError) as error:
        return f"unreadable: {type(error).__name__}"
    if text == PLACEHOLDER:
        return "a placeholder: write the real one"
    if min(map(len, text.splitlines()), default=0) < min_length:
        return f"shorter than {min_length} characters"
    return ""


def _app_names(config: Config) -> list[str]:
    """The files that the application needs."""
    if config["VAULT_ADDR"]:
        folder = _folder(config)
        wrapped = "vault_wrapped_secret_id"
        return ["vault_role_id", wrapped if wrapped in folder.names() else "vault_secret_id"]
    return [setting.file_name for setting in _secret_settings(config) if setting.required]


def _secret_settings(config: Config) -> Iterator[Setting]:
    """Ours and those of the enabled plugins."""
    try:
        of_plugins = find_plugins(config["PLUGINS"], all_optional=True).settings
    except BootError:
        of_plugins = []
    return (setting for setting in (*SETTINGS, *of_plugins) if setting.secret)


def _settings() -> Config:
    return load_plain(quiet_environment())


def _folder(config: Config) -> SecretFolder:
    return SecretFolder(Path(config["SECRETS_DIR"]))


@contextmanager
def _failures_in_one_line() -> Iterator[None]:
    try:
        yield
    except (BootError, ConfigError, Unavailable, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except RedisError as error:
        raise click.ClickException(f"redis: {type(error).__name__}") from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'secret files'}: {error.strerror}") from error
