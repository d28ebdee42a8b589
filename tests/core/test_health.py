"""Asking for health: all at once, in a bounded time, and without threads that add up."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

import pytest

from core.health import HealthChecks
from tests.support.app_server import ROOT
from tests.support.polling import eventually


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("health-")]


def test_everyone_is_asked_at_the_same_time() -> None:
    together = threading.Barrier(8)

    def question() -> dict[str, object]:
        together.wait(timeout=5)
        return {"status": "healthy"}

    answers = HealthChecks(5).ask({str(number): question for number in range(8)})
    assert list(answers.values()) == [{"status": "healthy"}] * 8


def test_one_that_hangs_is_not_waited_for_nor_asked_again_until_it_has_ended() -> None:
    release = threading.Event()
    calls = []

    def hangs() -> dict[str, object]:
        calls.append(1)
        release.wait(30)
        return {"status": "healthy"}

    checks = HealthChecks(1)
    questions = {"hangs": hangs, "works": lambda: {"status": "healthy"}}
    for _ in range(3):
        assert checks.ask(questions) == {"hangs": None, "works": {"status": "healthy"}}
    assert (len(calls), threads()) == (1, ["health-hangs"])
    release.set()
    eventually(lambda: checks.ask(questions)["hangs"] is not None, 5)
    checks.stop()
    eventually(lambda: threads() == [], 5)


@pytest.mark.parametrize("mode", ["eventlet", "gevent"])
def test_green_threads_are_ended_when_they_take_too_long(mode: str) -> None:
    script = f"""
        from utils import green
        green.patch({mode!r})
        import socket, threading
        from core.health import HealthChecks
        from tests.support.polling import eventually

        def hangs():
            ours, _theirs = socket.socketpair()
            ours.recv(1)

        checks = HealthChecks(1.0)
        before = threading.active_count()
        for _ in range(2):
            assert checks.ask({{"hangs": hangs, "works": lambda: {{"is": "well"}}}}) == {{"hangs": None, "works": {{"is": "well"}}}}
        checks.stop()
        eventually(lambda: threading.active_count() == before, 10)
        print("all well")
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.stdout.strip() == "all well", ended.stderr
