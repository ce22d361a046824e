"""The docs say what the code does: settings, codes, report, API, commands, modules; and their links lead somewhere."""

import importlib.util
import re
import subprocess
from dataclasses import MISSING, Field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

import batch_fn.cli.doctor  # noqa: F401 - a command, which registers itself
from batch_fn.cli.commands import commands
from batch_fn.core.batches import PERMANENT_FAILURES, REQUEST_TOO_LARGE
from batch_fn.core.jobs import Estimate, Job, Outcome, PartState
from batch_fn.core.report import report
from batch_fn.core.results import NO_RESPONSE, RETRYABLE_CODES, RETRYABLE_STATUSES
from batch_fn.settings import Settings
from batch_fn.validation.findings import DROP_GONE, NOT_PROCESSED, Code

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
PAGES = sorted(
    PROJECT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
)
SETTINGS = {each.metadata["name"]: each for each in fields(Settings)}
OTHER_VARIABLES = {
    "AZURE_OPENAI_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "PYTHON_ENABLE_OPENTELEMETRY",
    "APPLICATIONINSIGHTS_CONNECTION_STRING",
    "REPLACE-WITH-MODEL-DEPLOYMENT-NAME",
}
"""What is written like a setting of the app, and is one of somebody else."""
APP_PAGES = [each for each in PAGES if each.parent == DOCS and each.name != "deploy.md"]
"""deploy.md speaks of the parameters of infra/, too; tests/infra holds it."""


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text()


def section(name: str, title: str) -> str:
    """Return the text of a page below that heading, up to the next heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page(name), re.DOTALL | re.MULTILINE)
    assert found, f"docs/{name}.md has no section {title}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the rows of every table, without heads and rules."""
    tables = re.findall(r"(?:^ *\|.*\n)+", text, re.MULTILINE)
    return [
        [cell.strip() for cell in row.strip().strip("|").split(" | ")]
        for table in tables
        for row in table.strip().splitlines()[2:]
    ]


def first_cells(text: str) -> list[str]:
    """Return what is in backticks in the first cell of each row."""
    return [name for cells in rows(text) for name in re.findall(r"`([^`]+)`", cells[0])]


# Links


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


# Settings


def shown_default(setting: "Field[Any]") -> str:
    """Return a default as the table shows it, a dash for none."""
    value = setting.default
    if value is MISSING:
        assert setting.default_factory is not MISSING
        value = setting.default_factory()
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, frozenset):
        return f"`{', '.join(sorted(value))}`"
    return f"`{value}`" if value or isinstance(value, int) else "-"


def test_every_setting_is_in_the_table_with_its_default() -> None:
    table = {cells[0].strip("`"): cells[1] for cells in rows(page("settings"))}
    assert table == {name: shown_default(each) for name, each in SETTINGS.items()}


def test_the_effect_of_every_setting_on_active_jobs_is_stated_once() -> None:
    assert sorted(first_cells(section("upgrading", "Changing a setting"))) == sorted(SETTINGS)


@pytest.mark.parametrize("path", APP_PAGES, ids=lambda path: path.stem)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", path.read_text()))
    variables = {"MODEL_EXAMPLES", "HOSTILE_FILES"}  # of the tests
    assert named - variables <= SETTINGS.keys() | OTHER_VARIABLES


# Codes, statuses, report


def test_every_finding_code_is_in_the_table() -> None:
    codes = first_cells(section("report", "Finding codes"))
    assert sorted(codes) == sorted([*map(str, Code), DROP_GONE, NOT_PROCESSED])


def test_every_error_code_and_what_is_retried_is_in_the_table() -> None:
    text = section("report", "Error codes")
    retried = {str(status) for status in RETRYABLE_STATUSES} | RETRYABLE_CODES
    assert set(first_cells(text)) == {NO_RESPONSE, REQUEST_TOO_LARGE} | retried
    assert {code for cells in rows(text) for code in re.findall(r"`([^`]+)`", cells[1])} == PERMANENT_FAILURES


def test_every_status_is_in_the_table() -> None:
    assert first_cells(section("report", "Statuses")) == list(map(str, Outcome))


def test_every_field_of_the_report_is_explained() -> None:
    now = datetime.now(UTC)
    estimate = Estimate(0, None)
    job = Job(job_id="", due=now, container="", name="", etag="", bytes=0, dropped_at=now, estimate=estimate)
    outputs: dict[str, str | None] = {"output": None, "errors": None, "unmatched": None, "archive": None}
    whole = report(job, status=Outcome.SUCCEEDED, succeeded=0, failed=0, findings=[], finding_count=0, outputs=outputs)
    names = list[str]()
    for name, value in msgspec.to_builtins(whole).items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name]
    assert sorted(first_cells(section("report", "Fields of the report"))) == sorted(names)


# API and commands


def test_every_route_is_in_the_table() -> None:
    routes = re.findall(r'app\.route\("([^"]+)".*methods=\["(\w+)"\]', (PROJECT / "function_app.py").read_text())
    named = [each.partition("?")[0] for each in first_cells(section("api", "Routes"))]
    assert sorted(named) == sorted(f"{method} /{path}" for path, method in routes if path != "dashboard")


def test_every_type_of_problem_is_in_the_table_and_in_the_code() -> None:
    types = re.findall(r"urn:batch_fn:([\w-]+)", (DOCS / "openapi.yaml").read_text())
    assert sorted(first_cells(section("api", "Errors"))) == sorted(types)
    source = "".join(path.read_text() for path in (PROJECT / "batch_fn").rglob("*.py"))
    assert [each for each in types if f'"{each}"' not in source] == []


def test_every_command_is_in_the_table_with_its_options() -> None:
    table = {cells[0].strip("`").split()[0]: " ".join(cells) for cells in rows(page("cli")) if cells[0].startswith("`")}
    assert table.keys() == commands.commands.keys()
    for name, command in commands.commands.items():
        options = {each for option in command.params if isinstance(option, click.Option) for each in option.opts}
        assert set(re.findall(r"`(--[a-z]+)`", table[name])) <= options


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", path.read_text(), re.MULTILINE)) <= targets()


def test_every_make_target_is_explained_to_contributors() -> None:
    assert set(re.findall(r"^\| `make ([a-z]+)", (PROJECT / "CONTRIBUTING.md").read_text(), re.MULTILINE)) == targets()


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_module_that_is_run_exists(path: Path) -> None:
    for module in re.findall(r"python -m ([\w.]+)", path.read_text()):
        assert importlib.util.find_spec(module), module


# Architecture


def test_every_package_and_module_is_in_the_architecture() -> None:
    here = PROJECT / "batch_fn"
    modules = {f"batch_fn/{path.relative_to(here)}" for path in here.rglob("*.py") if path.name != "__init__.py"}
    packages = {f"batch_fn/{path.parent.relative_to(here)}/" for path in here.glob("*/**/__init__.py")}
    assert set(first_cells(section("architecture", "Modules"))) == modules
    assert set(first_cells(section("architecture", "Packages"))) == packages


def test_every_path_in_the_architecture_exists() -> None:
    spans = re.findall(r"`([\w./]+)`", page("architecture"))
    paths = {each for each in spans if re.search(r"/$|\.(py|html|json)$", each)}
    paths |= {f"{each}.py" for each in spans if re.fullmatch(r"(steps|api|core)/\w+", each)}
    assert [each for each in paths if not ((PROJECT / each).exists() or (PROJECT / "batch_fn" / each).exists())] == []


def test_every_state_of_a_part_is_in_the_architecture() -> None:
    table = [cells for cells in rows(section("architecture", "The way of a job")) if len(cells) > 2]
    assert set(map(str, PartState)) <= {cells[0].strip("`") for cells in table}


@pytest.mark.parametrize("path", ["local.settings.sample.json", "devkit/azure_openai/scripts.py"])
def test_other_files_that_are_named_exist(path: str) -> None:
    assert path in page("local")
    assert (PROJECT / path).exists()
