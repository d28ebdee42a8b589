"""BasePlugin: what every plugin is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager


class BasePlugin(ABC):
    """A bundle of modules, routes and templates; it registers them with the plugin manager during `initialize`."""

    NAME: ClassVar[str]
    DEPENDENCIES: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def initialize(self, app_manager: AppManager) -> bool:
        """Register what the plugin brings. False or an exception stops the boot."""

    def dispose(self) -> None:
        """Release what `initialize` took; safe to call twice."""
