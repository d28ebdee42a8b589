"""BaseModule: what every module is, whether it lies in core/modules or comes with a plugin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from core.web.routing import Route
from utils.clock import rfc3339, utc_now

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager


class BaseModule(ABC):
    """A feature with routes. It reaches managers, and the modules that it names in DEPENDENCIES and no others, through the app manager."""

    NAME: ClassVar[str]
    DEPENDENCIES: ClassVar[tuple[str, ...]] = ()
    # What it sends to sockets, by the name of the event.
    SENDS: ClassVar[Mapping[str, type[BaseModel]]] = {}

    @abstractmethod
    def initialize(self, app_manager: AppManager) -> bool:
        """Start; the modules of DEPENDENCIES are ready by now. False or an exception stops the boot."""

    def prepare(self) -> None:
        """What is done once a start and not in every worker (a first record, say); called after `initialize`."""

    @property
    def routes(self) -> Sequence[Route]:
        """The module's HTTP routes."""
        return ()

    def health_check(self) -> dict[str, Any]:
        """`{status, ...}` of this module."""
        return {"module": self.NAME, "status": "healthy", "last_check": rfc3339(utc_now())}

    def dispose(self) -> None:
        """Release what `initialize` took, also when it failed half-way; safe to call twice."""
