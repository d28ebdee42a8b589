"""Runs a command that must not outlive its parent: `tethered.py SIGNAL PARENT_PID COMMAND [ARGUMENT...]`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for `SIGNAL` at the parent's death (Linux only), then become `COMMAND`."""
    signal_name, parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.Signals[signal_name])
    if os.getppid() != int(parent):
        sys.exit(f"{command[0]}: the parent died first")
    # Python ignores SIGPIPE, and what is ignored stays ignored over exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(command[0], command)  # noqa: S606 - the command is what our own caller wants run


if __name__ == "__main__":
    main()
