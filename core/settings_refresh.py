"""Rotation: what changes in Vault and in the secret files reaches the managers that can take it over while they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from core import metrics
from core.managers.base import Manager
from tools.error_handling.errors import Unavailable
from tools.logger.custom_logger import custom_log, log_exception
from utils.background import Ticker
from utils.config.config import Config, ConfigError

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager


class SettingsRefresh:
    """Resolves the settings every SETTINGS_REFRESH seconds. Whatever goes wrong with it, what runs stays as it was."""

    def __init__(self, app_manager: AppManager, resolve: Callable[[], Config]) -> None:
        """`resolve` raises ConfigError, or Unavailable while Vault is away."""
        self._app_manager = app_manager
        self._resolve = resolve
        self._ticker: Ticker | None = None
        # What the log has been told, by setting: each new value is worth one line.
        self._told: dict[str, Any] = {}

    def start(self) -> None:
        """Begin to look; not at all when SETTINGS_REFRESH is 0."""
        seconds = self._app_manager.config["SETTINGS_REFRESH"]
        if seconds:
            self._ticker = Ticker("settings-refresh", seconds, self.refresh, self._failed)
            self._ticker.start()

    def stop(self) -> None:
        """Safe to call twice."""
        ticker, self._ticker = self._ticker, None
        if ticker is not None:
            ticker.stop()

    def refresh(self) -> None:
        """One look: the managers take over what they can, and the log is told what they cannot."""
        try:
            fresh = self._resolve()
        except ConfigError as error:
            metrics.SETTINGS_REFRESHES.labels("unusable").inc()
            self._tell("", str(error), f"changed settings cannot be used, the old ones stay: {error}")
            return
        except Unavailable:
            # The VaultManager has said so; files alone would be half the truth.
            metrics.SETTINGS_REFRESHES.labels("unavailable").inc()
            return
        self._told.pop("", None)
        current = self._app_manager.config
        # Of an optional plugin that has failed since, nobody reads the settings any more.
        changed = {key for key in current.keys() & fresh.keys() if fresh[key] != current[key]}
        live = changed & {key for manager in self._app_manager.managers() for key in manager.live_settings}
        for key in sorted(changed - live):
            self._tell(key, fresh[key], f"setting {key} has changed, which takes effect at the next start")
        if live:
            self._take_over(current, fresh, live)

    def _take_over(self, current: Config, fresh: Config, keys: set[str]) -> None:
        """All of `keys`, but for those that one of their managers refuses: they stay as they were, for everyone."""
        wanted = sorted(keys)
        concerned = [manager for manager in self._app_manager.managers() if manager.live_settings & keys]
        while True:
            self._app_manager.config = current.with_changes(fresh, keys)
            refusing = next((manager for manager in concerned if not self._reload(manager, fresh)), None)
            if refusing is None:
                break
            concerned.remove(refusing)
            keys = keys - refusing.live_settings
        for key in keys:
            custom_log(f"setting {key} has changed and is in use", origin=fresh.origin(key))
        self._count("taken", keys)
        self._count("refused", set(wanted) - keys)

    def _reload(self, manager: Manager, fresh: Config) -> bool:
        try:
            manager.reload()
        except Exception as error:  # noqa: BLE001  whatever it was, the manager goes on with what it had
            told = tuple(fresh[key] for key in sorted(manager.live_settings))
            if self._told.get(manager.name) != told:
                self._told[manager.name] = told
                log_exception("a manager refused changed settings, the old ones stay", error, manager=manager.name)
            return False
        return True

    def _tell(self, key: str, value: Any, message: str) -> None:
        if self._told.get(key) != value:
            self._told[key] = value
            custom_log(message, level="WARNING")

    def _count(self, outcome: str, keys: Iterable[str]) -> None:
        metrics.SETTINGS_REFRESHES.labels(outcome).inc(len(list(keys)))

    def _failed(self, error: Exception) -> None:
        metrics.SETTINGS_REFRESHES.labels("failed").inc()
        log_exception("looking for changed settings failed", error)
