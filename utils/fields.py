"""Dotted paths into documents: `addresses.street` means that field of every element of a list of addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any


def changed_at(node: Any, path: str, change: Callable[[Any], Any]) -> Any:
    """A copy of `node` with `change` made to each value that `path` names; absent and null ones stay as they are.

    Lists on the way are walked through; what stands at the path's end is one value, also where it is a list. A key that is
    itself dotted, as those of an update are, is found too.
    """
    if isinstance(node, list):
        return [changed_at(item, path, change) for item in node]
    if not isinstance(node, dict):
        return node
    changed = {}
    for head, rest in _splits(path):
        value = node.get(head)
        if value is not None:
            changed[head] = changed_at(value, rest, change) if rest else change(value)
    return {**node, **changed} if changed else node


def found_at(node: Any, path: str, place: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that `path` names and that is not null, with its own place: `("addresses.0.street", value)`."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from found_at(item, path, f"{place}{index}.")
    elif isinstance(node, dict):
        for head, rest in _splits(path):
            value = node.get(head)
            if value is not None and rest:
                yield from found_at(value, rest, f"{place}{head}.")
            elif value is not None:
                yield f"{place}{head}", value


@lru_cache(maxsize=256)
def _splits(path: str) -> tuple[tuple[str, str], ...]:
    """`a.b.c` as (a, b.c), (a.b, c) and (a.b.c, nothing)."""
    parts = path.split(".")
    return tuple((".".join(parts[:end]), ".".join(parts[end:])) for end in range(1, len(parts) + 1))
