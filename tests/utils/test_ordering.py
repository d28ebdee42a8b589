"""Dependency order: everyone after those they need, and mistakes by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.ordering import dependency_order

# Each name may only depend on smaller numbers, so there are no circles.
Graphs = st.integers(0, 8).flatmap(
    lambda size: st.tuples(*(st.lists(st.integers(0, max(0, i - 1)), max_size=3, unique=True) if i else st.just([]) for i in range(size)))
)


@given(Graphs, st.randoms())
def test_everyone_comes_once_and_after_what_they_need(graph: tuple[list[int], ...], random: object) -> None:
    dependencies = {str(i): [str(needed) for needed in needs] for i, needs in enumerate(graph)}
    shuffled = list(dependencies.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    order = dependency_order(dict(shuffled))
    assert sorted(order) == sorted(dependencies)
    assert all(order.index(needed) < order.index(name) for name, needs in dependencies.items() for needed in needs)


def test_nothing_has_an_order_too() -> None:
    assert dependency_order({}) == []


def test_a_missing_dependency_is_named_with_who_needs_it() -> None:
    with pytest.raises(ValueError, match="shop needs wallet, mail, which is not there"):
        dependency_order({"shop": ("wallet", "users", "mail"), "users": ()})


@pytest.mark.parametrize("circle", [{"a": ("a",)}, {"a": ("b",), "b": ("c",), "c": ("a",)}])
def test_a_circle_is_named_with_its_members(circle: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match=r"circular dependency: .* -> ") as refusal:
        dependency_order({**circle, "outside": ()})
    assert set(circle) <= set(str(refusal.value))
    assert "outside" not in str(refusal.value)
