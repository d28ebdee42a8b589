"""Settings that work, and that a deployment should not have."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.doctor.finding import Finding, fail, ok, warn
from utils.addresses import is_loopback
from utils.config.config import SETTINGS

_FEW_CHARACTERS = 10
_LOUD_SCALE = 10
# What a secret of ours may be worth elsewhere.
_KEY_MATERIAL = ("JWT_SECRET", "ENCRYPTION_KEY", "REDIS_ENCRYPTION_KEY")

Config = Mapping[str, Any]


def settings(wrong: Sequence[str]) -> Iterator[Finding]:
    """What cannot be used at all, as the boot would say it."""
    for line in wrong:
        yield fail("settings", line, "Set it right; `flask settings` shows where each setting comes from.")
    if not wrong:
        yield ok("settings", f"all {len(SETTINGS)} can be used")


def secrets(config: Config) -> Iterator[Finding]:
    """The files of the secrets, and what they hold."""
    folder = Path(config["SECRETS_DIR"])
    files = [folder / setting.file_name for setting in SETTINGS if setting.secret and (folder / setting.file_name).is_file()]
    open_files = [file.name for file in files if stat.S_IMODE(file.stat().st_mode) & 0o007]
    if open_files:
        yield fail("secrets.modes", f"everybody here can read or write {', '.join(open_files)}", f"chmod o= {folder}/*")
    else:
        yield ok("secrets.modes", f"{len(files)} files in {folder}, none is open to everybody")
    values = {key: config[key] for key in _KEY_MATERIAL if config[key]}
    if len(set(values.values())) < len(values):
        yield warn("secrets.twins", "two kinds of keys have the same key material", "Give each a line of its own: `flask keys new`.")
    poor = [key.lower() for key, value in values.items() if len(set(value)) < _FEW_CHARACTERS]
    if poor:
        yield fail("secrets.strength", f"easily guessed: {', '.join(poor)}", "Replace it by a random one: `flask keys new`.")


def front(config: Config) -> Iterator[Finding]:
    """How clients reach us."""
    local, proxies = is_loopback(config["HOST"]), config["PROXY_COUNT"]
    if local or proxies:
        yield ok("front.proxies", f"listens on {config['HOST']}, trusts {proxies} proxies")
    else:
        advice = "Put a proxy with TLS in front, and say PROXY_COUNT=1; without it all clients would share the proxy's limits."
        yield warn("front.proxies", f"listens on {config['HOST']} and trusts no proxy", advice)
    if config["TRUSTED_HOSTS"] or local:
        yield ok("front.hosts", f"TRUSTED_HOSTS {','.join(config['TRUSTED_HOSTS']) or 'empty'}")
    else:
        yield warn("front.hosts", "requests may carry any host name", "List the names of this service in TRUSTED_HOSTS.")
    plain = [origin for origin in config["CORS_ORIGINS"] if not origin.startswith("https://")]
    if plain:
        yield warn("front.cors", f"origins without TLS may call us: {', '.join(plain)}", "Only list https:// origins in CORS_ORIGINS.")
    else:
        yield ok("front.cors", f"{len(config['CORS_ORIGINS'])} foreign origins may call us")
    note = "; clients that poll Socket.IO need a front that is sticky (haproxy/), or transports=['websocket']"
    yield ok("front.workers", f"{config['WORKERS']} workers{note if config['WORKERS'] > 1 else ''}")


def leniency(config: Config) -> Iterator[Finding]:
    """What was made easy for development."""
    found = [
        ("RATE_LIMIT_SCALE", config["RATE_LIMIT_SCALE"] > _LOUD_SCALE, "limits nobody"),
        ("RATE_LIMIT_SHADOW", "all" in config["RATE_LIMIT_SHADOW"], "nobody is limited or banned"),
        ("WEBHOOK_PRIVATE", config["WEBHOOK_PRIVATE"], "webhooks may reach into our own network"),
        ("LOG_LEVEL", config["LOG_LEVEL"] == "DEBUG", "logs grow fast"),
    ]
    for key, is_lenient, what in found:
        if is_lenient:
            yield warn("settings.lenient", f"{key}={_shown(config[key])}: {what}", f"Leave {key} at its default.")
    if not any(is_lenient for _, is_lenient, _ in found):
        yield ok("settings.lenient", "nothing that is meant for development")


def wires(config: Config) -> Iterator[Finding]:
    """Whether what goes to other machines is encrypted on the way."""
    mongodb = urlsplit(config["MONGODB_URI"])
    says_tls = mongodb.scheme.endswith("+srv") or any(word in mongodb.query.lower() for word in ("tls=true", "ssl=true"))
    hosts = [place.rsplit(":", 1)[0] for place in mongodb.netloc.rsplit("@", 1)[-1].split(",")]
    yield _wire("mongodb.tls", hosts, says_tls or bool(config.get("MONGODB_CA_FILE") or config.get("MONGODB_CERTIFICATE_FILE")), "tls=true")
    redis = urlsplit(config["REDIS_URL"])
    yield _wire("redis.tls", [redis.hostname or ""], redis.scheme == "rediss", "rediss:// in REDIS_URL")


def _wire(check: str, hosts: Sequence[str], has_tls: bool, how: str) -> Finding:
    far = [host for host in hosts if host and not is_loopback(host)]
    if far and not has_tls:
        return warn(check, f"no TLS to {', '.join(far)}", f"Use TLS ({how}), unless that network is yours alone.")
    return ok(check, "in use" if has_tls else "not needed on this machine")


def vault_address(config: Config) -> Iterator[Finding]:
    """Whether secrets would travel in the open."""
    address = config["VAULT_ADDR"]
    if not address:
        yield ok("vault.address", "not in use: secrets come from files")
    elif address.startswith("https://") or is_loopback(address.removeprefix("http://").split(":")[0].strip("/")):
        yield ok("vault.address", address)
    else:
        yield fail("vault.address", f"{address}: secrets travel in the open", "Use https://.")


def as_root() -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield warn("machine.account", "this is root; the application should not be", "Run it under an account of its own.")
    else:
        yield ok("machine.account", f"uid {os.geteuid()}")


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
