"""Identifiers: unique ones that grow, and derived ones that follow from their parts."""

from __future__ import annotations

import re
import time

from hypothesis import given
from hypothesis import strategies as st

from utils.ids import derived_id, new_id

Parts = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x1f"), max_size=20), min_size=1, max_size=4)


def test_new_ids_differ_and_say_what_they_name() -> None:
    ids = [new_id("tx") for _ in range(10_000)]
    assert len(set(ids)) == 10_000
    assert all(re.fullmatch("tx_[0-9a-f]{24}", made) for made in ids)


def test_new_ids_grow_with_every_millisecond() -> None:
    ids = []
    for _ in range(20):
        ids.append(new_id("tx"))
        time.sleep(0.002)
    assert ids == sorted(ids)


def test_a_derived_id_is_the_same_in_every_process() -> None:
    assert derived_id("w", "u_1", "CREDIT") == derived_id("w", "u_1", "CREDIT") == "w_" + derived_id("x", "u_1", "CREDIT")[2:]


@given(Parts, Parts)
def test_other_parts_derive_another_id(one: list[str], other: list[str]) -> None:
    assert (derived_id("w", *one) == derived_id("w", *other)) is (one == other)
