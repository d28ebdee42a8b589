"""The virtual environment behind every make target, as far as it can be tested without building one."""

from __future__ import annotations

import hashlib
import socketserver
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread

import pytest

from tools import fetch_pip, setup_venv


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package index (PEP 503) whose one wheel is not the one that its checksum promises."""
    page = tmp_path / "simple" / "pip"
    page.mkdir(parents=True)
    handler = partial(QuietHandler, directory=str(tmp_path))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_address[1]}/simple/")
        monkeypatch.setattr("sys.argv", ["fetch_pip.py", str(tmp_path)])
        yield page
        server.shutdown()
        thread.join()


def publish(page: Path, wheel: bytes, checksum: str) -> None:
    (page / fetch_pip.PIP_WHEEL).write_bytes(wheel)
    links = ["pip-1.0-py3-none-any.whl#sha256=0", f"{fetch_pip.PIP_WHEEL}#sha256={checksum}"]
    (page / "index.html").write_text("".join(f'<a href="../pip/{link}">a file</a>' for link in links))


def test_pip_is_fetched_from_the_chosen_index(index: Path, tmp_path: Path) -> None:
    publish(index, b"a wheel", hashlib.sha256(b"a wheel").hexdigest())
    assert fetch_pip.main() == 0
    assert (tmp_path / fetch_pip.PIP_WHEEL).read_bytes() == b"a wheel"


def test_pip_with_another_checksum_is_refused(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(index, b"another wheel", hashlib.sha256(b"a wheel").hexdigest())
    assert fetch_pip.main() == 1
    assert "does not have the checksum" in capsys.readouterr().err
    assert not (tmp_path / fetch_pip.PIP_WHEEL).exists()


def test_an_index_without_pip_is_named(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (index / "index.html").write_text("nothing here")
    assert fetch_pip.main() == 1
    assert f"does not list {fetch_pip.PIP_WHEEL}" in capsys.readouterr().err


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose virtual environment is as `run` needs it."""
    for name in (*setup_venv.REQUIREMENTS["run"], setup_venv.CONSTRAINTS):
        (tmp_path / name).write_text("flask\n")
    venv = tmp_path / ".venv"
    venv.mkdir()
    monkeypatch.setattr(setup_venv, "ROOT", tmp_path)
    monkeypatch.setattr(setup_venv, "VENV", venv)
    monkeypatch.setattr(setup_venv, "UNFINISHED", venv / ".unfinished")
    setup_venv.stamp("run").write_text(setup_venv.digest("run"))
    return tmp_path


@pytest.mark.usefixtures("checkout")
def test_an_unchanged_environment_is_left_alone() -> None:
    assert setup_venv.is_current("run")


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-local.txt", "constraints.txt"])
def test_an_edited_requirement_file_means_a_new_installation(checkout: Path, name: str) -> None:
    (checkout / name).write_text("flask>3\n")
    assert not setup_venv.is_current("run")


def test_a_half_made_environment_is_not_current(checkout: Path) -> None:
    (checkout / ".venv" / ".unfinished").touch()
    assert not setup_venv.is_current("run")


@pytest.mark.usefixtures("checkout")
def test_another_python_means_a_new_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.version", "3.99")
    assert not setup_venv.is_current("run")


@pytest.mark.usefixtures("checkout")
def test_an_old_python_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.version_info", (3, 10, 4))
    assert setup_venv.main() == 1
    assert "Python 3.11 or newer is needed" in capsys.readouterr().out
