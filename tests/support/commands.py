"""Operators' commands, `flask ...`, as a shell runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.app_server import ROOT


def flask(environ: Mapping[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `flask <arguments>` against the servers of `environ`, with its logs in `folder`."""
    own = {"LOG_DIR": str(folder / "logs"), "DATA_DIR": str(folder)}
    return subprocess.run(
        [Path(sys.executable).with_name("flask"), *arguments],
        cwd=ROOT,
        env={**os.environ, **environ, **own},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
