"""The Grafana dashboard and the alerts ask for metrics that there are, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import tcpcrypt
from tcpcrypt.daemon.metrics import Pages
from tcpcrypt.runtime.figures import Figures

CONTRIB = Path(tcpcrypt.__file__).parent / "contrib"
RULES = CONTRIB / "prometheus" / "tcpcrypt.rules.yml"
DASHBOARD = json.loads((CONTRIB / "grafana" / "tcpcrypt.json").read_text())
OTHERS = {"up": {"job": {"tcpcrypt"}, "instance": set()}}
FROM_PROMETHEUS = {"instance", "job"}
OPEN = {("tcpcrypt_connections_failed_total", "reason")}
"""Labels whose values are not known ahead of time."""


def families() -> dict[str, dict[str, set[str]]]:
    """Each series that can be asked for: its labels, and the values that they have."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(Pages(Figures)("")[1].decode()):
        name = family.name + "_total" * (family.type == "counter")
        found.setdefault(name, {})
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    for name, label in OPEN:
        found[name].setdefault(label, set())
    return found


KNOWN = families() | OTHERS


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def selectors(node: Any) -> Iterator[Any]:
    """The selectors of series in an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from selectors(argument)
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from selectors(node.lhs)
        yield from selectors(node.rhs)
    elif isinstance(node, promql_parser.AggregateExpr | promql_parser.ParenExpr):
        yield from selectors(node.expr)
    else:
        assert isinstance(node, promql_parser.NumberLiteral), type(node)


@pytest.mark.parametrize(("title", "expression"), [*expressions()])
def test_every_expression_asks_for_what_there_is(title: str, expression: str) -> None:
    node = promql_parser.parse(expression.replace("$__rate_interval", "1m"))
    asked = list(selectors(node))
    assert asked, title
    has: set[str] = set(FROM_PROMETHEUS)
    for selector in asked:
        assert selector.name in KNOWN, selector.name
        labels = KNOWN[selector.name]
        has |= set(labels)
        for matcher in selector.matchers.matchers:
            if matcher.name not in FROM_PROMETHEUS:
                assert matcher.name in labels, (selector.name, matcher.name)
            if matcher.name in labels and "$" not in matcher.value:
                assert set(matcher.value.split("|")) <= labels[matcher.name], matcher.value
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= has, (title, grouped)


def test_legends_show_labels_that_are_there() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            there = {label.strip() for group in grouped for label in group.split(",")}
            assert wanted <= (there or {"instance"}), panel["title"]


def test_every_metric_is_on_the_dashboard() -> None:
    text = " ".join(expression for _title, expression in expressions())
    bases = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in families()}
    missing = {name for name in bases if not re.search(rf"\b{name}\b|\b{name}_bucket\b", text)}
    assert not missing


def test_panels_do_not_overlap_and_have_their_own_numbers() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        mine = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & mine, panel["title"]
        assert max(x for x, _y in mine) < 24
        cells |= mine
        if panel["type"] != "row":
            assert panel["description"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) >= 8
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert "$labels.instance" in rule["annotations"]["summary"]
        asked = re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
        for label in set(asked) - FROM_PROMETHEUS:
            assert re.search(rf"by \([^)]*\b{label}\b", rule["expr"]), (rule["alert"], label)
