"""docs/operations.md asks the log only for what the app writes."""

import ast
import re
from pathlib import Path

import pytest

from batch_fn.core.jobs import Wait

PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "docs" / "operations.md").read_text()
QUERIES = re.findall(r"```kusto\n(.*?)```", PAGE, re.DOTALL)
SPREAD = {
    "job_finished": {"requests", "succeeded", "failed"},
    "part_waits": set(Wait.__struct_fields__),
}
"""Facts that a call of the journal gives as a mapping: of the report's counts, and of a wait."""


def written() -> dict[str, set[str]]:
    """Return what the app writes to the journal: each event with its facts."""
    events: dict[str, set[str]] = {}
    for path in (PROJECT / "batch_fn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name("log"), attr="info" | "warning"),
                    args=[ast.Constant(str(event))],
                    keywords=facts,
                ):
                    known = events.setdefault(event, {"event"} | SPREAD.get(event, set()))
                    known |= {each.arg for each in facts if each.arg}
    return events


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_events_and_facts_that_are_written(query: str) -> None:
    events = written()
    asked = set(re.findall(r'"([a-z]+_[a-z_]+)"', query))
    assert asked <= events.keys()
    facts = set(re.findall(r"\be\.(\w+)", query))
    assert facts <= set[str]().union(*(events[event] for event in asked or events))


def test_there_is_a_query_for_each_alert() -> None:
    alerts = PAGE.partition("## Alerts")[2].partition("\n## ")[0].split("\n### ")[1:]
    assert len(alerts) == 5
    assert all("```kusto" in alert for alert in alerts)


def test_every_fact_of_the_ticks_record_is_explained() -> None:
    table = PAGE.partition("| fact |")[2].partition("## Alerts")[0]
    rows = re.findall(r"^ *\| (`[^|]*) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == written()["tick_done"] - {"event"}


def test_every_metric_is_explained() -> None:
    code = (PROJECT / "batch_fn" / "runtime" / "telemetry.py").read_text()
    assert set(re.findall(r'"(batch_fn\.[a-z.]+)"', code)) == set(re.findall(r"`(batch_fn\.[a-z.]+)`", PAGE))
