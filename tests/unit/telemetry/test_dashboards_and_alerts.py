"""Dashboards, alerts, runbooks and the metrics page fit the code and each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from metric_rules import problems
from prometheus_server import MISSING, is_installed
from shepherd_cli.observability.__main__ import files
from shepherd_cli.observability.catalogue import REGISTRIES, series_of

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy/observability"
DASHBOARDS = sorted((DEPLOY / "dashboards").glob("*.json"))
RULES = DEPLOY / "prometheus/alerts.yaml"
CASES = DEPLOY / "prometheus/alerts.test.yaml"
UNITS = {"short", "s", "bytes", "Bps", "reqps", "percentunit"}
NAME = re.compile(r"\b(?:shepherd|process)_[a-z0-9_]+")
promtool = pytest.mark.skipif(not is_installed(), reason=MISSING)


def known_names() -> set[str]:
    names = set()
    for make in REGISTRIES.values():
        for series in series_of(make()):
            suffixes = ("_bucket", "_sum", "_count") if series.kind == "histogram" else ("",)
            names |= {series.name + suffix for suffix in suffixes}
    return names


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def expressions() -> list[str]:
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    return [
        target["expr"]
        for board in boards
        for panel in board["panels"]
        for target in panel["targets"]
    ]


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", files())
def test_what_is_generated_is_that_of_the_code(name: str) -> None:
    assert (ROOT / name).read_text() == files()[name], "run `make observability`"


@pytest.mark.parametrize("component", REGISTRIES)
def test_every_name_follows_the_rules(component: str) -> None:
    assert problems(generate_latest(REGISTRIES[component]()).decode()) == []


def test_the_same_name_means_the_same_everywhere() -> None:
    told: dict[str, set[Any]] = {}
    for make in REGISTRIES.values():
        for series in series_of(make()):
            told.setdefault(series.name, set()).add((series.kind, series.labels, series.help))

    assert {name: what for name, what in told.items() if len(what) > 1} == {}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_works_wherever_it_is_imported(path: Path) -> None:
    board = json.loads(path.read_text())
    panels = board["panels"]
    boxes = [tuple(panel["gridPos"].values()) for panel in panels]

    assert board["uid"] == f"shepherd-{path.stem}"
    assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "instance"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert len(set(boxes)) == len(boxes)
    for panel in panels:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert {each["datasource"]["uid"] for each in (panel, *panel["targets"])} == {
            "${datasource}"
        }
        assert all("$instance" in target["expr"] for target in panel["targets"])


def test_dashboards_and_alerts_ask_only_for_what_there_is() -> None:
    rules = [rule["expr"] for rule in alerts()]
    asked = {name for expr in [*expressions(), *rules] for name in NAME.findall(expr)}

    assert asked - known_names() == set()
    assert len(asked) > 60


def test_every_alert_has_a_page_that_says_what_to_do() -> None:
    pages = {rule["annotations"]["runbook_url"] for rule in alerts()}

    assert pages == {f"docs/runbooks/{path.name}" for path in (ROOT / "docs/runbooks").iterdir()}
    for rule in alerts():
        page = (ROOT / rule["annotations"]["runbook_url"]).read_text()
        assert page.startswith(f"# {rule['alert']}\n")
        assert all(part in page for part in ("**What it means.**", "**Look.**", "**Do.**"))


def test_every_alert_is_seen_to_fire_and_to_stay_quiet() -> None:
    cases = yaml.safe_load(CASES.read_text())["tests"]
    seen = {
        (check["alertname"], bool(check["exp_alerts"]))
        for case in cases
        for check in case["alert_rule_test"]
    }

    assert seen == {(rule["alert"], fires) for rule in alerts() for fires in (True, False)}


@promtool
def test_prometheus_takes_the_rules_and_its_own_tests_of_them_pass() -> None:
    for argv in (
        ("check", "config", str(DEPLOY / "prometheus/prometheus.yaml")),
        ("check", "rules", str(RULES)),
        ("test", "rules", str(CASES)),
    ):
        done = run("promtool", *argv)
        assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_a_wrong_threshold_does_not_pass(tmp_path: Path) -> None:
    shutil.copy(CASES, tmp_path)
    changed = RULES.read_text().replace("14.4 * 0.005", "14.4 * 0.5")
    (tmp_path / RULES.name).write_text(changed)

    done = run("promtool", "test", "rules", str(tmp_path / CASES.name))
    assert done.returncode != 0
    assert "ShepherdErrorBudgetFast" in done.stdout + done.stderr


@promtool
def test_prometheus_understands_every_query_of_every_panel(tmp_path: Path) -> None:
    queries = [
        {"record": f"panel:query_{number}", "expr": expr.replace("$__rate_interval", "1m")}
        for number, expr in enumerate(expressions())
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": queries}]}))

    done = run("promtool", "check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(queries)} rules found" in done.stdout
