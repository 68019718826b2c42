"""The files of config/monitoring/: rules that fire and keep quiet, and names that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.test_links import anchors
from tests.exposition import read

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "config" / "monitoring"
RULES = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
TESTS = ("alerts_test.yml", "alerts_day_test.yml")
ALERTS = [rule["alert"] for rule in RULES]
DASHBOARD = json.loads((MONITORING / "grafana" / "everycent.json").read_text())
_METRIC = re.compile(r"\b(?:everycent|django)_[a-z_]+")


def promtool(*arguments: str, cwd: Path = MONITORING) -> subprocess.CompletedProcess[str]:
    if not shutil.which("promtool"):
        pytest.skip("promtool is missing: apt-get install prometheus")
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_promtool_fires_every_rule_and_keeps_it_quiet():
    done = promtool("test", "rules", *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_example_configuration():
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("becomes", ["vector(1) > 1", "vector(1)"], ids=["never fires", "always fires"])
def test_the_test_of_every_rule_can_fail(becomes, tmp_path):
    document: dict[str, Any] = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["expr"] = becomes
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(document))
    for file in TESTS:
        tests = yaml.safe_load((MONITORING / file).read_text())
        # What never changes is looked at less often.
        tests["evaluation_interval"] = "1h" if "day" in file else "1m"
        (tmp_path / file).write_text(yaml.safe_dump(tests))
    done = promtool("test", "rules", *TESTS, cwd=tmp_path)
    noticed = set(re.findall(r'expr: "ALERTS\{alertname=\\"(\w+)', done.stderr + done.stdout))
    assert noticed >= set(ALERTS) - ({"Watchdog"} if becomes == "vector(1)" else set())


# A list of its own, so that nobody drops one in silence.
WANTED = {
    ("PaymentErrors", "critical"), ("PaymentsSlow", "warning"), ("StripeErrors", "critical"),
    ("DiscrepanciesOpen", "warning"), ("NeedsAPerson", "warning"), ("DatabaseConnections", "warning"), ("OutboxLate", "critical"),
    ("SagaLate", "critical"),
    ("DeliveryParked", "critical"), ("CompensationFailed", "critical"), ("BeatSilent", "critical"),
    ("DisputeOpened", "warning"), ("DisputeDueSoon", "critical"), ("PayoutFailed", "critical"),
    ("DayNotReconciled", "critical"), ("StatementResidual", "critical"), ("Watchdog", "none"),
    ("JobSilent", "warning"), ("BooksDiffer", "critical"), ("BooksNotChecked", "warning"),
    ("StockDiffers", "critical"), ("StockNotChecked", "warning"), ("MerchantCallsGivenUp", "warning"),
}  # fmt: skip


def test_every_alert_that_was_promised_is_there():
    assert {(rule["alert"], rule["labels"]["severity"]) for rule in RULES} >= WANTED


@pytest.mark.parametrize("rule", RULES, ids=ALERTS)
def test_an_alert_says_what_happened_what_to_do_and_where_to_read_more(rule):
    notes = rule["annotations"]
    assert notes["summary"]
    assert len(notes["description"]) > 80
    page, _, anchor = notes["runbook_url"].partition("#")
    assert page == "docs/runbook.md"
    assert anchor == rule["alert"].lower()
    assert anchor in anchors(ROOT / page)


def test_the_runbook_tells_of_no_alert_that_is_gone():
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert headings == ALERTS


# --- Names ------------------------------------------------------------------------------------------------


@pytest.fixture
def exposed(transactional_db, valkey, client) -> set[str]:
    """Every name of a series after some work; those without a value yet by their families."""
    from durability import services

    services.seen("beat", "worker.own")
    client.get("/livez")
    seen = read()
    families = {
        name + suffix
        for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", seen.text, re.MULTILINE)
        for suffix in (("_bucket", "_count", "_sum") if kind == "histogram" else ("",))
    }
    return seen.names | families


def names_in(expression: str) -> set[str]:
    return set(_METRIC.findall(expression))


def test_every_metric_that_an_alert_reads_exists(exposed):
    read_by_alerts = set().union(*(names_in(rule["expr"]) for rule in RULES))
    assert len(read_by_alerts) > 12
    assert read_by_alerts <= exposed


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: str(panel["title"]))
def test_every_metric_of_the_dashboard_exists(panel, exposed):
    for target in panel["targets"]:
        assert names_in(target["expr"])
        assert names_in(target["expr"]) <= exposed


def test_every_query_of_the_dashboard_is_promql(tmp_path):
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = promtool("check", "rules", "panels.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_shows_what_the_alerts_read():
    shown = set().union(*(names_in(target["expr"]) for panel in panels() for target in panel["targets"]))
    read_by_alerts = set().union(*(names_in(rule["expr"]) for rule in RULES))
    assert read_by_alerts - shown <= {"everycent_database_up"}


def test_the_list_of_metrics_is_complete_and_true(exposed):
    text = (ROOT / "docs" / "metrics.md").read_text()
    listed = set(re.findall(r"^\| `(everycent_\w+)`", text, re.MULTILINE))
    bare = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in exposed if name.startswith("everycent_")}
    totals = {name for name in bare if name + "_total" in bare}
    assert listed == bare - totals
