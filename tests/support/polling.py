"""Waiting for what comes to be true by itself: asked again and again, and never a sleep that hopes for the best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import psutil

T = TypeVar("T")
_PAUSE_SECONDS = 0.05


def eventually(question: Callable[[], T], seconds: float, *, unless: Callable[[], bool] | None = None) -> T:
    """The first truthy answer to `question`; AssertionError when there is none in time, or when `unless` comes true."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s; last answer: {answer!r}"
        assert unless is None or not unless(), "it cannot come true any more"
        time.sleep(_PAUSE_SECONDS)


def assert_gone(processes: Iterable[psutil.Process], seconds: float = 1) -> None:
    """None of `processes` runs any more; a zombie does not, it waits for an init that a container may lack."""
    eventually(lambda: all(map(_is_gone, processes)), seconds)


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        # It went between the two questions.
        return True
