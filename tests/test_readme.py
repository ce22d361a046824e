"""The README says what the code does: settings, codes, commands, files and the report."""

import re
from dataclasses import MISSING, Field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batch_fn.core.jobs import Estimate, Job, Outcome
from batch_fn.core.report import report
from batch_fn.core.results import NO_RESPONSE
from batch_fn.settings import Settings
from batch_fn.validation.check import check
from batch_fn.validation.findings import DROP_GONE, NOT_PROCESSED, Code
from batch_fn.validation.requests import Request, Rules

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text()
SETTING_ROW = re.compile(r"\| `(\w+)` \| (?:`(.*?)`|-) \| .")


def section(title: str) -> str:
    """Return the text below that heading, up to the next of its kind."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    assert found, f"the README has no section {title}"
    return found[1]


def first_cells(text: str) -> set[str]:
    """Return what stands in backticks in the first cell of each row."""
    return {
        name for row in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    }


def shown_default(setting: "Field[Any]") -> str:
    """Return a default as the table shows it, empty for none."""
    value = setting.default
    if value is MISSING:
        assert setting.default_factory is not MISSING
        value = setting.default_factory()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, frozenset):
        return ", ".join(sorted(value))
    return str(value) if value or isinstance(value, int) else ""


def test_every_setting_stands_in_the_table_with_its_default() -> None:
    table = dict(SETTING_ROW.findall(section("Settings")))
    assert table == {each.metadata["name"]: shown_default(each) for each in fields(Settings)}


def test_every_finding_code_stands_in_the_table() -> None:
    codes = first_cells(section("What a drop looks like").partition("| code |")[2])
    assert codes == {*map(str, Code), DROP_GONE, NOT_PROCESSED}
    assert f"`{NO_RESPONSE}`" in README


def test_every_status_stands_in_the_table() -> None:
    assert first_cells(section("What comes out").partition("| status |")[2]) == set(map(str, Outcome))


def test_every_field_of_the_report_is_explained() -> None:
    now = datetime.now(UTC)
    estimate = Estimate(0, None)
    job = Job(job_id="", due=now, container="", name="", etag="", bytes=0, dropped_at=now, estimate=estimate)
    outputs: dict[str, str | None] = {"output": None, "errors": None, "archive": None}
    whole = report(job, status=Outcome.SUCCEEDED, succeeded=0, failed=0, findings=[], finding_count=0, outputs=outputs)
    names = set[str]()
    for name, value in msgspec.to_builtins(whole).items():
        names |= {f"{name}.{inner}" for inner in value} if isinstance(value, dict) else {name}
    assert first_cells(section("What comes out").partition("### The report")[2].partition("| status |")[0]) == names


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE))
    assert named == targets


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m ([\w.]+)", README))))
def test_every_module_that_is_run_exists(module: str) -> None:
    path = PROJECT / module.replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_every_file_of_the_layout_exists_and_every_module_is_in_it() -> None:
    named = first_cells(section("How the code is laid out")) - {"make demo", "make run", "make drop", "make bench"}
    missing = [name for name in named if not (PROJECT / name).exists()]
    modules = {f"{folder}/{path.name}" for folder in ("batch_fn", "devkit") for path in (PROJECT / folder).glob("*.py")}
    assert not missing
    assert modules - {"batch_fn/__init__.py", "devkit/__init__.py"} <= named


@pytest.mark.parametrize("path", [".ci/run", "local.settings.sample.json", "devkit/azure_openai/scripts.py"])
def test_other_files_that_are_named_exist(path: str) -> None:
    assert path in README
    assert (PROJECT / path).exists()


def test_the_lines_shown_as_a_drop_are_accepted() -> None:
    example = re.search(r"```json\n(.*?)```", section("What a drop looks like"), re.DOTALL)
    assert example
    checked = list(check([example[1].encode()], Rules()))
    assert len(checked) == 2
    assert all(isinstance(each, Request) for each in checked)
