"""The dashboards of grafana/dashboards, as data: `python -m tools.dashboards` writes the files."""
