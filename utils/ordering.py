"""Dependency order, with errors that name what is missing or goes round in a circle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter


def dependency_order(dependencies: Mapping[str, Sequence[str]]) -> list[str]:
    """The names, each after those it depends on; raises ValueError for a missing or a circular dependency."""
    for name, needed in dependencies.items():
        missing = [other for other in needed if other not in dependencies]
        if missing:
            raise ValueError(f"{name} needs {', '.join(missing)}, which is not there")
    try:
        return list(TopologicalSorter(dependencies).static_order())
    except CycleError as error:
        raise ValueError(f"circular dependency: {' -> '.join(error.args[1])}") from error
