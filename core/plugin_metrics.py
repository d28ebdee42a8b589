"""Metrics of plugins: named after their plugin, with labels whose values are known beforehand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from core.managers.base import BootError

OTHER = "other"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
_GAUGE_MODES = ("livesum", "livemax", "livemin", "livemostrecent", "mostrecent")

Labels = Mapping[str, Sequence[str]]


class LabelledMetric:
    """A metric with labels. A value that was not declared counts as `other`, so that no client can make up a time series."""

    def __init__(self, metric: Any, allowed: Labels) -> None:
        self._metric = metric
        self._allowed = {name: frozenset(values) for name, values in allowed.items()}

    def labels(self, **values: str) -> Any:
        """The metric of these values, one for each label."""
        return self._metric.labels(**{name: value if value in self._allowed[name] else OTHER for name, value in values.items()})


class PluginMetrics:
    """Makes the metrics of one plugin: `counter("greetings", ...)` is exposed as `credit_plugin_<key>_greetings_total`.

    Raises BootError for a name that is no name or there already.
    """

    def __init__(self, key: str, at_the_end: Callable[[Callable[[], None]], None]) -> None:
        """`at_the_end` remembers what has to be undone when the plugin ends."""
        self._prefix = f"credit_plugin_{key}_"
        self._at_the_end = at_the_end

    def counter(self, name: str, doc: str, labels: Labels | None = None) -> Any:
        """A Counter; `labels` gives, for each label, the values that it may have."""
        return self._make(Counter, name, doc, labels)

    def gauge(self, name: str, doc: str, mode: str, labels: Labels | None = None) -> Any:
        """A Gauge; `mode` says how the workers' values become one: `livesum`, `livemax`, `livemin`, `mostrecent`, ..."""
        if mode not in _GAUGE_MODES:
            raise BootError(f"metric {name}: the mode is one of {', '.join(_GAUGE_MODES)}")
        return self._make(Gauge, name, doc, labels, multiprocess_mode=mode)

    def histogram(self, name: str, doc: str, buckets: Sequence[float], labels: Labels | None = None) -> Any:
        """A Histogram with these upper bounds."""
        return self._make(Histogram, name, doc, labels, buckets=buckets)

    def _make(self, kind: Any, name: str, doc: str, labels: Labels | None, **options: Any) -> Any:
        if not _NAME.fullmatch(name):
            raise BootError(f"metric {name!r}: small letters, digits and _ make a name; {self._prefix} is put in front of it")
        try:
            metric = kind(self._prefix + name, doc, tuple(labels or ()), **options)
        except ValueError as error:
            raise BootError(f"metric {name}: {error}") from error
        self._at_the_end(partial(REGISTRY.unregister, metric))
        return metric if labels is None else LabelledMetric(metric, labels)
