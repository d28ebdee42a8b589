"""The dashboards as Grafana reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.dashboards.definitions import DASHBOARDS
from tools.dashboards.panels import Dashboard, Panel

FOLDER = Path(__file__).resolve().parents[2] / "grafana" / "dashboards"
_SCHEMA = 39
_COLUMNS = 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def document(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    return {
        "uid": f"credit-{dashboard.key}",
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["credit-system"],
        "schemaVersion": _SCHEMA,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [_link(other.title.split(" / ")[1], other.key) for other in DASHBOARDS if other is not dashboard],
        "templating": {"list": [_SOURCE_VARIABLE, *(_variable(name, query) for name, query in dashboard.variables.items())]},
        "annotations": {"list": []},
        "panels": list(_panels(dashboard)),
    }


_SOURCE_VARIABLE = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1, "hide": 0}


def _variable(name: str, query: str) -> dict[str, Any]:
    chosen = {"selected": True, "text": ["All"], "value": ["$__all"]}
    many = {"multi": True, "includeAll": True, "allValue": ".*", "current": chosen}
    asked = {"query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1}
    return {"name": name, "label": name.capitalize(), "type": "query", "datasource": _SOURCE, **asked, **many}


def _link(title: str, key: str) -> dict[str, Any]:
    address = {"type": "link", "url": f"/d/credit-{key}", "keepTime": True, "includeVars": False, "targetBlank": False}
    return {"title": title, "icon": "dashboard", "tooltip": "", "tags": [], "asDropdown": False, **address}


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    number, top = 1, 0
    for title, panels in dashboard.sections.items():
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(0, top, _COLUMNS, 1)}
        number, top, left = number + 1, top + 1, 0
        for panel in panels:
            if left + panel.width > _COLUMNS:
                left, top = 0, top + panel.height
            yield {"id": number, **_panel(panel), "gridPos": _place(left, top, panel.width, panel.height)}
            number, left = number + 1, left + panel.width
        top += panels[-1].height


def _place(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(panel: Panel) -> dict[str, Any]:
    leads_to = {"title": f"More: {panel.leads_to}", "url": f"/d/credit-{panel.leads_to}?${{__url_time_range}}"}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "links": [leads_to] if panel.leads_to else [],
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": query, "legendFormat": legend or "__auto", "range": True}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": _steps(panel)}}
    if panel.kind == "timeseries":
        defaults |= {"min": 0, "custom": {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": True}}
    return defaults


def _steps(panel: Panel) -> list[dict[str, Any]]:
    low, high = ("red", "green") if panel.low_is_bad else ("green", "red")
    return (
        [{"color": low, "value": None}, {"color": high, "value": panel.bad}]
        if panel.bad is not None
        else [{"color": "blue", "value": None}]
    )


_REDUCED = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {"colorMode": "value", "graphMode": "area", "textMode": "auto", "reduceOptions": _REDUCED},
}


def texts() -> dict[str, str]:
    """The files, by name."""
    return {f"{each.key}.json": json.dumps(document(each), indent=2, ensure_ascii=False) + "\n" for each in DASHBOARDS}
