"""Every setting, declared once, and how its value is found; nothing else in the product reads the environment."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MASK = "********"


class ConfigError(Exception):
    """A setting that is missing or cannot be used; the message names it and never shows a secret's value."""


def _as_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("not a boolean")


def _as_number(text: str) -> float:
    return _finite(float(text))


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError("not a number to calculate with")
    return number


def _as_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_PARSERS: dict[type, Callable[[str], Any]] = {str: str, int: int, float: _as_number, bool: _as_bool, tuple: _as_list}
_TYPE_NAMES = {str: "text", int: "integer", float: "number", bool: "boolean", tuple: "comma-separated list"}


@dataclass(frozen=True)
class Setting:
    """One setting. A secret has no default and is read from Vault or from a file, never from the environment."""

    key: str
    type: type
    default: Any
    doc: str
    secret: bool = False
    required: bool = True
    bootstrap: bool = False
    minimum: float | None = None
    maximum: float | None = None
    min_length: int = 1
    choices: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        return self.key.lower()

    def parse(self, raw: Any) -> Any:
        """`raw` (text, or a TOML value) as this setting's type; raises ConfigError that names the setting."""
        try:
            value = self._convert(raw)
        except ValueError:
            raise ConfigError(f"{self.key}: expected {_TYPE_NAMES[self.type]}") from None
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.key}: expected one of {', '.join(self.choices)}")
        if self.minimum is not None and value < self.minimum:
            raise ConfigError(f"{self.key}: must be at least {self.minimum:g}")
        if self.maximum is not None and value > self.maximum:
            raise ConfigError(f"{self.key}: must be at most {self.maximum:g}")
        if self.secret and min(map(len, value.splitlines()), default=0) < self.min_length:
            raise ConfigError(f"secret {self.file_name}: shorter than {self.min_length} characters")
        return value

    def _convert(self, raw: Any) -> Any:
        if isinstance(raw, str):
            return _PARSERS[self.type](raw)
        if self.type is tuple and isinstance(raw, list):
            return tuple(str(part) for part in raw)
        if self.type is float and isinstance(raw, (int, float)) and not isinstance(raw, bool):
            return _finite(float(raw))
        if type(raw) is self.type:
            return raw
        raise ValueError


def _secret(key: str, doc: str, *, min_length: int = 1, required: bool = True, bootstrap: bool = False) -> Setting:
    return Setting(key, str, "", doc, secret=True, min_length=min_length, required=required, bootstrap=bootstrap)


SETTINGS: tuple[Setting, ...] = (
    # Where other settings come from: these are known before Vault is asked.
    Setting("CONFIG_FILE", str, "", "Path of a TOML file with settings; empty: none.", bootstrap=True),
    Setting("SECRETS_DIR", str, "/secrets", "Directory with one file for each secret.", bootstrap=True),
    Setting("VAULT_ADDR", str, "", "Address of Vault or OpenBao; empty: secrets come from files.", bootstrap=True),
    Setting("VAULT_MOUNT", str, "secret", "Mount point of the KV version 2 engine.", bootstrap=True),
    Setting("VAULT_PATH", str, "credit-system", "Path under which our secrets lie; the settings are in its `app`.", bootstrap=True),
    Setting("VAULT_TIMEOUT", float, 2.0, "Seconds one call to Vault may take.", bootstrap=True, minimum=0.1),
    _secret("VAULT_ROLE_ID", "Role id of our AppRole; needed with VAULT_ADDR.", required=False, bootstrap=True),
    _secret("VAULT_SECRET_ID", "Secret id of our AppRole; needed with VAULT_ADDR.", required=False, bootstrap=True),
    # The server.
    Setting("HOST", str, "127.0.0.1", "Address to listen on."),
    Setting("PORT", int, 5000, "Port to listen on.", minimum=1, maximum=65535),
    Setting("WORKERS", int, 4, "Number of worker processes.", minimum=1),
    Setting("WORKER_CONNECTIONS", int, 1000, "Connections one worker serves at a time.", minimum=1),
    Setting("ASYNC_MODE", str, "eventlet", "Green threads of the workers.", choices=("eventlet", "gevent")),
    Setting("GRACEFUL_TIMEOUT", int, 5, "Seconds that requests in flight get to finish at a stop.", minimum=1),
    Setting("KEEPALIVE", int, 75, "Seconds an idle connection is kept open.", minimum=1),
    Setting("DATA_DIR", str, ".data", "Directory for run-time files (metrics of the workers)."),
    Setting("PROXY_COUNT", int, 0, "Number of trusted reverse proxies in front of us.", minimum=0),
    Setting("TRUSTED_HOSTS", tuple, (), "Host names that requests may carry; empty: any."),
    Setting("CORS_ORIGINS", tuple, (), "Origins that browsers may call us from, exact; empty: same origin only."),
    Setting("MAX_BODY_BYTES", int, 1_048_576, "Largest request body that is read.", minimum=1024),
    Setting("REQUEST_TIMEOUT", float, 4.0, "Seconds a request may take before it is answered 503.", minimum=0.5),
    Setting("PLUGINS", tuple, ("main_plugin",), "Plugins to start, by their key in the registry."),
    # Logs.
    Setting("LOG_DIR", str, "logs", "Directory of server.log, game_play.log and function.log."),
    Setting("LOG_LEVEL", str, "INFO", "Least severe level that is logged.", choices=("DEBUG", "INFO", "WARNING", "ERROR")),
    Setting("LOG_FORMAT", str, "json", "Form of a log line.", choices=("json", "text")),
    Setting("LOG_CONSOLE", str, "INFO", "Least severe level on the console.", choices=("DEBUG", "INFO", "WARNING", "ERROR")),
    # MongoDB.
    Setting("MONGODB_URI", str, "mongodb://127.0.0.1:27017/?replicaSet=rs0", "Replica set to use, without credentials."),
    Setting("MONGODB_DATABASE", str, "credit_system", "Name of the database."),
    Setting("MONGODB_POOL_SIZE", int, 32, "Connections of one worker's read-write pool.", minimum=2),
    Setting("MONGODB_TIMEOUT", float, 2.0, "Seconds to find a server or to open a connection.", minimum=0.1),
    _secret("MONGODB_USER", "Read-write user."),
    _secret("MONGODB_PASSWORD", "Password of the read-write user."),
    _secret("MONGODB_ANALYTICS_USER", "Read-only user."),
    _secret("MONGODB_ANALYTICS_PASSWORD", "Password of the read-only user."),
    _secret("MONGODB_ADMIN_USER", "User that may delete and make indexes."),
    _secret("MONGODB_ADMIN_PASSWORD", "Password of that user."),
    # Redis.
    Setting("REDIS_URL", str, "redis://127.0.0.1:6379/0", "Redis to use, without credentials."),
    Setting("REDIS_TIMEOUT", float, 0.5, "Seconds one command may take.", minimum=0.05),
    Setting("REDIS_POOL_SIZE", int, 64, "Connections of one worker's pool.", minimum=2),
    _secret("REDIS_PASSWORD", "Password of Redis."),
    _secret("REDIS_ENCRYPTION_KEY", "Key material for what is stored in Redis.", min_length=32),
    # Tokens, passwords, encryption.
    _secret("JWT_SECRET", "Key material for access and refresh tokens; one key a line, newest first.", min_length=32),
    Setting("JWT_ALGORITHM", str, "HS256", "Signature of new tokens; those of either kind are verified.", choices=("HS256", "EdDSA")),
    Setting("JWT_ISSUER", str, "credit-system", "The `iss` of our tokens."),
    Setting("JWT_AUDIENCE", str, "credit-system", "The `aud` of our tokens."),
    Setting("JWT_ACCESS_TTL", int, 900, "Seconds an access token lives.", minimum=1),
    Setting("JWT_REFRESH_TTL", int, 2_592_000, "Seconds a refresh token lives.", minimum=1),
    _secret("ENCRYPTION_KEY", "Key material for fields in MongoDB; one key a line, newest first.", min_length=32),
    Setting("ARGON2_TIME_COST", int, 2, "Passes of argon2id over its memory.", minimum=1),
    Setting("ARGON2_MEMORY_KIB", int, 19_456, "Memory of one argon2id hash in KiB.", minimum=8),
    Setting("ARGON2_CONCURRENCY", int, 2, "Password hashes one worker computes at a time.", minimum=1),
    Setting("ARGON2_QUEUE", int, 32, "Password hashes that may wait in one worker; more are answered 503.", minimum=1),
    _secret("ADMIN_EMAIL", "E-mail of the first admin, made at start while there is none.", required=False),
    _secret("ADMIN_PASSWORD", "Password of the first admin.", min_length=12, required=False),
    # Rate limits: requests/seconds.
    Setting("RATE_LIMIT_SCALE", float, 1.0, "Multiplies every limit.", minimum=0.001),
    Setting("RATE_LIMIT_IP", str, "1200/60", "All requests of one address."),
    Setting("RATE_LIMIT_USER", str, "600/60", "All requests of one user."),
    Setting("RATE_LIMIT_AUTH", str, "30/60", "Log-ins, registrations and refreshes of one address."),
    Setting("RATE_LIMIT_MONEY", str, "300/60", "Money verbs of one user."),
    Setting("RATE_LIMIT_DEGRADED_SHARE", float, 0.1, "Share of a limit that one worker grants while Redis is away.", minimum=0.0),
    Setting("BAN_THRESHOLD", int, 20, "Violations that lead to a ban.", minimum=1),
    Setting("VIOLATION_TTL", int, 600, "Seconds after which violations are forgotten.", minimum=1),
    Setting("BAN_SECONDS", int, 60, "Length of the first ban; each further one is twice as long.", minimum=1),
    Setting("BAN_MAX_SECONDS", int, 86_400, "Longest ban.", minimum=1),
    # Ledger.
    Setting("LEDGER_BATCH_MAX", int, 256, "Money verbs that one commit carries at the most.", minimum=1),
    Setting("LEDGER_QUEUE_MAX", int, 2048, "Money verbs that may wait in one worker; more are answered 503.", minimum=1),
    # Socket.IO.
    Setting("SOCKET_MAX_BYTES", int, 65_536, "Largest message a socket may send.", minimum=1024),
    Setting("SOCKET_EVENTS_PER_SECOND", int, 20, "Events one socket may send a second (bursts of twice that).", minimum=1),
    Setting("ROOM_MAX_MEMBERS", int, 1000, "Sockets that fit into one room.", minimum=1),
)
BY_KEY: dict[str, Setting] = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True)
class Value:
    """A setting's value and the source that won: `vault`, `secret file`, `config file`, `environment` or `default`."""

    value: Any
    origin: str


class Config(Mapping[str, Any]):
    """All settings, resolved; read as `config["PORT"]`. A key that is not declared raises KeyError."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key].value

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Config of {len(self)} settings>"

    def origin(self, key: str) -> str:
        return self._values[key].origin

    def rows(self) -> list[dict[str, str]]:
        """`{key, value, origin}` of every setting, for people: secrets are masked, and one that is not there is empty."""
        return [{"key": key, "value": _masked(key, entry.value), "origin": entry.origin} for key, entry in self._values.items()]

    def describe(self) -> list[str]:
        """One line for each setting that is not at its default: key, value (secrets masked) and source."""
        return [f"{row['key']} = {row['value']} ({row['origin']})" for row in self.rows() if row["origin"] != "default"]


def quiet_environment() -> dict[str, str]:
    """The environment for a command whose own output matters: only errors reach the console, unless it says otherwise."""
    return {"LOG_CONSOLE": "ERROR", **os.environ}


def load_bootstrap(environ: Mapping[str, str] = os.environ) -> Config:
    """First pass: the settings that say where the others come from (files, environment, default)."""
    file_values = _config_file(environ)
    found: dict[str, Value] = {}
    for setting in (s for s in SETTINGS if s.bootstrap):
        secrets_dir = found["SECRETS_DIR"].value if "SECRETS_DIR" in found else ""
        found[setting.key] = _resolve(setting, {}, file_values, secrets_dir, environ)
    if found["VAULT_ADDR"].value:
        _refuse_missing(found, ("VAULT_ROLE_ID", "VAULT_SECRET_ID"))
    return Config(found)


def load_config(vault: Mapping[str, str] | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Second pass: every setting, in the order Vault, files, environment, default.

    `vault`: what Vault holds for us, keys in lower case. Raises ConfigError that names a missing or unusable setting.
    """
    bootstrap = load_bootstrap(environ)
    file_values = _config_file(environ)
    found = {
        setting.key: _resolve(setting, vault or {}, file_values, bootstrap["SECRETS_DIR"], environ)
        for setting in SETTINGS
        if not setting.bootstrap
    }
    _refuse_missing(found, (key for key in found if BY_KEY[key].secret and BY_KEY[key].required))
    return Config({**{key: Value(bootstrap[key], bootstrap.origin(key)) for key in bootstrap}, **found})


def load_plain(environ: Mapping[str, str] = os.environ) -> Config:
    """The settings that are no secrets, from the config file and the environment; for what runs before Vault is up."""
    file_values = _config_file(environ)
    plain = (setting for setting in SETTINGS if not setting.secret)
    return Config({s.key: _resolve(s, {}, file_values, "", environ) for s in plain})


def _resolve(
    setting: Setting, vault: Mapping[str, str], file_values: Mapping[str, Any], secrets_dir: str, environ: Mapping[str, str]
) -> Value:
    if setting.file_name in vault:
        return Value(setting.parse(vault[setting.file_name]), "vault")
    if setting.secret:
        text = _read_secret(setting, secrets_dir)
        return Value(None, "default") if text is None else Value(setting.parse(text), "secret file")
    if setting.key in file_values:
        return Value(setting.parse(file_values[setting.key]), "config file")
    if setting.key in environ:
        return Value(setting.parse(environ[setting.key]), "environment")
    return Value(setting.default, "default")


def _read_secret(setting: Setting, secrets_dir: str) -> str | None:
    if not secrets_dir:
        return None
    path = Path(secrets_dir) / setting.file_name
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"secret {setting.file_name}: cannot read {path} ({type(error).__name__})") from error


def _refuse_missing(found: Mapping[str, Value], keys: Iterable[str]) -> None:
    missing = [BY_KEY[key].file_name for key in keys if found[key].value is None]
    if missing:
        raise ConfigError(f"missing secret {', '.join(missing)}: put each into a file of that name in SECRETS_DIR, or into Vault")


def _config_file(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the config file says; where it is, only the environment can say."""
    path = environ.get("CONFIG_FILE", "")
    if not path:
        return {}
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"CONFIG_FILE: cannot read {path} ({type(error).__name__})") from error
    unknown = sorted(key for key in values if key not in BY_KEY)
    if unknown:
        raise ConfigError(f"CONFIG_FILE: unknown setting {', '.join(unknown)}")
    if "CONFIG_FILE" in values:
        raise ConfigError("CONFIG_FILE: a config file cannot name another one")
    secret = sorted(key for key in values if BY_KEY[key].secret)
    if secret:
        raise ConfigError(f"CONFIG_FILE: {', '.join(secret)} is a secret, and belongs into a file of its own")
    return values


def _masked(key: str, value: Any) -> str:
    if value is None:
        return ""
    return MASK if BY_KEY[key].secret else _shown(value)


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def example_environment() -> str:
    """`.env.example`: every setting that may come from the environment, at its default, with what it is."""
    lines = ["# Settings and their defaults; secrets do not belong here but into files (SECRETS_DIR) or Vault."]
    for setting in SETTINGS:
        if not setting.secret:
            lines += ["", f"# {setting.doc}", f"#{setting.key}={_shown(setting.default)}"]
    return "\n".join(lines)


def settings_table() -> str:
    """The settings as a Markdown table, as the README shows it."""
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for setting in SETTINGS:
        if setting.secret:
            default = f"file `{setting.file_name}`" + ("" if setting.required else ", optional")
        else:
            default = f"`{_shown(setting.default)}`" if setting.default not in ("", ()) else "empty"
        choices = f" One of {', '.join(f'`{choice}`' for choice in setting.choices)}." if setting.choices else ""
        rows.append(f"| `{setting.key}` | {default} | {setting.doc}{choices} |")
    return "\n".join(rows)
