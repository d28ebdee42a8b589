"""Every setting, declared once, and how its value is found; nothing else in the product reads the environment."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

MASK = "********"
# The bits of a file's mode that are about neither its owner nor its group.
_OTHERS = 0o007


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
    Setting("VAULT_MOUNT", str, "secret", "Mount point of the KV engine.", bootstrap=True),
    Setting("VAULT_KV_VERSION", str, "auto", "Version of that engine; auto: ask it.", bootstrap=True, choices=("auto", "1", "2")),
    Setting("VAULT_PATH", str, "credit-system", "Path under which our secrets lie; the settings are in its `app`.", bootstrap=True),
    Setting("VAULT_TIMEOUT", float, 2.0, "Seconds one call to Vault may take.", bootstrap=True, minimum=0.1),
    Setting("VAULT_CACHE_TTL", float, 300.0, "Seconds after which a secret is read again, in the background.", bootstrap=True, minimum=0.1),
    Setting("VAULT_MAX_AGE", float, 3600.0, "Seconds for which the last good secrets do while Vault is away.", bootstrap=True, minimum=1.0),
    Setting("VAULT_HANDOVER_FD", int, 0, "Set by gunicorn.conf.py: where its processes share a log-in.", bootstrap=True, minimum=0),
    _secret("VAULT_ROLE_ID", "Role id of our AppRole; needed with VAULT_ADDR.", required=False, bootstrap=True),
    _secret("VAULT_SECRET_ID", "Secret id of our AppRole; needed with VAULT_ADDR, unless wrapped.", required=False, bootstrap=True),
    _secret("VAULT_WRAPPED_SECRET_ID", "Response-wrapping token that holds the secret id.", required=False, bootstrap=True),
    Setting("SETTINGS_REFRESH", float, 30.0, "Seconds between looks for changes in Vault and secret files; 0: never.", minimum=0.0),
    # The server.
    Setting("HOST", str, "127.0.0.1", "Address to listen on."),
    Setting("PORT", int, 5000, "Port to listen on.", minimum=1, maximum=65535),
    Setting("WORKERS", int, 4, "Number of worker processes.", minimum=1),
    Setting("WORKER_CONNECTIONS", int, 1000, "Connections one worker serves at a time.", minimum=1),
    Setting("ASYNC_MODE", str, "eventlet", "Green threads of the workers.", choices=("eventlet", "gevent")),
    Setting("GRACEFUL_TIMEOUT", int, 5, "Seconds that requests in flight get to finish at a stop.", minimum=1),
    Setting("KEEPALIVE", int, 75, "Seconds an idle connection is kept open.", minimum=1),
    Setting("DATA_DIR", str, ".data", "Directory for run-time files (metrics of the workers)."),
    Setting("METRICS_SECONDS", float, 15.0, "Seconds between two looks at what the gauges of /metrics tell.", minimum=0.5),
    _secret("METRICS_TOKEN", "Token that /metrics asks for; without one it is open.", min_length=32, required=False),
    Setting("PROXY_COUNT", int, 0, "Number of trusted reverse proxies in front of us.", minimum=0),
    Setting("TRUSTED_HOSTS", tuple, (), "Host names that requests may carry; empty: any."),
    Setting("CORS_ORIGINS", tuple, (), "Origins that browsers may call us from, exact; empty: same origin only."),
    Setting("MAX_BODY_BYTES", int, 1_048_576, "Largest request body that is read.", minimum=1024),
    Setting("REQUEST_TIMEOUT", float, 4.0, "Seconds a request may take before it is answered 503.", minimum=0.5),
    Setting("PLUGINS", tuple, ("main_plugin",), "Plugins to start, by key; the boot goes on without one that is marked like `?this`."),
    # Logs.
    Setting("LOG_DIR", str, "logs", "Directory of server.log, game_play.log and function.log."),
    Setting("LOG_LEVEL", str, "INFO", "Least severe level that is logged.", choices=("DEBUG", "INFO", "WARNING", "ERROR")),
    Setting("LOG_FORMAT", str, "json", "Form of a log line.", choices=("json", "text")),
    Setting("LOG_CONSOLE", str, "INFO", "Least severe level on the console.", choices=("DEBUG", "INFO", "WARNING", "ERROR")),
    Setting("LOG_MAX_BYTES", int, 104_857_600, "Size at which a log file is rotated; 0: never, something else does it.", minimum=0),
    Setting("LOG_BACKUPS", int, 5, "Rotated log files that are kept of each.", minimum=1),
    # External services.
    Setting("SERVICES", tuple, (), "External services as name=url; several entries of one name are its addresses."),
    Setting("SERVICES_PRIVATE", tuple, (), "Names of those that may be in our own network (loopback, 10.0.0.0/8, ...)."),
    Setting("SERVICE_TIMEOUT", float, 2.0, "Seconds one attempt to call a service may take.", minimum=0.05),
    Setting("SERVICE_BALANCE", str, "round_robin", "Which address is asked next.", choices=("round_robin", "least_pending")),
    Setting("SERVICE_PROBE", bool, False, "Whether each address is asked for its health at every upkeep."),
    Setting("SERVICE_UPKEEP_SECONDS", float, 30.0, "Seconds after which the services' names are resolved anew.", minimum=1.0),
    # MongoDB.
    Setting("MONGODB_URI", str, "mongodb://127.0.0.1:27017/?replicaSet=rs0", "Replica set to use, without credentials."),
    Setting("MONGODB_CA_FILE", str, "", "PEM file with who may vouch for MongoDB; turns TLS on. Empty: as MONGODB_URI says (`tls=true`)."),
    Setting("MONGODB_CERTIFICATE_FILE", str, "", "PEM file with our own certificate and its key for MongoDB; turns TLS on."),
    Setting("MONGODB_DATABASE", str, "credit_system", "Name of the database."),
    Setting("MONGODB_POOL_SIZE", int, 32, "Connections of one worker's read-write pool.", minimum=2),
    Setting("MONGODB_TIMEOUT", float, 2.0, "Seconds to find a server or to open a connection.", minimum=0.1),
    Setting("MONGODB_CONNECT_SECONDS", float, 3.0, "Seconds the boot waits for a MongoDB that is not there yet.", minimum=0.0),
    Setting("MONGODB_SLOW_MS", int, 200, "Milliseconds from which on a command is logged as slow.", minimum=1),
    Setting("AUDIT_SEAL_SECONDS", float, 5.0, "Seconds between two rounds of sealing the audit log, and the ledger.", minimum=0.05),
    Setting(
        "AUDIT_SEAL_DELAY",
        float,
        100.0,
        "Seconds before a row of the audit log or the ledger is sealed; above 1.5 times MongoDB's transactionLifetimeLimitSeconds.",
        minimum=0.0,
    ),
    _secret("MONGODB_USER", "Read-write user."),
    _secret("MONGODB_PASSWORD", "Password of the read-write user."),
    _secret("MONGODB_ANALYTICS_USER", "Read-only user."),
    _secret("MONGODB_ANALYTICS_PASSWORD", "Password of the read-only user."),
    _secret("MONGODB_ADMIN_USER", "User that may delete and make indexes."),
    _secret("MONGODB_ADMIN_PASSWORD", "Password of that user."),
    # Redis.
    Setting("REDIS_URL", str, "redis://127.0.0.1:6379/0", "Redis to use, without credentials; rediss:// is over TLS."),
    Setting("REDIS_CA_FILE", str, "", "PEM file with who may vouch for Redis; empty: the authorities of this machine. Needs rediss://."),
    Setting("REDIS_CERTIFICATE_FILE", str, "", "PEM file with our own certificate and its key for Redis. Needs rediss://."),
    Setting("REDIS_TIMEOUT", float, 0.5, "Seconds one command may take.", minimum=0.05),
    Setting("REDIS_POOL_SIZE", int, 64, "Connections of one worker's pool.", minimum=2),
    _secret("REDIS_PASSWORD", "Password of Redis."),
    _secret(
        "REDIS_ENCRYPTION_KEY",
        "Key material for what is stored in Redis; one key a line, newest first. The last line also names bans: another one there"
        " takes a restart of all workers, and ends the bans.",
        min_length=32,
    ),
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
    # Rate limits: [fixed:|sliding:|bucket:]requests/seconds[:burst].
    Setting("RATE_LIMIT_SCALE", float, 1.0, "Multiplies every limit.", minimum=0.001),
    Setting("RATE_LIMIT_IP", str, "fixed:1200/60", "All requests of one address (IPv6: of one /64)."),
    Setting("RATE_LIMIT_USER", str, "fixed:600/60", "All requests of one user."),
    Setting("RATE_LIMIT_API_KEY", str, "fixed:1200/60", "All requests with one API key."),
    Setting("RATE_LIMIT_AUTH", str, "sliding:30/60", "Log-ins, registrations and refreshes of one address."),
    Setting("RATE_LIMIT_MONEY", str, "bucket:300/60", "Money verbs of one user (or API key)."),
    Setting("RATE_LIMIT_SHADOW", tuple, (), "Policies that only count and refuse nothing; `all`: every one, and the bans."),
    Setting("RATE_LIMIT_ALLOW", tuple, (), "Addresses and networks (CIDR) that are not limited or banned as addresses."),
    Setting("RATE_LIMIT_DEGRADED_SHARE", float, 0.1, "Share of a limit that one worker grants while Redis is away.", minimum=0.0),
    Setting("BAN_THRESHOLD", int, 20, "Violations at a time that are tolerated; one more leads to a ban.", minimum=1),
    Setting("VIOLATION_SECONDS", int, 30, "Seconds in which one violation is forgiven.", minimum=1),
    Setting("BAN_SECONDS", int, 60, "Length of the first ban; each further one is twice as long.", minimum=1),
    Setting("BAN_MAX_SECONDS", int, 86_400, "Longest ban; after as long again one of the bans is forgotten.", minimum=1),
    # Ledger.
    Setting("LEDGER_BATCH_MAX", int, 256, "Money verbs that one commit carries at the most.", minimum=1),
    Setting("LEDGER_LANES", int, 2, "Commits of one worker that may be on their way at a time, on different wallets.", minimum=1),
    Setting("LEDGER_QUEUE_MAX", int, 2048, "Money verbs that may wait in one worker; more are answered 503.", minimum=1),
    Setting("LEDGER_CHECK_SECONDS", float, 60.0, "Seconds between two verifications of the whole ledger in the background.", minimum=0.1),
    # Hooks.
    Setting("HOOK_QUEUE_MAX", int, 1000, "Asynchronous notices that may wait in one worker; more are dropped and counted.", minimum=1),
    Setting("LEDGER_SWEEP_SECONDS", float, 5.0, "Seconds between looks for holds and grants that have ended.", minimum=0.1),
    # Webhooks.
    Setting("WEBHOOK_PRIVATE", bool, False, "Whether webhooks may lead into our own network (loopback, 10.0.0.0/8, ...), and over http."),
    Setting("WEBHOOK_TIMEOUT", float, 10.0, "Seconds a webhook's receiver may take to answer.", minimum=0.1),
    Setting("WEBHOOK_SECONDS", float, 1.0, "Seconds between looks for events to tell, and for deliveries that are due.", minimum=0.05),
    Setting("WEBHOOK_CONCURRENCY", int, 32, "Deliveries that one worker has on their way at a time.", minimum=1),
    Setting("SCHEDULES_SECONDS", float, 1.0, "Seconds between looks for scheduled transfers that are due.", minimum=0.05),
    Setting("SCHEDULES_PER_OWNER", int, 100, "Active schedules that may pay out of one user's wallets.", minimum=1, maximum=10_000),
    # Socket.IO.
    Setting("SOCKET_MAX_BYTES", int, 65_536, "Largest message a socket may send.", minimum=1024),
    Setting("SOCKET_EVENTS_PER_SECOND", int, 20, "Events one socket may send a second (bursts of twice that).", minimum=1),
    Setting("SOCKET_USER_EVENTS_PER_SECOND", int, 60, "Events all sockets of a user at one worker may send a second.", minimum=1),
    Setting("SOCKET_BUFFER_BYTES", int, 1_048_576, "Bytes that may wait for a slow reader before it is cut off.", minimum=1024),
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

    def __init__(self, values: Mapping[str, Value], declared: Iterable[Setting] = ()) -> None:
        """`declared`: settings of plugins, on top of our own."""
        self._values = dict(values)
        self._declared = tuple(declared)
        self._secret = {setting.key for setting in (*SETTINGS, *self._declared) if setting.secret}

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

    def with_changes(self, fresh: Config, keys: Iterable[str]) -> Config:
        """A copy that has the values of `keys` from `fresh`."""
        return Config({**self._values, **{key: Value(fresh[key], fresh.origin(key)) for key in keys}}, self._declared)

    def rows(self) -> list[dict[str, str]]:
        """`{key, value, origin}` of every setting, for people: secrets are masked, and one that is not there is empty."""
        return [{"key": key, "value": self._masked(key), "origin": entry.origin} for key, entry in self._values.items()]

    def describe(self) -> list[str]:
        """One line for each setting that is not at its default: key, value (secrets masked) and source."""
        return [f"{row['key']} = {row['value']} ({row['origin']})" for row in self.rows() if row["origin"] != "default"]

    def _masked(self, key: str) -> str:
        value = self[key]
        if value is None:
            return ""
        return MASK if key in self._secret else _shown(value)


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
        _refuse_bad_log_in(found)
    return Config(found)


def survey(
    vault: Mapping[str, str] | None = None, environ: Mapping[str, str] = os.environ, *, more: Sequence[Setting] = ()
) -> tuple[Config, list[str]]:
    """As `load_config`, for people: every setting that can be resolved, and one line for each thing that is wrong."""
    wrong: list[str] = []

    def noted(load: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return load()
        except ConfigError as error:
            wrong.append(str(error))
            return otherwise

    file_values = noted(lambda: _config_file(environ), {})
    found: dict[str, Value] = {}
    for setting in (*SETTINGS, *more):
        held = {} if setting.bootstrap or vault is None else vault
        secrets_dir = found["SECRETS_DIR"].value if "SECRETS_DIR" in found else ""
        resolve = partial(_resolve, setting, held, file_values, secrets_dir, environ)
        found[setting.key] = noted(resolve, Value(None, "unusable"))
    needed = [setting for setting in (*SETTINGS, *more) if setting.secret and setting.required]
    noted(lambda: _refuse_missing(found, [setting for setting in needed if found[setting.key].origin != "unusable"]), None)
    if found["VAULT_ADDR"].value:
        noted(lambda: _refuse_bad_log_in(found), None)
    return Config(found, more), wrong


def load_config(
    vault: Mapping[str, str] | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    more: Sequence[Setting] = (),
    left_out: Sequence[str] = (),
) -> Config:
    """Second pass: every setting, in the order Vault, files, environment, default.

    `vault`: what Vault holds for us, keys in lower case. `more`: what plugins declare; `left_out`: how keys begin that
    the config file may hold although nobody declares them now. Raises ConfigError that names a missing or unusable setting.
    """
    bootstrap = load_bootstrap(environ)
    file_values, declared = _config_file(environ), {**BY_KEY, **{setting.key: setting for setting in more}}
    _refuse_secrets(file_values, declared)
    _refuse_unknown(file_values, declared, tuple(left_out))
    settings = [setting for setting in (*SETTINGS, *more) if not setting.bootstrap]
    found = _resolve_all(settings, vault or {}, environ, bootstrap["SECRETS_DIR"])
    return Config({**{key: Value(bootstrap[key], bootstrap.origin(key)) for key in bootstrap}, **found}, more)


def load_one(key: str, vault: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> Any:
    """One of our own settings, for what has to be known before all of them can be."""
    return _resolve_all([BY_KEY[key]], vault, environ, load_bootstrap(environ)["SECRETS_DIR"])[key].value


def check_settings(settings: Sequence[Setting], vault: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> None:
    """Raises ConfigError for what is missing or unusable among `settings`."""
    _resolve_all(settings, vault, environ, load_bootstrap(environ)["SECRETS_DIR"])


def _resolve_all(settings: Sequence[Setting], vault: Mapping[str, str], environ: Mapping[str, str], secrets_dir: str) -> dict[str, Value]:
    file_values = _config_file(environ)
    found = {setting.key: _resolve(setting, vault, file_values, secrets_dir, environ) for setting in settings}
    _refuse_missing(found, [setting for setting in settings if setting.secret and setting.required])
    return found


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
        text, mode = path.read_text(encoding="utf-8").strip(), path.stat().st_mode
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"secret {setting.file_name}: cannot read {path} ({type(error).__name__})") from error
    if mode & _OTHERS:
        raise ConfigError(f"secret {setting.file_name}: every user of this machine may read or change {path} (chmod o= does away with it)")
    return text


def _refuse_bad_log_in(found: Mapping[str, Value]) -> None:
    secret_ids = [key for key in ("VAULT_SECRET_ID", "VAULT_WRAPPED_SECRET_ID") if found[key].value is not None]
    if len(secret_ids) > 1:
        raise ConfigError("secrets vault_secret_id and vault_wrapped_secret_id: only one of them may be there")
    _refuse_missing(found, [BY_KEY[key] for key in ("VAULT_ROLE_ID", *(secret_ids or ["VAULT_SECRET_ID"]))])


def _refuse_missing(found: Mapping[str, Value], needed: Iterable[Setting]) -> None:
    missing = [setting.file_name for setting in needed if found[setting.key].value is None]
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
    if "CONFIG_FILE" in values:
        raise ConfigError("CONFIG_FILE: a config file cannot name another one")
    _refuse_secrets(values, BY_KEY)
    return values


def _refuse_secrets(values: Mapping[str, Any], declared: Mapping[str, Setting]) -> None:
    secret = sorted(key for key in values if key in declared and declared[key].secret)
    if secret:
        raise ConfigError(f"CONFIG_FILE: {', '.join(secret)} is a secret, and belongs into a file of its own")


def _refuse_unknown(values: Mapping[str, Any], declared: Mapping[str, Setting], left_out: tuple[str, ...]) -> None:
    unknown = sorted(key for key in values if key not in declared and not key.startswith(left_out))
    if unknown:
        raise ConfigError(f"CONFIG_FILE: unknown setting {', '.join(unknown)}")


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
