"""Work that is done once among all workers: whoever holds the lease does it, and the others do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from core.lease import LeaseLost
from tools.error_handling.errors import AppError, Unavailable
from tools.logger.custom_logger import custom_log, log_exception

if TYPE_CHECKING:
    from core.lease import Lease


class Leased:
    """What such work has in common beside its `tick`: how it ends, and how its failures are told. `title` names it in logs."""

    title: ClassVar[str]

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def stop(self) -> None:
        """Let another worker go on at once."""
        try:
            self._lease.release()
        except Unavailable:
            # It ends by itself.
            custom_log(f"the lease of {self.title} is left to expire", level="WARNING")

    def failed(self, error: Exception) -> None:
        """Note that a tick went wrong; the next one comes."""
        if isinstance(error, LeaseLost):
            custom_log(f"{self.title}: the lease is lost", level="WARNING")
        elif isinstance(error, AppError):
            custom_log(f"{self.title}: has to wait", level="WARNING", code=error.code)
        else:
            log_exception(f"{self.title}: stumbled", error)
