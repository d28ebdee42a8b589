"""Makes .venv and installs what one task needs: `setup_venv.py run|dev|bench`; at once when nothing changed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
UNFINISHED = VENV / ".unfinished"
CONSTRAINTS = "constraints.txt"
SERVERS = ("requirements.txt", "requirements-local.txt")
REQUIREMENTS = {
    "run": SERVERS,
    "dev": (*SERVERS, "requirements-dev.txt"),
    "bench": (*SERVERS, "requirements-bench.txt"),
}
# This file has to load on older ones, to refuse them in words.
OLDEST_PYTHON = (3, 11)
BIG_DOWNLOAD = re.compile(r"Downloading (\w+)-.*\((\d{2,})\.\d MB\)")


def main() -> int:
    """The exit code."""
    if sys.version_info < OLDEST_PYTHON:
        wanted, found = ".".join(map(str, OLDEST_PYTHON)), ".".join(map(str, sys.version_info[:3]))
        print(f"Python {wanted} or newer is needed, and {sys.executable} is {found}; try: make PYTHON=python{wanted} ...")
        return 1
    if len(sys.argv) != 2 or sys.argv[1] not in REQUIREMENTS:
        print(f"usage: setup_venv.py {'|'.join(REQUIREMENTS)}")
        return 2
    try:
        with only_one():
            set_up(sys.argv[1])
    except subprocess.CalledProcessError as error:
        print(f"\n{error.output or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


@contextmanager
def only_one() -> Iterator[None]:
    """Several makes of one checkout may start at once: the others wait, then find the work done."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another make to finish .venv ...\n")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def set_up(task: str) -> None:
    """Bring .venv to what `task` needs."""
    if is_current(task):
        return
    if UNFINISHED.exists() or read(VENV / ".python") != python_identity():
        shutil.rmtree(VENV, ignore_errors=True)
    fresh = not VENV.exists()
    VENV.mkdir(exist_ok=True)
    UNFINISHED.touch()
    if fresh:
        create_venv()
    install(task)
    for other, files in REQUIREMENTS.items():
        if set(files) <= set(REQUIREMENTS[task]):
            stamp(other).write_text(digest(other))
    UNFINISHED.unlink()


def is_current(task: str) -> bool:
    """Whether the last installation for `task` had the same files and the same Python."""
    return not UNFINISHED.exists() and read(stamp(task)) == digest(task)


def stamp(task: str) -> Path:
    """The file that says what was installed for `task`."""
    return VENV / f".installed-{task}"


def digest(task: str) -> str:
    """Changes with the Python, the place, the requirement files and the constraints."""
    content = hashlib.sha256(python_identity().encode())
    for name in (*REQUIREMENTS[task], CONSTRAINTS):
        content.update((ROOT / name).read_bytes())
    return content.hexdigest()


def python_identity() -> str:
    """A virtual environment belongs to one Python and to one place: its scripts hold both."""
    return f"{sys.version} {VENV}"


def read(path: Path) -> str:
    """The text of a file that need not exist."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def create_venv() -> None:
    """A virtual environment with pip in it."""
    say("creating .venv ...")
    began = time.monotonic()
    # Debian keeps ensurepip in a package of its own, python3-venv, which need not be there.
    if find_spec("ensurepip"):
        run([sys.executable, "-m", "venv", VENV])
    else:
        run([sys.executable, "-m", "venv", "--without-pip", VENV])
        bootstrap_pip()
    (VENV / ".python").write_text(python_identity())
    say(f" {time.monotonic() - began:.0f} s\n")


def bootstrap_pip() -> None:
    """Install pip with itself: a wheel is a zip file that Python can run."""
    wheel = Path(run([sys.executable, ROOT / "tools" / "fetch_pip.py", VENV]).strip())
    run([VENV_PYTHON, wheel / "pip", "install", "--quiet", "--no-index", wheel])
    wheel.unlink()


def install(task: str) -> None:
    """Install the requirement files of `task`, naming each big download."""
    files = REQUIREMENTS[task]
    say(f"installing {', '.join(files)} ...\n")
    began = time.monotonic()
    command: list[str | Path] = [VENV_PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    for name in files:
        command += ["-r", ROOT / name]
    command += ["-c", ROOT / CONSTRAINTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        lines = follow(pip)
    if pip.returncode:
        raise subprocess.CalledProcessError(pip.returncode, command, "".join(lines[-20:]))
    say(f"installed {VENV.name} in {time.monotonic() - began:.0f} s\n")


def follow(pip: subprocess.Popen[str]) -> list[str]:
    """All that pip says; what takes long is passed on."""
    lines = []
    for line in pip.stdout or ():
        lines.append(line)
        big = BIG_DOWNLOAD.search(line)
        if big:
            say(f"  {big[1]}, {big[2]} MB\n")
    return lines


def run(command: list[str | Path]) -> str:
    """The output of a command that must succeed; CalledProcessError holds it otherwise."""
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout


def say(text: str) -> None:
    """Print at once."""
    print(text, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
