"""One child process: how it is started, watched, paused and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

TETHER = Path(__file__).with_name("tethered.py")
POLL_SECONDS = 0.02


class ServerFailed(Exception):
    """A server cannot start, or ended on its own; the message is for the person at the terminal."""


class Process:
    """A child in a session of its own (a Ctrl-C does not reach it) that the kernel ends when this process dies.

    The kernel watches the *thread* that calls `start`: start from one that lives as long as the child shall.
    """

    def __init__(self, name: str, log: Path, death_signal: signal.Signals = signal.SIGKILL) -> None:
        self.name = name
        self.log = log
        self._death_signal = death_signal
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The process id; the same number names its process group."""
        return self._started.pid

    @property
    def exit_code(self) -> int | None:
        """None while the child runs; -9 after a SIGKILL, as in `subprocess`."""
        return self._started.poll()

    @property
    def running(self) -> bool:
        """Whether the child was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise ServerFailed(f"{self.name} was not started")
        return self._child

    def start(
        self,
        command: Sequence[str | Path],
        environ: Mapping[str, str] | None = None,
        *,
        cwd: Path | None = None,
        keep_open: Sequence[int] = (),
    ) -> None:
        """Run `command` with its output appended to the log; it inherits the file descriptors in `keep_open`."""
        tether: list[str | Path] = [sys.executable, "-I", "-S", TETHER, self._death_signal.name, str(os.getpid())]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._log_start = os.fstat(log).st_size
        try:
            self._child = subprocess.Popen(
                [*tether, *command],
                env=environ,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=keep_open,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Return once `ready()` holds; ServerFailed when the child ends first or `timeout` seconds pass."""
        deadline = time.monotonic() + timeout
        while not ready():
            self.raise_if_ended()
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} did not get ready within {timeout:.0f} s; its log: {self.log}")
            time.sleep(POLL_SECONDS)

    def raise_if_ended(self) -> None:
        """ServerFailed, with the exit code and the log's place, when the child no longer runs."""
        code = self.exit_code
        if code is not None:
            raise ServerFailed(f"{self.name} ended on its own ({describe_exit(code)}); its log: {self.log}")

    def tail(self, lines: int) -> str:
        """The last lines that this run wrote to its log."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    def terminate(self) -> None:
        """Ask the child to end, without waiting; a paused one is resumed, since it could not hear."""
        if self.running:
            self._started.terminate()
            self.resume()

    def wait(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for the child's end, then kill it and what it left in its group."""
        if self._child is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(max(timeout, 0))
        self.kill()
        self._child = None

    def stop(self, timeout: float = 5) -> None:
        """End the child cleanly, or by force after `timeout` seconds."""
        self.terminate()
        self.wait(timeout)

    def kill(self) -> None:
        """SIGKILL for the child and every process in its group, also those that outlived it; wait for its end."""
        self._signal_group(signal.SIGKILL)
        self._started.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._signal_group(signal.SIGCONT)

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def describe_exit(code: int) -> str:
    """`exit code 3`, or `killed by SIGKILL`."""
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
