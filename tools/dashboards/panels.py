"""What a dashboard is made of, and the queries that most panels ask.

A panel is a title, a unit of Grafana's and its queries by legend; where it stands follows from the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# What nobody asked for: probes and scrapes.
ASKED = 'route!~"/health.*|/metrics"'
# Grafana's own window, which knows how often is scraped.
RATE = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """One panel. `leads_to`: the dashboard that has more of it; `bad`: from which value on it is red (below it, when `low_is_bad`)."""

    title: str
    unit: str
    queries: Mapping[str, str]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    leads_to: str = ""
    bad: float | None = None
    low_is_bad: bool = False
    description: str = ""


@dataclass(frozen=True)
class Dashboard:
    """One file. `sections`: panels by the title of their row."""

    key: str
    title: str
    description: str
    sections: Mapping[str, Sequence[Panel]]
    variables: Mapping[str, str] = field(default_factory=dict)


def figure(title: str, unit: str, query: str, **options: Any) -> Panel:
    """The present value, in large."""
    return Panel(title, unit, {options.pop("legend", ""): query}, kind="stat", width=options.pop("width", 4), height=4, **options)


def rate(metric: str, by: str = "", where: str = "") -> str:
    """A second, summed over all copies."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{where and '{' + where + '}'}[{RATE}]))"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    """From a histogram, over all copies."""
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, where)})"


def quantiles(metric: str, where: str = "") -> dict[str, str]:
    """The middle, and what the slowest see."""
    return {f"p{share * 100:g}": quantile(share, metric, where=where) for share in (0.5, 0.95, 0.99)}


def or_zero(query: str) -> str:
    """Nothing is none: for what is only counted once it has happened."""
    return f"{query} or vector(0)"
