"""VaultManager: logs in to Vault (or OpenBao) by AppRole and reads our secrets; without VAULT_ADDR it stands aside."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import hvac
import requests
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultError

from core import metrics
from core.managers.base import BootError, Manager
from core.managers.vault_leases import VaultLeases
from core.managers.vault_session import VAULT_ERRORS, VaultSession, WrappingTokenSpent, retry_due
from tools.error_handling.errors import Unavailable
from tools.logger.custom_logger import custom_log
from utils.background import Ticker

SETTINGS_SECRET = "app"  # noqa: S105  the name of the secret that holds our settings
_LOOK_SECONDS = 1.0


@dataclass
class _Secret:
    """The keys of one path as they were at `read_at`; to be read again at `due_at` (times of `time.monotonic`)."""

    values: dict[str, str]
    read_at: float
    due_at: float
    failures: int = 0


class VaultManager(Manager):
    """Secrets by path and key, and leased ones. A thread keeps token, leases and values fresh; nobody waits for that.

    While Vault is sealed or away the last good values are served, for VAULT_MAX_AGE seconds.
    """

    name = "vault"
    live_settings = frozenset({"VAULT_ROLE_ID", "VAULT_SECRET_ID", "VAULT_WRAPPED_SECRET_ID"})

    def initialize(self) -> bool:
        self._secrets: dict[str, _Secret] = {}
        self._kv_version = ""
        self._lock = threading.Lock()
        self._session: VaultSession | None = None
        if self.app_manager.config["VAULT_ADDR"]:
            self._session = VaultSession(self.app_manager)
            self._log_in(self._session)
            self._leases = VaultLeases(self._session)
            self._keeper = Ticker("vault-keeper", _LOOK_SECONDS, self._keep, self._keep_failed)
            self._keeper.start()
        self.initialized = True
        return True

    @property
    def enabled(self) -> bool:
        """Whether there is a Vault to ask."""
        return self.initialized and self._session is not None

    def get_secret(self, path: str, key: str) -> str | None:
        """The value of `key` in the secret at `path` (below VAULT_PATH); None when there is none."""
        return self.get_all_secrets(path).get(key)

    def get_all_secrets(self, path: str) -> dict[str, str]:
        """All keys and values of the secret at `path`; empty when it does not exist or Vault is not in use.

        Raises Unavailable when Vault does not answer and nothing was read before, or too long ago.
        """
        if not self.enabled:
            return {}
        secret = self._secrets.get(path)
        if secret is None:
            with self._lock:
                # Who waited for the lock finds what the one before has read.
                secret = self._secrets.get(path) or self._read(path)
        elif secret.failures and time.monotonic() - secret.read_at > self._max_age:
            raise Unavailable("The secrets store has been away for too long.")
        return dict(secret.values)

    def refresh(self, path: str) -> dict[str, str]:
        """As `get_all_secrets`, but read anew; raises Unavailable when Vault does not answer."""
        return dict(self._read(path).values) if self.app_manager.config["VAULT_ADDR"] else {}

    def get_dynamic_secret(self, path: str, **parameters: Any) -> dict[str, Any]:
        """What Vault makes for us at `path` (from its root, as `database/creds/app`); with `parameters` it is written to.

        The lease is renewed while it can be, then replaced: ask again instead of keeping the answer. Raises KeyError when
        there is no such path, ValueError when nothing is leased there, Unavailable when Vault does not give one.
        """
        if self._session is None:
            raise Unavailable("There is no secrets store.")
        try:
            return self._leases.get(path, parameters)
        except InvalidPath as error:
            raise KeyError(path) from error
        except VAULT_ERRORS as error:
            raise Unavailable("The secrets store gives no lease.") from error

    def settings(self) -> dict[str, str]:
        """The settings that Vault holds for us, keys in lower case. A boot-time call: failures are BootErrors."""
        try:
            return self.get_all_secrets(SETTINGS_SECRET)
        except Unavailable as error:
            place = f"{self.app_manager.config['VAULT_MOUNT']}/{self.app_manager.config['VAULT_PATH']}/{SETTINGS_SECRET}"
            raise BootError(f"vault at {self.app_manager.config['VAULT_ADDR']}: cannot read {place}") from error

    def fresh_settings(self) -> dict[str, str]:
        """As `settings`, but read anew, while running: raises Unavailable."""
        return self.refresh(SETTINGS_SECRET)

    def reload(self) -> None:
        """Log in with the new ids; the old token stays in use when that is refused."""
        if self._session is not None:
            self._session.sign_in()

    def check(self) -> tuple[str, dict[str, Any]]:
        session = self._session
        if session is None:
            return "healthy", {"enabled": False}
        began = time.perf_counter()
        try:
            answer = session.health()
            state: dict[str, Any] = {"sealed": bool(answer.get("sealed"))}
        except VAULT_ERRORS as error:
            state = {"error": type(error).__name__}
        state["latency_ms"] = round((time.perf_counter() - began) * 1000, 1)
        away = session.failing or state.get("sealed", True)
        # What could not be read again, whatever the reason: how old it is.
        ages = [time.monotonic() - secret.read_at for secret in list(self._secrets.values()) if secret.failures]
        if max([*ages, session.seconds_silent if away else 0.0]) > self._max_age:
            status = "unhealthy"
        else:
            status = "degraded" if away or ages or session.renewal_failures else "healthy"
        return status, {"enabled": True, **state, **self._figures(session)}

    def dispose(self) -> None:
        self.initialized = False
        session, self._session = getattr(self, "_session", None), None
        if session is None:
            return
        # Not there when the log-in failed.
        if hasattr(self, "_keeper"):
            self._keeper.stop()
            if not session.failing:
                self._leases.revoke()
        session.close()

    @property
    def _max_age(self) -> float:
        seconds: float = self.app_manager.config["VAULT_MAX_AGE"]
        return seconds

    def _figures(self, session: VaultSession) -> dict[str, Any]:
        left = session.seconds_left
        return {
            "last_answer_seconds": round(session.seconds_silent, 1),
            "token_ttl_seconds": None if left == float("inf") else round(left),
            "leases": len(self._leases),
            "connections": session.pool(),
        }

    def _log_in(self, session: VaultSession) -> None:
        """The first log-in, whose failures the operator has to know of."""
        try:
            session.sign_in()
        except WrappingTokenSpent as error:
            spent = "vault_wrapped_secret_id was unwrapped before, or has expired; if it was not by us, somebody else has the secret id"
            raise BootError(f"vault at {session.address}: {spent}") from error
        except (InvalidRequest, Forbidden) as error:
            raise BootError(f"vault at {session.address}: AppRole log-in refused (vault_role_id, vault_secret_id)") from error
        except VaultError as error:
            raise BootError(f"vault at {session.address}: {type(error).__name__}") from error
        except requests.RequestException as error:
            raise BootError(f"vault at {session.address}: does not answer") from error

    # In the background

    def _keep(self) -> None:
        if self._session is None:
            return
        self._session.keep_alive()
        self._leases.keep_alive()
        for path, secret in list(self._secrets.items()):
            if time.monotonic() >= secret.due_at:
                self._read_again(path, secret)

    def _keep_failed(self, error: Exception) -> None:
        custom_log("the vault keeper failed", level="ERROR", error=type(error).__name__)

    def _read_again(self, path: str, secret: _Secret) -> None:
        try:
            self._read(path)
        except Unavailable as error:
            secret.failures += 1
            secret.due_at = retry_due(secret.failures)
            metrics.VAULT_REFRESH_FAILURES.labels("secret").inc()
            custom_log("vault does not answer, serving the last good secrets", level="WARNING", error=type(error.__cause__).__name__)

    # Reading

    def _read(self, path: str) -> _Secret:
        if self._session is None:
            raise Unavailable("The secrets store is closed.")
        try:
            values = self._session.call(lambda client: self._read_kv(client, path))
        except VAULT_ERRORS as error:
            raise Unavailable("The secrets store does not answer.") from error
        now = time.monotonic()
        secret = self._secrets[path] = _Secret(values, now, now + self.app_manager.config["VAULT_CACHE_TTL"])
        return secret

    def _read_kv(self, client: hvac.Client, path: str) -> dict[str, str]:
        config = self.app_manager.config
        place = {"path": f"{config['VAULT_PATH']}/{path}", "mount_point": config["VAULT_MOUNT"]}
        try:
            if self._version_of_engine(client) == "1":
                values = client.secrets.kv.v1.read_secret(**place)["data"]
            else:
                values = client.secrets.kv.v2.read_secret_version(**place, raise_on_deleted_version=True)["data"]["data"]
        except InvalidPath:
            return {}
        return {key: str(value) for key, value in values.items()}

    def _version_of_engine(self, client: hvac.Client) -> str:
        """As set, else as the mount says; 2 where it does not tell us, which then is said by the read."""
        config = self.app_manager.config
        if not self._kv_version and config["VAULT_KV_VERSION"] == "auto":
            try:
                mount = client.adapter.get(f"/v1/sys/internal/ui/mounts/{config['VAULT_MOUNT']}")
            except Forbidden:
                return "2"
            self._kv_version = (mount["data"].get("options") or {}).get("version", "1")
        return self._kv_version or config["VAULT_KV_VERSION"]
