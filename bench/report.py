"""What the bench tells: one table for people, one JSON file for machines."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import psutil
import redis
from pymongo import MongoClient

HEADINGS = ["what", "ours", "theirs", "ratio", "target", "met?"]
PACKAGES = ["flask", "gunicorn", "eventlet", "gevent", "pymongo", "redis", "pydantic"]
THEIR_PACKAGES = ["flask-jwt-extended", "flask-limiter", "limits"]


class Row(Protocol):
    """One line of the table."""

    def row(self) -> list[str]: ...

    def as_dict(self) -> dict[str, Any]: ...


def table(rows: Sequence[Row]) -> str:
    """Columns padded to their widest cell; numbers to the right."""
    lines = [HEADINGS, *(row.row() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(_padded(line, widths)) for line in lines)


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = zip(line, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]


def write(path: Path, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    """Write every number with the facts about where it was measured."""
    path.write_text(json.dumps(facts | {"results": [row.as_dict() for row in rows]}, indent=2) + "\n")


def facts(mongodb_uri: str, redis_uri: str, settings: dict[str, Any]) -> dict[str, Any]:
    """When, on what machine, with which versions and settings."""
    versions = {package: version(package) for package in PACKAGES + THEIR_PACKAGES}
    client: MongoClient[dict[str, Any]]
    with MongoClient(mongodb_uri) as client:
        versions["mongod"] = client.server_info()["version"]
    with redis.Redis.from_url(redis_uri) as server:
        versions["redis-server"] = server.info("server")["redis_version"]
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "machine": _machine(),
        "versions": {"python": platform.python_version()} | versions,
    }


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu_model() -> str:
    """The processor's own name; only Linux tells it in a file."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
