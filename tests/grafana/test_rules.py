"""The files that Prometheus and Alertmanager read: they are valid, each alert is proved and explained, each metric exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from core import metrics
from tests.support.app_server import ROOT
from tests.support.prometheus import GRAFANA, program

RULES = GRAFANA / "prometheus" / "rules"
SEVERITIES = {"page", "warning", "ticket"}
# What Prometheus itself says of its targets; and the name of our database.
OTHERS = {"up", "credit_system"}
METRIC = re.compile(r"\bcredit_[a-z0-9_]+")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run([program(str(command[0])), *command[1:]], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, object]]:
    return [
        rule
        for path in sorted(RULES.glob("*.rules.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


ALERTS = {str(rule["alert"]): rule for rule in rules() if "alert" in rule}


COLLECTORS = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
FAMILIES = [family for collector in COLLECTORS for family in collector.describe()]


def exposed() -> set[str]:
    """The names of all samples that the product has."""
    names = set()
    for family in FAMILIES:
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names.update(f"{family.name}{suffix}" for suffix in suffixes)
    return names


# Validity


def test_prometheus_takes_its_file_and_the_rules(tmp_path: Path) -> None:
    folder = shutil.copytree(GRAFANA / "prometheus", tmp_path / "prometheus")
    (tmp_path / "metrics_token").write_text("x")
    config = folder / "prometheus.yml"
    config.write_text(config.read_text().replace("/secrets/", f"{tmp_path}/"))
    assert "SUCCESS" in run("promtool", "check", "config", "--lint=all", "--lint-fatal", config)


def test_every_alert_is_silent_while_all_is_well_and_fires_on_its_fault() -> None:
    run("promtool", "test", "rules", *sorted(RULES.glob("*.test.yml")), cwd=RULES)


def test_no_alert_is_without_such_a_proof() -> None:
    proofs = "".join(path.read_text() for path in RULES.glob("*.test.yml"))
    assert [name for name in ALERTS if f'alertname="{name}", alertstate="firing"' not in proofs] == []


def test_alertmanager_takes_its_file() -> None:
    assert "SUCCESS" in run("amtool", "check-config", GRAFANA / "alertmanager" / "alertmanager.yml")


@pytest.mark.parametrize(("severity", "receiver"), [("page", "on-call"), ("warning", "team"), ("ticket", "team")])
def test_pages_go_to_whom_they_wake_and_the_rest_to_the_team(severity: str, receiver: str) -> None:
    config = GRAFANA / "alertmanager" / "alertmanager.yml"
    assert run("amtool", "config", "routes", "test", f"--config.file={config}", "alertname=X", f"severity={severity}").strip() == receiver


def test_no_secret_is_in_the_files() -> None:
    text = "".join(path.read_text() for path in GRAFANA.rglob("*") if path.is_file())
    assert not re.search(r"(?m)^\s*(password|smtp_auth_password|api_url|slack_api_url|credentials|bearer_token)\s*:", text)
    assert "hooks.slack.com" not in text


# Alerts


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    labels, annotations = rule["labels"], rule["annotations"]
    assert isinstance(labels, dict)
    assert isinstance(annotations, dict)
    assert labels["severity"] in SEVERITIES
    assert annotations["summary"].endswith(".")
    assert annotations["description"].endswith(".")
    assert annotations["runbook_url"] == f"{{{{ $externalLabels.runbooks }}}}/{name}.md"
    page = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    for section in ("## What it means", "## How to look", "## What to do"):
        assert section in page, f"{name}.md lacks {section!r}"


def test_no_runbook_is_left_without_its_alert() -> None:
    assert {path.stem for path in (ROOT / "docs" / "runbooks").glob("Credit*.md")} == set(ALERTS)


# Metrics


def test_every_metric_in_rules_dashboards_and_pages_exists() -> None:
    known = exposed() | {family.name for family in FAMILIES} | OTHERS
    files = [
        *RULES.glob("*.yml"),
        *(GRAFANA / "dashboards").glob("*.json"),
        *(ROOT / "docs" / "runbooks").glob("*.md"),
        ROOT / "docs" / "monitoring.md",
    ]
    named = {(path.name, name) for path in files for name in METRIC.findall(path.read_text())}
    assert sorted((path, name) for path, name in named if name not in known) == []


def test_the_names_of_metrics_follow_the_conventions() -> None:
    for family in FAMILIES:
        assert family.name.startswith("credit_"), family.name
        assert not re.search(r"_(ms|milliseconds|minutes|hours|kb|mb|percent)(_|$)", family.name), f"{family.name}: not in base units"
        assert family.documentation.endswith("."), family.name
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_size")), family.name
        if family.type == "gauge":
            assert not family.name.endswith(("_total", "_count", "_sum", "_bucket")), family.name


def test_no_label_of_a_metric_names_one_user_wallet_or_request() -> None:
    labels = {name for collector in COLLECTORS for name in collector._labelnames}
    assert not {name for name in labels if re.search(r"(^|_)(id|user|wallet|email|path|url|ip|token|key|pid)$", name)}, labels
