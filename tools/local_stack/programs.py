"""Finds the programs to run: which candidate exists, is new enough, and really runs on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tools.local_stack.process import ServerFailed, describe_exit

Version = tuple[int, ...]
DEBIAN_PACKAGES = {"libcurl.so.4": "libcurl4", "liblzma.so.5": "liblzma5", "libssl.so.3": "libssl3"}


class CannotRun(Exception):
    """A program exists and does not run; the message says why."""


def find_program(name: str, candidates: Iterable[Path], at_least: Version) -> Path:
    """The first candidate that runs and is new enough; ServerFailed lists what is wrong with each."""
    complaints = []
    for program in candidates:
        try:
            version = version_of(program)
        except CannotRun as error:
            complaints.append(f"{program}: {error}")
            continue
        if version >= at_least:
            return program
        complaints.append(f"{program}: version {_dotted(version)} is older than {_dotted(at_least)}")
    raise ServerFailed("\n  ".join([f"no {name} that runs here:", *(complaints or ["none is installed"])]))


def on_path(name: str) -> list[Path]:
    """The program that a shell would run, if there is one."""
    found = shutil.which(name)
    return [Path(found)] if found else []


def in_package(path: str) -> list[Path]:
    """A program inside an installed wheel; pip drops the run bit of some, so it is set."""
    program = Path(sysconfig.get_path("purelib"), path)
    if not program.exists():
        return []
    with suppress(PermissionError):
        program.chmod(0o755)
    return [program]


def in_scripts(name: str) -> list[Path]:
    """A program in the virtual environment's `bin`."""
    program = Path(sysconfig.get_path("scripts"), name)
    return [program] if program.exists() else []


def with_bundled_curl(programs: Iterable[Path]) -> list[Path]:
    """Each program behind a script that shows it the libcurl inside the pycurl wheel, for machines that have none."""
    libraries = Path(sysconfig.get_path("purelib"), "pycurl.libs")
    curl = next(libraries.glob("libcurl-*.so.4*"), None)
    if curl is None:
        return []
    with suppress(FileExistsError):
        (libraries / "libcurl.so.4").symlink_to(curl.name)
    return [_script_with_libraries(program, libraries) for program in programs]


def _script_with_libraries(program: Path, libraries: Path) -> Path:
    script = Path(sysconfig.get_path("scripts"), f"{program.name}-with-curl")
    draft = script.with_name(f"{script.name}.{os.getpid()}")
    draft.write_text(f"#!/bin/sh\nLD_LIBRARY_PATH='{libraries}' exec '{program}' \"$@\"\n")
    draft.chmod(0o755)
    draft.rename(script)  # at once, for several that start side by side
    return script


def version_of(program: Path) -> Version:
    """What `program --version` says; CannotRun where it does not run."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRun(str(error)) from error
    if done.returncode != 0:
        raise CannotRun(_why(program, done))
    found = re.search(r"v=?(\d+(?:\.\d+)+)", done.stdout)
    if not found:
        raise CannotRun("`--version` names no version")
    return tuple(int(part) for part in found[1].split("."))


def _why(program: Path, done: subprocess.CompletedProcess[str]) -> str:
    missing = _missing_libraries(program)
    if missing:
        packages = " ".join(DEBIAN_PACKAGES[library] for library in missing if library in DEBIAN_PACKAGES)
        remedy = f" (Debian: apt-get install {packages})" if packages else ""
        return f"this machine lacks {', '.join(missing)}{remedy}"
    last_words = done.stderr.strip().splitlines()[-1:] or [describe_exit(done.returncode)]
    return last_words[0]


def _missing_libraries(program: Path) -> list[str]:
    try:
        listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    except OSError:
        return []
    return [line.split()[0] for line in listing.splitlines() if line.endswith("not found")]


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
