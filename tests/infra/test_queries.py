"""The queries of alerts, workbook and documents: the language service takes them, and they ask for what is logged."""

import json
import re
import shutil
import subprocess
import textwrap
from typing import Any

import pytest

from tests.infra.templates import INFRA, PROJECT, made_of, the

#: The table that Application Insights shows the log in, with its columns.
TRACES = """(timestamp: datetime, message: string, severityLevel: int, itemType: string, customDimensions: dynamic,
    customMeasurements: dynamic, operation_Name: string, operation_Id: string, operation_ParentId: string,
    operation_SyntheticSource: string, session_Id: string, user_Id: string, user_AuthenticatedId: string,
    user_AccountId: string, application_Version: string, client_Type: string, client_Model: string, client_OS: string,
    client_IP: string, client_City: string, client_StateOrProvince: string, client_CountryOrRegion: string,
    client_Browser: string, cloud_RoleName: string, cloud_RoleInstance: string, appId: string, appName: string,
    iKey: string, sdkVersion: string, itemId: string, itemCount: int, _ResourceId: string)"""

ALERTS = {path.stem: path.read_text() for path in sorted((INFRA / "alerts").glob("*.kql"))}
WORKBOOK = {
    f"workbook {item['name']}": item["content"]["query"]
    for item in json.loads((INFRA / "workbook.json").read_text())["items"]
    if "query" in item["content"]
}
DOCUMENTS = {
    f"{path.name} {number}": textwrap.dedent(query)
    for path in [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
    for number, query in enumerate(
        re.findall(r"^ *```kusto\n(.*?)^ *```", path.read_text(), re.DOTALL | re.MULTILINE), 1
    )
}
QUERIES = {**ALERTS, **WORKBOOK, **DOCUMENTS}


def analyse(queries: dict[str, str]) -> Any:
    """Return what Microsoft's Kusto language service finds wrong with each query."""
    node = shutil.which("node")
    assert node
    package = PROJECT / "devkit/node_modules/@kusto/language-service-next"
    assert package.is_dir(), "it is not installed: make setup"
    given = {"folder": str(package), "columns": TRACES, "queries": queries}
    run = subprocess.run(
        [node, PROJECT / "tests/infra/analyse.cjs"], input=json.dumps(given), capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


def test_the_language_service_takes_every_query() -> None:
    assert len(ALERTS) == 5
    assert len(WORKBOOK) >= 5
    assert len(DOCUMENTS) >= 8
    assert {name: found for name, found in analyse(QUERIES).items() if found} == {}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("timestamp", "tmestamp"), ("parse_json", "parse_jsn"), ("traces", "trace"), ("ago(1h)", "ago(1 h)")],
)
def test_the_language_service_refuses_a_query_that_is_wrong(right: str, wrong: str) -> None:
    query = ALERTS["failed-jobs"]
    assert right in query
    assert analyse({"it": query.replace(right, wrong)})["it"]


@pytest.mark.parametrize("name", QUERIES)
def test_a_fact_is_compared_as_what_it_is(name: str) -> None:
    # A fact has the type dynamic, and what a comparison makes of that is not ours to guess.
    converted = re.sub(r"\bto\w+\((?:e|fact)\.\w+\)", "", QUERIES[name])
    assert not re.findall(r"\b(?:e|fact)\.\w+", converted)


def logged_events() -> set[str]:
    source = "\n".join(path.read_text() for path in (PROJECT / "batch_fn").rglob("*.py"))
    return set(re.findall(r'\blog\.(?:info|warning)\(\s*"(\w+)"', source))


def test_every_event_that_a_query_asks_for_is_one_the_app_logs() -> None:
    asked = set()
    for text in [*ALERTS.values(), *WORKBOOK.values()]:
        for one, several in re.findall(r'event\)? (?:[=!]= "(\w+)"|in \(([^)]+)\))', text):
            asked |= {one} if one else set(re.findall(r"\w+", several))
        for name in re.findall(r'name == "(\w+)"', text):
            assert f'@app.function_name("{name}")' in (PROJECT / "function_app.py").read_text()
    assert asked
    assert asked <= logged_events()


def test_alerts_are_those_of_the_operations_guide() -> None:
    rules = made_of("default", "Microsoft.Insights/scheduledQueryRules")
    queries = [rule["properties"]["criteria"]["allOf"][0]["query"].strip() for rule in rules]
    assert sorted(queries) == sorted(query.strip() for query in ALERTS.values())
    alerts = (PROJECT / "docs/operations.md").read_text().partition("\n## Alerts\n")[2].partition("\n## ")[0]
    shown = [re.findall(r"```kusto\n(.*?)```", each, re.DOTALL)[0].strip() for each in alerts.split("\n### ")[1:]]
    assert shown == queries
    insights = the("default", "Microsoft.Insights/components")
    assert all(rule["properties"]["scopes"] == [insights["id"]] for rule in rules)


def test_the_workbook_that_is_made_is_the_one_in_the_project() -> None:
    made = the("default", "Microsoft.Insights/workbooks")["properties"]["serializedData"]
    assert json.loads(made) == json.loads((INFRA / "workbook.json").read_text())
