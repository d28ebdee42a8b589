"""What every manager is: started in a fixed order, asked for its health, and disposed in reverse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from tools.error_handling.errors import AppError
from tools.logger.custom_logger import log_exception
from utils.clock import rfc3339, utc_now
from utils.config.config import ConfigError

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager


class BootError(Exception):
    """The boot cannot go on; the message says what is wrong and where, in one line, without secrets."""

    @classmethod
    def at(cls, place: str, error: Exception) -> BootError:
        """`error`, and where it happened; of one that nobody foresaw only the log has the words."""
        if isinstance(error, (BootError, ConfigError, AppError)):
            return BootError(f"{place}: {error}")
        log_exception("boot failed", error)
        return BootError(f"{place}: {type(error).__name__}; server.log has the details")


class Manager(ABC):
    """Base of all managers. During `initialize` only managers that boot earlier may be used."""

    name: ClassVar[str]
    critical: ClassVar[bool] = True
    # The settings whose new values `reload` takes over while the manager runs.
    live_settings: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, app_manager: AppManager) -> None:
        self.app_manager = app_manager
        self.initialized = False

    @abstractmethod
    def initialize(self) -> bool:
        """Start. True when it worked; False or any exception stops the boot, BootError with a reason for the operator."""

    @abstractmethod
    def dispose(self) -> None:
        """Release everything. Safe to call twice, and after a failed `initialize`."""

    def reload(self) -> None:
        """Take over new values of `live_settings` from the app manager's config; raises, and stays as it was, if they cannot be used."""

    def health_check(self) -> dict[str, Any]:
        """`{manager, status, initialized, critical, last_check, ...}`; status is healthy, degraded or unhealthy. Bounded in time."""
        status, details = self.check() if self.initialized else ("unhealthy", {})
        return {
            "manager": f"{self.name}_manager",
            "status": status,
            "initialized": self.initialized,
            "critical": self.critical,
            **details,
            "last_check": rfc3339(utc_now()),
        }

    def check(self) -> tuple[str, dict[str, Any]]:
        """Status of a started manager, and figures of its own; overridden where there is something to ask."""
        return "healthy", {}
