"""The files around the code fit it: editor, dev container, hooks, and what is deployed."""

import json
import re
from pathlib import Path

import pytest

from tests.infra.templates import left_out

PROJECT = Path(__file__).parents[1]


def test_pre_commit_runs_what_make_lint_runs() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe
    commands = [line.strip().lstrip("@").replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    hooks = re.findall(r"^ +entry: (.+)$", (PROJECT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    assert hooks == commands


def test_the_dev_container_has_the_versions_that_are_needed() -> None:
    container = json.loads((PROJECT / ".devcontainer/devcontainer.json").read_text())
    python = (PROJECT / ".python-version").read_text().strip()
    assert f"/python:{python}-" in container["image"]
    assert container["features"]["ghcr.io/devcontainers/features/node:1"] == {"version": "20"}


def test_the_dev_container_and_the_editor_have_the_same_extensions() -> None:
    container = json.loads((PROJECT / ".devcontainer/devcontainer.json").read_text())
    editor = json.loads((PROJECT / ".vscode/extensions.json").read_text())
    assert container["customizations"]["vscode"]["extensions"] == editor["recommendations"]


def test_the_editor_launches_modules_and_tasks_that_exist() -> None:
    launch = json.loads((PROJECT / ".vscode/launch.json").read_text())["configurations"]
    tasks = json.loads((PROJECT / ".vscode/tasks.json").read_text())["tasks"]
    labels = {task["label"] for task in tasks}
    assert {each["preLaunchTask"] for each in launch if "preLaunchTask" in each} <= labels
    assert {task["dependsOn"] for task in tasks if "dependsOn" in task} <= labels
    for each in launch:
        module = each.get("module", "devkit.run").replace(".", "/")
        assert module == "pytest" or (PROJECT / f"{module}.py").is_file()
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert {label.removeprefix("make ") for label in labels if label.startswith("make ")} <= targets


@pytest.mark.parametrize(
    "name", ["CHANGELOG.md", ".devcontainer/devcontainer.json", ".vscode/launch.json", ".editorconfig", "docs/api.md"]
)
def test_files_of_the_repository_are_not_deployed(name: str) -> None:
    assert (PROJECT / name).is_file()
    assert left_out(Path(name))


def test_nothing_is_released_that_the_changelog_does_not_say() -> None:
    heads = re.findall(r"^## (.+)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == "[Unreleased]"
