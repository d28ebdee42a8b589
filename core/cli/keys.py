"""`flask keys`: the key rings of tokens and of stored fields: a new key, its promotion, the rotation, and the end of an old one."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from core.cli.booted import booted
from core.cli.key_files import KeyFile
from core.managers.app_manager import AppManager
from core.rotation import Rotation, Tally
from tools.error_handling.errors import Unavailable
from utils.config.config import BY_KEY, Config, ConfigError, load_plain, quiet_environment
from utils.keys import ENCRYPTION_RING, JWT_RING, Stretcher, key_fingerprint

_RINGS = {"jwt": "JWT_SECRET", "encryption": "ENCRYPTION_KEY"}
_STRETCHED_FOR = {"jwt": JWT_RING, "encryption": ENCRYPTION_RING}
# By then every worker has read a changed secret, on every machine that got it at the same time: so long, or that many looks.
_SETTLE_SECONDS, _SETTLE_LOOKS = 120, 4
_DAY = 86_400
# Where the ring lacks a key, nothing can be read: a thousand lines say so as well as a million.
_NAMED = 1000
# What a key that is not the first one is good for already.
_EFFECT = {
    "jwt": "tokens that it signs are accepted",
    "encryption": "what it encrypts can be read",
}

Way = Callable[[Rotation, str, Callable[[int], object]], Tally]

ring_argument = click.argument("ring", type=click.Choice(list(_RINGS)))
now_option = click.option("--now", is_flag=True, help="Do not wait for workers that may not have read the last change yet.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
batch_option = click.option("--batch-size", type=click.IntRange(1, 5000), default=200, show_default=True, help="Documents read at once.")


@click.group()
def keys() -> None:
    """Key rings: one key a line, the first one signs or encrypts, all of them verify or decrypt.

    A new key without an interruption: `new RING --write`, wait until every worker has read it, `promote RING FINGERPRINT`,
    and for the encryption `rotate`. `retire RING` takes the oldest key away once nothing needs it. Give these commands the
    settings of the workers: SETTINGS_REFRESH says how long they take to read a change. What plugins have encrypted that are
    no longer in PLUGINS is not seen: list them until it is rotated, or nobody can read it once the old key is gone.
    """


@keys.command()
@ring_argument
@click.option("--write", is_flag=True, help="Add it to the secret file, as the last line, instead of printing it.")
def new(ring: str, write: bool) -> None:
    """Make a new key, which verifies or decrypts.

    It signs or encrypts once it was promoted.
    """
    key = secrets.token_urlsafe(48)
    fingerprint = _fingerprint(ring, key)
    if not write:
        click.echo(key)
        click.echo(f"Add {fingerprint} as the LAST line of the secret {BY_KEY[_RINGS[ring]].file_name}, everywhere.", err=True)
        return
    with _key_file(ring) as file:
        file.change(lambda lines: [*lines, key])
    click.echo(f"A new key, {fingerprint}, is the last line of {file.path}: as soon as a worker has read it, {_EFFECT[ring]} there.")
    click.echo(f"Once all workers have (metric credit_keys_loaded): flask keys promote {ring} {fingerprint}")


@keys.command()
@ring_argument
@click.argument("fingerprint")
@now_option
def promote(ring: str, fingerprint: str, now: bool) -> None:
    """Make the key FINGERPRINT the first one, which signs or encrypts. Every worker has to know it by then.

    `new` and `status` show fingerprints.
    """
    with _key_file(ring) as file:

        def promoted(lines: list[str]) -> list[str]:
            chosen = _behind_the_first(ring, lines, fingerprint)
            _refuse_early(file, now)
            return [chosen, *(line for line in lines if line != chosen)]

        file.change(promoted)
    click.echo(f"{fingerprint} is the first line of {file.path} now.")
    after = "flask keys rotate" if ring == "encryption" else "flask keys retire jwt, when the last token of the old key has died"
    click.echo(f"Next: {after}")


@keys.command()
@ring_argument
@now_option
@batch_option
def retire(ring: str, now: bool, batch_size: int) -> None:
    """Take the oldest key (the last line) away.

    That of jwt when its tokens have died, that of encryption when nothing is left under it and no plugin is off.
    """
    with _key_file(ring) as file:
        if len(file.lines()) == 1:
            raise click.ClickException("There is one key only, and it is in use.")
        # Refresh tokens live longest; the last of the old key is no younger than the last change of the file.
        _refuse_early(file, now, _settings()["JWT_REFRESH_TTL"] if ring == "jwt" else 0)
        if ring == "encryption":
            _refuse_needed(batch_size)
        file.change(lambda lines: lines[:-1])
    click.echo(f"The oldest key of {file.path} is gone.")


@keys.command()
@json_option
@batch_option
def status(as_json: bool, batch_size: int) -> None:
    """Show keys by fingerprint, and count what is under old ones."""
    with booted() as app_manager:
        rings = {"jwt": app_manager.jwt_manager.fingerprints(), "encryption": app_manager.encryption_manager.fingerprints()}
        tallies, off = _each_collection(Rotation(app_manager, batch_size), Rotation.count, "counting"), _plugins_off(app_manager)
    if as_json:
        click.echo(json.dumps({"keys": rings, "collections": _as_dicts(tallies), "plugins_off": off}))
    else:
        for ring, prints in rings.items():
            click.echo(f"{ring}: {prints[0]} (active)" + "".join(f", {each}" for each in prints[1:]))
        _report(tallies)
    sys.exit(_exit_code(tallies, off, unfinished_is_bad=False))


@keys.command()
@json_option
@batch_option
@click.option("--dry-run", is_flag=True, help="Only count.")
def rotate(as_json: bool, batch_size: int, dry_run: bool) -> None:
    """Write anew every field that is under an old key.

    The application may run meanwhile. Start it again if it was stopped. Exit code 1 when something is left: what cannot be
    read is named by collection, id and field; and when a plugin is off, since its fields are not seen.
    """
    with booted() as app_manager:
        # A rotation's last pass finds nothing more to do.
        way, word, passes = (Rotation.count, "counting", 1) if dry_run else (Rotation.rotate, "rotating", 2)
        tallies, off = _each_collection(Rotation(app_manager, batch_size), way, word, passes), _plugins_off(app_manager)
    if as_json:
        click.echo(json.dumps({"collections": _as_dicts(tallies), "plugins_off": off}))
    else:
        _report(tallies)
    sys.exit(_exit_code(tallies, off, unfinished_is_bad=not dry_run))


def _each_collection(rotation: Rotation, way: Way, word: str, passes: int = 1) -> dict[str, Tally]:
    """What `way` found in each collection; a bar on stderr shows how far it is, of so many passes through all documents."""
    tallies = {}
    try:
        for name in rotation.collections():
            with click.progressbar(length=passes * rotation.size(name), label=f"{word} {name}", file=sys.stderr) as bar:
                tallies[name] = way(rotation, name, bar.update)
                bar.finish()
                bar.render_progress()
    except Unavailable as error:
        raise click.ClickException(f"{error} What was done stays done; start it again to go on.") from error
    return tallies


def _report(tallies: dict[str, Tally]) -> None:
    for name, tally in tallies.items():
        done = f"{tally.rewritten} written anew, " if tally.rewritten else ""
        click.echo(f"{name}: {tally.documents} documents, {tally.fields} encrypted fields, {done}{tally.left} left under old keys")


def _exit_code(tallies: dict[str, Tally], off: list[str], *, unfinished_is_bad: bool) -> int:
    """1 when there is something that nobody can read, or that is or may be left; what is not plain from the report is named.

    Never with its value. `off`: plugins that are off.
    """
    if off:
        click.echo(f"WARNING: what plugins that are off have encrypted is not seen, and may need the old keys: {', '.join(off)}", err=True)
    for name, tally in tallies.items():
        for document_id, place in tally.unreadable[:_NAMED]:
            click.echo(f"{name} {document_id} {place}: cannot be decrypted or written", err=True)
        if len(tally.unreadable) > _NAMED:
            click.echo(f"{name}: and {len(tally.unreadable) - _NAMED} more", err=True)
    unfinished = bool(off) or any(tally.left for tally in tallies.values())
    unreadable = any(tally.unreadable for tally in tallies.values())
    return 1 if unreadable or (unfinished_is_bad and unfinished) else 0


def _as_dicts(tallies: dict[str, Tally]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "documents": tally.documents,
            "fields": tally.fields,
            "rewritten": tally.rewritten,
            "left": tally.left,
            "unreadable": [{"id": document_id, "field": place} for document_id, place in tally.unreadable],
        }
        for name, tally in tallies.items()
    }


def _fingerprint(ring: str, key: str) -> str:
    """Of one line, as the managers show it."""
    return key_fingerprint(Stretcher(_STRETCHED_FOR[ring]).masters(key)[0])


def _behind_the_first(ring: str, lines: list[str], fingerprint: str) -> str:
    """The line that has `fingerprint`; refuses one that is the first already, or not there."""
    by_print = {_fingerprint(ring, line): line for line in lines}
    if fingerprint not in by_print:
        raise click.ClickException(f"There is no key {fingerprint}, only {', '.join(by_print)}; a new one: flask keys new {ring} --write")
    if by_print[fingerprint] == lines[0]:
        raise click.ClickException(f"{fingerprint} is the first key already.")
    return by_print[fingerprint]


def _plugins_off(app_manager: AppManager) -> list[str]:
    """Keys of the enabled plugins that did not start: nobody has said which of their fields are encrypted."""
    return [plugin.key for plugin in app_manager.plugins if plugin.is_off]


def _refuse_needed(batch_size: int) -> None:
    """Where something is under an old key, or could be."""
    with booted() as app_manager:
        off = _plugins_off(app_manager)
        if off:
            raise click.ClickException(f"What plugins that are off have encrypted may need the old key; first start: {', '.join(off)}")
        tallies = _each_collection(Rotation(app_manager, batch_size), Rotation.count, "counting")
    if any(tally.left for tally in tallies.values()):
        _report(tallies)
        raise click.ClickException("The old key is still needed; first: flask keys rotate")


def _refuse_early(file: KeyFile, now: bool, more: float = 0) -> None:
    """Until every worker has read the last change, by our own SETTINGS_REFRESH, and `more` seconds have passed since."""
    if now:
        return
    refresh = _settings()["SETTINGS_REFRESH"]
    wait = max(_SETTLE_SECONDS, _SETTLE_LOOKS * refresh) + more - file.age()
    if wait > 0:
        long = f"{wait / _DAY:.1f} days" if wait > _DAY else f"{wait:.0f} seconds"
        raise click.ClickException(f"{file.path} was changed too recently: wait {long}, or say --now if you know what you do.")
    if not refresh:
        raise click.ClickException("SETTINGS_REFRESH is 0, so no worker has read the change: restart the workers first, then say --now.")


def _settings() -> Config:
    """Those that are no secrets, as workers with the same environment have them."""
    return load_plain(quiet_environment())


@contextmanager
def _key_file(ring: str) -> Iterator[KeyFile]:
    """The file of `ring`, with its failures in one line."""
    name = BY_KEY[_RINGS[ring]].file_name
    try:
        config = _settings()
        if config["VAULT_ADDR"]:
            raise click.ClickException(f"The secrets are in Vault: change {name} there; one key a line, the first one is the newest.")
        yield KeyFile(Path(config["SECRETS_DIR"]) / name)
    except (ConfigError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"secret {name}: {error.strerror} ({error.filename})") from error
