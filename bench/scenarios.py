"""Who pays whom: the endless stream of wallet pairs of each engine scenario, the same for both sides."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

Pairs = Iterator[tuple[str, str]]

OPENING_BALANCE = 10**9  # no wallet can run dry within a run, so every transfer succeeds
AMOUNT = 1
ZIPF_EXPONENT = 1.2


def uniform(wallets: Sequence[str], rng: random.Random) -> Pairs:
    """Two different wallets, each drawn evenly."""
    while True:
        source, destination = rng.sample(wallets, 2)
        yield source, destination


def hot(wallets: Sequence[str], rng: random.Random) -> Pairs:
    """The first wallet is in every transfer, as payer or as receiver."""
    centre, others = wallets[0], wallets[1:]
    while True:
        other = rng.choice(others)
        yield (centre, other) if rng.random() < 0.5 else (other, centre)


def zipf(wallets: Sequence[str], rng: random.Random) -> Pairs:
    """Two different wallets, the one at rank r drawn with a weight of r to the power of -1.2: a few take part in most transfers."""
    weights = list(accumulate(rank**-ZIPF_EXPONENT for rank in range(1, len(wallets) + 1)))
    while True:
        source, destination = rng.choices(wallets, cum_weights=weights, k=2)
        if source != destination:
            yield source, destination


SCENARIOS: dict[str, Callable[[Sequence[str], random.Random], Pairs]] = {"uniform": uniform, "hot": hot, "zipf": zipf}


def pairs(scenario: str, wallets: Sequence[str], caller: int) -> Pairs:
    """The pairs of one caller; seeded by its number, so that both sides see the same stream."""
    return SCENARIOS[scenario](wallets, random.Random(caller))
