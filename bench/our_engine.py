"""Our side of the engine bench: callers in one process, all their transfers through the posting engine."""

from __future__ import annotations

from bench.result import Result


def run_engine(scenario: str, callers: int, wallets: int, seconds: float) -> Result:
    """Transfers by `callers` parallel callers over `wallets` wallets for `seconds`."""
    raise NotImplementedError("the posting engine is not wired into the bench yet")
