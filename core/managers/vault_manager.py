"""VaultManager: logs in to Vault (or OpenBao) by AppRole and reads our secrets; without VAULT_ADDR it stands aside."""

from __future__ import annotations

import threading
import time
from typing import Any

import hvac
import requests
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultError

from core.managers.base import BootError, Manager
from tools.error_handling.errors import Unavailable
from tools.logger.custom_logger import custom_log

SETTINGS_SECRET = "app"  # noqa: S105  the name of the secret that holds our settings
_CACHE_SECONDS = 300


class VaultManager(Manager):
    """Secrets by path and key. Values are cached; while Vault is away the last good ones are served."""

    name = "vault"

    def initialize(self) -> bool:
        self._cache: dict[str, tuple[float, dict[str, str]]] = {}
        self._lock = threading.Lock()
        self._client: hvac.Client | None = None
        address = self.app_manager.config["VAULT_ADDR"]
        if address:
            self._client = hvac.Client(url=address, timeout=self.app_manager.config["VAULT_TIMEOUT"])
            self._log_in(address)
        self.initialized = True
        return True

    @property
    def enabled(self) -> bool:
        """Whether there is a Vault to ask."""
        return self.initialized and self._client is not None

    def get_secret(self, path: str, key: str) -> str | None:
        """The value of `key` in the secret at `path` (below VAULT_PATH); None when there is none."""
        return self.get_all_secrets(path).get(key)

    def get_all_secrets(self, path: str) -> dict[str, str]:
        """All keys and values of the secret at `path`; empty when it does not exist or Vault is not in use.

        Raises Unavailable when Vault does not answer and nothing was read before.
        """
        if not self.enabled:
            return {}
        with self._lock:
            read_at, values = self._cache.get(path, (float("-inf"), {}))
            if time.monotonic() - read_at < _CACHE_SECONDS:
                return dict(values)
            try:
                values = self._read_signed_in(path)
            except (VaultError, requests.RequestException) as error:
                if path not in self._cache:
                    raise Unavailable("The secrets store does not answer.") from error
                custom_log("vault does not answer, serving the last good secrets", level="WARNING", error=type(error).__name__)
                return dict(values)
            self._cache[path] = (time.monotonic(), values)
            return dict(values)

    def settings(self) -> dict[str, str]:
        """The settings that Vault holds for us, keys in lower case. A boot-time call: failures are BootErrors."""
        try:
            return self.get_all_secrets(SETTINGS_SECRET)
        except Unavailable as error:
            place = f"{self.app_manager.config['VAULT_MOUNT']}/{self.app_manager.config['VAULT_PATH']}/{SETTINGS_SECRET}"
            raise BootError(f"vault at {self.app_manager.config['VAULT_ADDR']}: cannot read {place}") from error

    def check(self) -> tuple[str, dict[str, Any]]:
        if self._client is None:
            return "healthy", {"enabled": False}
        try:
            answer = self._client.sys.read_health_status(method="GET")
        except (VaultError, requests.RequestException) as error:
            return "degraded", {"enabled": True, "error": type(error).__name__}
        sealed = not isinstance(answer, dict) or bool(answer.get("sealed"))
        return ("degraded" if sealed else "healthy"), {"enabled": True, "sealed": sealed}

    def dispose(self) -> None:
        client, self._client = getattr(self, "_client", None), None
        if client is not None:
            client.adapter.close()
        self.initialized = False

    def _log_in(self, address: str) -> None:
        """The first log-in, whose failures the operator has to know of."""
        try:
            self._sign_in()
        except (InvalidRequest, Forbidden) as error:
            raise BootError(f"vault at {address}: AppRole log-in refused (vault_role_id, vault_secret_id)") from error
        except VaultError as error:
            raise BootError(f"vault at {address}: {type(error).__name__}") from error
        except requests.RequestException as error:
            raise BootError(f"vault at {address}: does not answer") from error

    def _sign_in(self) -> None:
        assert self._client is not None
        config = self.app_manager.config
        self._client.auth.approle.login(role_id=config["VAULT_ROLE_ID"], secret_id=config["VAULT_SECRET_ID"])

    def _read_signed_in(self, path: str) -> dict[str, str]:
        """Vault answers an expired token as it answers what we may not read; after a new log-in it is only the latter."""
        try:
            return self._read(path)
        except Forbidden:
            self._sign_in()
            return self._read(path)

    def _read(self, path: str) -> dict[str, str]:
        assert self._client is not None
        config = self.app_manager.config
        try:
            answer = self._client.secrets.kv.v2.read_secret_version(
                path=f"{config['VAULT_PATH']}/{path}", mount_point=config["VAULT_MOUNT"], raise_on_deleted_version=True
            )
        except InvalidPath:
            return {}
        return {key: str(value) for key, value in answer["data"]["data"].items()}
