"""`python -m tools.local_stack`: what `make run` runs."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from tools.local_stack.process import ServerFailed
from tools.local_stack.settings import Settings
from tools.local_stack.supervisor import Supervisor


def main() -> int:
    """The exit code."""
    try:
        settings = Settings.from_environ(os.environ)
    except ServerFailed as error:
        say(f"{error}\n")
        return 1
    return Supervisor(settings, say).run()


def say(text: str) -> None:
    """Print at once; a terminal that went away must not keep the servers from being stopped."""
    with suppress(OSError):
        print(text, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
