"""docs/extending.md, followed word by word: its files are written, its commands run, and what they print is compared."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.app_server import ROOT, AppServer
from tests.support.client import unique
from tests.support.own_database import own_database
from tools.local_stack import LocalStack

DOCUMENT = ROOT / "docs" / "extending.md"
# A block, and before it the line that names its file, if there is one.
BLOCK = re.compile(r"(?:^`(?P<file>/tmp/[^`]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE, URL = "/tmp/guestbook", "http://127.0.0.1:5000"
COMMAND_SECONDS = 60


@dataclass(frozen=True)
class Block:
    """A piece of the page: a file, commands, or what they print."""

    kind: str
    text: str
    file: str | None

    @property
    def starts_the_server(self) -> bool:
        return self.kind == "sh" and self.text.rstrip().endswith("make run")


def blocks() -> list[Block]:
    """All of the page, in their order."""
    return [Block(match["kind"], match["text"], match["file"]) for match in BLOCK.finditer(DOCUMENT.read_text(encoding="utf-8"))]


class Reader:
    """Does what the page says: in a folder of its own, with a server on a port of its own, and one shell for all commands."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._environ = environ
        self._folder = folder
        self._server: AppServer | None = None
        self._servers = 0
        self._shell = subprocess.Popen(
            ["bash", "-uo", "pipefail"],
            cwd=ROOT,
            env=self._shell_environ(),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._printed = ""

    def close(self) -> None:
        self._shell.communicate(timeout=COMMAND_SECONDS)
        if self._server is not None:
            self._server.stop()

    def follow(self, block: Block) -> None:
        if block.file is not None:
            Path(self._moved(block.file)).write_text(block.text, encoding="utf-8")
        elif block.starts_the_server:
            self._start(block.text)
        elif block.kind == "sh":
            self._run(block.text)
        else:
            assert block.kind == "text", f"nobody can follow a block of {block.kind}"
            assert matches(block.text, self._printed), f"the page says\n{block.text}\nbut it is\n{self._printed}"

    def _moved(self, text: str) -> str:
        url = self._server.url if self._server is not None else URL
        return text.replace(PLACE, str(self._folder / "guestbook")).replace(URL, url)

    def _start(self, text: str) -> None:
        """What `make run` starts with these settings, on the servers of the tests."""
        *settings, make, target = shlex.split(text)
        assert (make, target) == ("make", "run")
        if self._server is not None:
            self._server.stop()
        self._servers += 1
        given = dict(setting.split("=", 1) for setting in settings)
        own = {"PYTHONPATH": self._site, "WORKERS": 1, "RATE_LIMIT_SCALE": 1}
        self._server = AppServer(self._environ, self._folder / f"server-{self._servers}", **own, **given)
        self._server.start()
        # Where `make flask` looks for the servers of a run.
        lines = (f"export {name}={shlex.quote(self._server.environ[name])}\n" for name in (*self._environ, "LOG_DIR", "PORT"))
        (self._folder / "stack.env").write_text("".join(lines))

    def _run(self, text: str) -> None:
        """Commands, after those before them; none may fail."""
        end = "end-of-block"
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{self._moved(text)}\necho {end} $?\n")
        self._shell.stdin.flush()
        lines = []
        for line in self._shell.stdout:
            if line.startswith(end):
                break
            lines.append(line)
        self._printed = "".join(lines)
        assert line == f"{end} 0\n", f"{text}\n{self._printed}"

    @property
    def _site(self) -> Path:
        """Where pip installs to, instead of into the environment of all tests."""
        return self._folder / "site"

    def _shell_environ(self) -> dict[str, str]:
        """Nothing is downloaded, and no file of another run is used."""
        pip = {"PIP_TARGET": str(self._site), "PIP_UPGRADE": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
        # Under a make of ours, the reader's would tell that it is inside of one.
        inherited = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
        return {**inherited, **pip, "PYTHONPATH": str(self._site), "DATA_DIR": str(self._folder)}


@contextmanager
def reader(environ: Mapping[str, str], folder: Path) -> Iterator[Reader]:
    with ExitStack() as stack:
        one = Reader(environ, folder)
        stack.callback(one.close)
        yield one


def matches(said: str, printed: str) -> bool:
    """Whether `printed` is what the page says, where `...` stands for anything within a line."""
    pattern = ".*".join(map(re.escape, said.strip().split("...")))
    return re.fullmatch(pattern, printed.strip()) is not None


def test_the_page_can_be_followed_word_by_word(servers: LocalStack, tmp_path: Path) -> None:
    page = blocks()
    assert sum(block.starts_the_server for block in page) == 2
    assert sum(block.kind == "text" for block in page) == 4
    # The page's people may not be there already.
    name = unique("extending")
    with own_database(servers, name), reader({**servers.environ, "MONGODB_DATABASE": name}, tmp_path) as one:
        for block in page:
            one.follow(block)
    assert not (tmp_path / "guestbook").exists()
