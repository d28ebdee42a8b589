"""The dashboards as files: what Grafana needs is there, and they are what tools/dashboards makes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.support.prometheus import GRAFANA
from tools.dashboards.files import texts

FILES = {path.name: path.read_text() for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
DOCUMENTS: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in FILES.items()}
NAMES = ("dependencies.json", "ledger.json", "realtime.json", "security.json", "service.json")
# Units that Grafana knows by these ids.
UNITS = {"short", "s", "bytes", "ops", "reqps", "percentunit"}
WIDTH = 24


def panels(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def test_the_files_are_what_the_tool_makes() -> None:
    assert texts() == FILES, "run: .venv/bin/python -m tools.dashboards"


def test_there_is_one_for_each_concern() -> None:
    assert tuple(FILES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_has_what_grafana_needs(name: str) -> None:
    document = DOCUMENTS[name]
    assert document["uid"] == f"credit-{name.removesuffix('.json')}"
    assert document["schemaVersion"] >= 39
    assert document["templating"]["list"][0]["name"] == "datasource"
    assert document["templating"]["list"][0]["type"] == "datasource"
    numbers = [panel["id"] for panel in document["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in panels(document):
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["expr"]
            assert target["datasource"] == panel["datasource"]


@pytest.mark.parametrize("name", NAMES)
def test_no_panel_covers_another(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DOCUMENTS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_they_lead_to_each_other() -> None:
    uids = {document["uid"] for document in DOCUMENTS.values()}
    for document in DOCUMENTS.values():
        leads = {link["url"].removeprefix("/d/") for link in document["links"]}
        assert leads == uids - {document["uid"]}
        for link in (link for panel in panels(document) for link in panel["links"]):
            assert link["url"].partition("?")[0].removeprefix("/d/") in uids


def test_active_users_are_shown_from_the_sessions() -> None:
    asked = [target["expr"] for document in DOCUMENTS.values() for panel in panels(document) for target in panel["targets"]]
    assert any("credit_users_active" in expression for expression in asked)
    assert any("credit_sessions_active" in expression for expression in asked)


def test_provisioning_names_a_source_without_a_secret_and_the_folder_of_the_files() -> None:
    [source] = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert "secureJsonData" not in source
    [provider] = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "credit-system.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
