"""What MongoDB, Redis and OpenBao have in common: a port that is kept, a folder, and a start that ends when ready."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.local_stack.ports import kept_port
from tools.local_stack.process import Process

READY_SECONDS = 60.0


class Server(ABC):
    """One server of the stack: `start` returns when it is ready, again on the same port and data after a stop."""

    name: str
    program: str

    def __init__(self, data_dir: Path, keep_open: Sequence[int] = ()) -> None:
        self.home = data_dir / self.name
        self.port = 0
        self.process = Process(self.name, data_dir / "logs" / f"{self.program}.log")
        self._port_memory = data_dir / f"{self.name}.port"
        self._keep_open = keep_open

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    def start(self) -> None:
        """Start and wait until ready; ServerFailed says why not."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port = kept_port(self._port_memory)
        self.process.start(self.command(), self.environ(), keep_open=self._keep_open)
        self.process.wait_until(self.is_ready, READY_SECONDS)
        self.set_up()

    def stop(self, timeout: float = 5) -> None:
        """End the server cleanly, or by force after `timeout` seconds."""
        self.process.stop(timeout)

    def kill(self) -> None:
        """SIGKILL: what a crash leaves behind."""
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self.process.pause()

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self.process.resume()

    @abstractmethod
    def command(self) -> list[str | Path]:
        """The command line; it holds no secret, since `ps` shows it to everyone."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the server answers."""

    def environ(self) -> Mapping[str, str] | None:
        """The server's environment; None inherits ours."""
        return None

    def set_up(self) -> None:
        """What is still to do once it answers; must be safe to repeat."""
