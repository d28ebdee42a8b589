"""How this worker is: its version, memory and time, and the disks it writes to; measured in the background for /metrics."""

from __future__ import annotations

import os
import platform
import shutil
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core import metrics
from core.census import Census, Figures
from core.web.openapi import VERSION
from tools.logger.custom_logger import log_exception
from utils.background import Ticker

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_MEMORY = Path("/proc/self/statm")
_VOLUMES = {"data": "DATA_DIR", "logs": "LOG_DIR"}


class Vitals:
    """Measures every METRICS_SECONDS, from `start` to `stop`."""

    def __init__(self, app_manager: AppManager) -> None:
        self._app_manager = app_manager
        self._cpu_seconds = 0.0
        self._running = ExitStack()

    def start(self) -> None:
        """Count this process as one that runs, and begin to measure."""
        metrics.BUILD_INFO.labels(VERSION, platform.python_version()).set(1)
        metrics.WORKERS.set(1)
        metrics.WORKER_STARTS.inc()
        self._running.callback(metrics.WORKERS.set, 0)
        database, seconds = self._app_manager.database_manager, self._app_manager.config["METRICS_SECONDS"]
        for repeated in (
            Ticker("vitals", seconds, self.measure, self._failed, first=0.0),
            Census(database, "file-system", seconds, self._file_system, partial(_show, "mongodb")),
        ):
            repeated.start()
            self._running.callback(repeated.stop)

    def stop(self) -> None:
        """Safe to call twice, and when it was never started."""
        self._running.close()

    def measure(self) -> None:
        """Bring the metrics up to date."""
        used = time.process_time()
        metrics.CPU_SECONDS.inc(used - self._cpu_seconds)
        self._cpu_seconds = used
        # Elsewhere than on Linux nobody tells.
        if _MEMORY.exists():
            metrics.MEMORY.set(int(_MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        for volume, setting in _VOLUMES.items():
            folder = Path(self._app_manager.config[setting])
            if folder.exists():
                space = shutil.disk_usage(folder)
                _show(volume, {"size": space.total, "available": space.free})

    def _file_system(self) -> Figures:
        return self._app_manager.database_manager.file_system()

    @staticmethod
    def _failed(error: Exception) -> None:
        log_exception("the worker could not be measured", error)


def _show(volume: str, space: Figures) -> None:
    if space:
        metrics.DISK_SIZE.labels(volume).set(space["size"])
        metrics.DISK_AVAILABLE.labels(volume).set(space["available"])
