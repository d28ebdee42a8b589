"""The machine that the application runs on: folders, disk, open files, port."""

from __future__ import annotations

import os
import resource
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

from core.doctor.finding import Finding, fail, ok, warn

_LITTLE, _VERY_LITTLE = 2 << 30, 200 << 20
# Of one worker beside clients' connections and pools: logs, metrics, libraries.
_OTHER_FILES = 100
_LISTENS_SECONDS = 1.0
_PRIVILEGED = 1024


def folders(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether they can be written to, and how much goes into them."""
    for key in ("DATA_DIR", "LOG_DIR"):
        folder = Path(config[key]).resolve()
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            yield fail(f"machine.{key.lower()}", f"{folder}: cannot be written to", f"Give it to the account that runs this, or set {key}.")
            continue
        free = shutil.disk_usage(existing).free
        said, advice = f"{folder}: {free / (1 << 30):.1f} GiB free", "Make room, or move it to a larger disk."
        if free < _VERY_LITTLE:
            yield fail(f"machine.{key.lower()}", said, advice)
        elif free < _LITTLE:
            yield warn(f"machine.{key.lower()}", said, advice)
        else:
            yield ok(f"machine.{key.lower()}", said)


def open_files(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether a worker may open as many as it has connections."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config["WORKER_CONNECTIONS"] + config["MONGODB_POOL_SIZE"] + config["REDIS_POOL_SIZE"] + _OTHER_FILES
    if limit != resource.RLIM_INFINITY and limit < needed:
        yield fail(
            "machine.open_files", f"{limit} may be open, a worker needs {needed}", f"ulimit -n {2 * needed}, or fewer WORKER_CONNECTIONS."
        )
    else:
        yield ok("machine.open_files", f"{limit} may be open, a worker needs {needed}")


def port(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether it is free, or ours."""
    host, number = config["HOST"], config["PORT"]
    place = f"{host}:{number}"
    if number < _PRIVILEGED and os.geteuid() != 0:
        yield warn("machine.port", f"{place}: below 1024 a plain account may not listen", "Choose a higher PORT, behind a proxy.")
    reached = "127.0.0.1" if host in ("0.0.0.0", "") else host  # noqa: S104  it is only compared
    try:
        socket.create_connection((reached, number), _LISTENS_SECONDS).close()
    except OSError:
        yield ok("machine.port", f"{place} is free: the application does not run here now")
        return
    with suppress(requests.RequestException, ValueError):
        answer = requests.get(f"http://{reached}:{number}/health/live", timeout=_LISTENS_SECONDS).json()
        if answer.get("status") == "alive":
            yield ok("machine.port", f"{place}: the application runs here")
            return
    yield fail("machine.port", f"{place}: something else listens there", "Stop that, or choose another PORT.")
