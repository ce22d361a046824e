"""The workflows do what the project's own scripts do."""

import re

from tests.infra.templates import PROJECT

WORKFLOWS = PROJECT / ".github/workflows"


def test_both_runs_of_ci_run_the_same_targets_in_the_same_order() -> None:
    here = re.findall(r"^make (\w+)", (PROJECT / ".ci/run").read_text(), re.MULTILINE)
    there = re.findall(r"^ +- run: make (\w+)", (WORKFLOWS / "ci.yml").read_text(), re.MULTILINE)
    assert here == there
    assert "bicep" in here


def test_a_trial_removes_what_it_made_however_it_ended() -> None:
    trial = (WORKFLOWS / "deploy.yml").read_text().partition("\n  trial:\n")[2]
    (last,) = re.findall(r"\n      - name: Remove everything\n(.*)", trial, re.DOTALL)
    assert "if: ${{ always() }}" in last
    assert "azd down --force --purge" in last
    assert "\n      - " not in last
    assert "AZURE_ENV_NAME: trial-${{ github.run_id }}" in trial, "it has a name of its own"
