"""Waiting longer after each failure, with full jitter, so that those who wait do not all come back at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator


def backoff(
    first: float, largest: float, seconds: float, clock: Callable[[], float] = time.monotonic, draw: Callable[[], float] = random.random
) -> Iterator[float]:
    """Pauses in seconds, up to `first`, twice that, ... `largest`; it ends when `seconds` have gone by since the first was asked for.

    "Full jitter" of Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    ends = clock() + seconds
    ceiling = first
    while (left := ends - clock()) > 0:
        yield min(left, draw() * ceiling)
        ceiling = min(largest, 2 * ceiling)


def retry_pause(failures: int, first: float, largest: float, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait after the `failures`th failure in a row, from `first` up to `largest`, for who keeps no more than that count.

    Floors double from `first` on; each pause is up to half as long again, so that what failed together does not come back together.
    """
    floor = min(first * 2.0 ** min(failures - 1, 63), largest / 1.5)
    return floor * (1 + draw() / 2)
