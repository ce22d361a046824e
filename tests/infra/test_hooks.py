"""The hooks, run with a stand-in for `az`: what they wait for, what they do again, and what they say when it fails."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.infra.templates import INFRA, PROJECT, interface

HOOKS = INFRA / "hooks"
NAMES = sorted({path.stem for path in HOOKS.iterdir() if path.suffix in {".sh", ".ps1"}})

#: Writes down how it was called. A file named for a command holds its answers, a line for each call, the last for all
#: that follow: `fail` is a refusal, anything else what is printed.
FAKE_AZ = """#!/bin/sh
echo "$@" >> "$HERE/calls"
case "$*" in
  *"functionKeys"*) command=functionkey ;;
  *"keys list"*) command=keys ;;
  *"deployment group create"*) command=subscription ;;
  *"provider show"*) command=state ;;
  *"provider register"*) command=register ;;
  *"account deployment show"*) command=deployment ;;
  "rest --skip-authorization-header"*"--method post"*) command=asked ;;
  "rest --skip-authorization-header"*"--query state"*) command=verdict ;;
  "rest --skip-authorization-header"*"--query checks"*) command=checks ;;
  rest*) command=rest ;;
  "account set"*) command=account ;;
  *) exit 64 ;;
esac
answers="$HERE/$command"
[ -e "$answers" ] || exit 0
answer=$(head -n 1 "$answers")
[ "$(wc -l < "$answers")" -gt 1 ] && sed -i 1d "$answers"
[ "$answer" = fail ] && { echo "az: no" >&2; exit 1; }
echo "$answer"
"""
#: What a doctor answers who finds all well.
WELL = {"functionkey": "a-key", "asked": "0123456789abcdef", "verdict": "ok"}
FAKE_SLEEP = """#!/bin/sh
echo "$@" >> "$HERE/naps"
"""


class Azure:
    """A stand-in for `az` and `sleep`, with the environment that azd gives a hook."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name, text in {"az": FAKE_AZ, "sleep": FAKE_SLEEP}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        for command, answer in WELL.items():
            self.answers(command, answer)
        self.environment = {name: f"the-{name.lower()}" for name in interface("main")["outputs"]}

    def answers(self, command: str, *answers: str) -> None:
        (self._folder / command).write_text("".join(f"{answer}\n" for answer in answers))

    def run(self, hook: str) -> subprocess.CompletedProcess[str]:
        shell = shutil.which("sh")
        assert shell
        paths = {"HERE": str(self._folder), "PATH": f"{self._folder}:{os.environ['PATH']}"}
        return subprocess.run(
            [shell, HOOKS / f"{hook}.sh"],
            env={**paths, **self.environment},
            check=False,
            capture_output=True,
            text=True,
        )

    def _lines(self, name: str) -> list[str]:
        path = self._folder / name
        return path.read_text().splitlines() if path.exists() else []

    def calls(self, part: str) -> list[str]:
        return [call for call in self._lines("calls") if part in call]

    @property
    def naps(self) -> list[str]:
        return self._lines("naps")


@pytest.fixture
def azure(tmp_path: Path) -> Azure:
    return Azure(tmp_path)


def test_the_key_is_waited_for_and_the_hook_may_run_again(azure: Azure) -> None:
    azure.answers("keys", "", "false", "true")
    for _ in range(2):
        assert azure.run("postdeploy").returncode == 0
    assert len(azure.calls("systemKeys")) == 4  # not yet, not yet, there, and there at once
    assert azure.naps == ["10", "10"]
    made = azure.calls("deployment group create")
    assert len(made) == 2
    for name in interface("event-subscription")["parameters"]:
        assert f"{name}=the-azure_" in made[0], name


def test_an_app_without_a_key_is_given_up_after_ten_minutes_and_the_cure_is_named(azure: Azure) -> None:
    azure.answers("keys", "fail")
    ended = azure.run("postdeploy")
    assert ended.returncode == 1
    assert sum(map(int, azure.naps)) == pytest.approx(600, abs=10)
    assert "az functionapp restart --resource-group the-azure_resource_group" in ended.stderr
    assert not azure.calls("deployment group create")


def test_a_subscription_that_is_refused_is_tried_five_times_half_a_minute_apart(azure: Azure) -> None:
    azure.answers("keys", "true")
    azure.answers("subscription", "fail", "fail", "fail", "fail", "made")
    assert azure.run("postdeploy").returncode == 0
    assert azure.naps == ["30"] * 4
    azure.answers("subscription", "fail")
    ended = azure.run("postdeploy")
    assert ended.returncode == 1
    assert len(azure.calls("deployment group create")) == 10
    assert azure.naps == ["30"] * 8
    assert (
        "az functionapp restart --resource-group the-azure_resource_group --name the-azure_function_app_name"
        in ended.stderr
    )
    assert "reaches the app" not in ended.stdout.rpartition("try 5")[2]


def test_the_doctor_is_asked_last_and_its_verdict_is_the_hook_s(azure: Azure) -> None:
    azure.answers("keys", "true")
    azure.answers("asked", "fail", "0123456789abcdef")
    azure.answers("verdict", "running", "running", "warning")
    azure.answers("checks", "warning deployment batch: it retires soon. Deploy another.")
    ended = azure.run("postdeploy")
    assert (ended.returncode, azure.naps) == (0, ["30", "10", "10"])
    assert "it retires soon" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "The doctor's verdict: warning"
    assert "--url https://the-azure_function_app_host/api/doctor/0123456789abcdef" in azure.calls("--query state")[0]
    assert not azure.calls("a-key"), "the key is in no list of processes"
    azure.answers("verdict", "wrong")
    ended = azure.run("postdeploy")
    assert ended.returncode == 1
    assert "azd hooks run postdeploy" in ended.stderr


def test_a_doctor_who_cannot_be_asked_or_gives_no_verdict_is_told(azure: Azure) -> None:
    azure.answers("keys", "true")
    azure.answers("asked", "fail")
    ended = azure.run("postdeploy")
    assert (ended.returncode, azure.naps) == (1, ["30"] * 4)
    assert "az functionapp restart" in ended.stderr
    azure.answers("asked", "0123456789abcdef")
    azure.answers("verdict", "fail")
    ended = azure.run("postdeploy")
    assert ended.returncode == 1
    assert "log of the function doctor" in ended.stderr


@pytest.mark.parametrize("hook", ["postdeploy", "postprovision"])
def test_a_hook_that_lacks_a_name_says_so(azure: Azure, hook: str) -> None:
    del azure.environment["AZURE_RESOURCE_GROUP"]
    ended = azure.run(hook)
    assert ended.returncode != 0
    assert "AZURE_RESOURCE_GROUP" in ended.stderr
    assert not azure.calls("")


def test_a_provider_is_registered_for_a_private_network_only(azure: Azure) -> None:
    for private in (None, "false", ""):
        azure.environment.pop("PRIVATE_NETWORK", None)
        if private is not None:
            azure.environment["PRIVATE_NETWORK"] = private
        assert azure.run("preprovision").returncode == 0
    assert not azure.calls("")
    azure.environment |= {"PRIVATE_NETWORK": "true", "AZURE_SUBSCRIPTION_ID": "the-subscription"}
    azure.answers("state", "NotRegistered", "Registered")
    for _ in range(2):
        assert azure.run("preprovision").returncode == 0
    assert azure.calls("account set") == ["account set --subscription the-subscription"] * 2
    assert azure.calls("provider register") == ["provider register --namespace Microsoft.App --wait"]


def test_a_provider_that_may_not_be_registered_stops_before_anything_is_made(azure: Azure) -> None:
    azure.environment["PRIVATE_NETWORK"] = "True"
    azure.answers("state", "NotRegistered")
    azure.answers("register", "fail")
    ended = azure.run("preprovision")
    assert ended.returncode == 1
    assert "az: no" in ended.stderr
    assert "az provider register --namespace Microsoft.App --wait" in ended.stderr


def test_dynamic_quota_is_switched_on_for_the_new_deployment(azure: Azure) -> None:
    azure.answers("deployment", "/subscriptions/s/deployments/batch")
    assert "is on" in azure.run("postprovision").stdout
    (asked,) = azure.calls("rest")
    assert "--method patch --url /subscriptions/s/deployments/batch?api-version=" in asked
    body = re.findall(r"--body @(\S+)", asked)[0]
    assert json.loads(Path(body).read_text()) == {"properties": {"dynamicThrottlingEnabled": True}}


def test_an_account_that_was_there_is_left_alone(azure: Azure) -> None:
    azure.environment["AZURE_OPENAI_DEPLOYMENT_NAME"] = ""
    assert azure.run("postprovision").returncode == 0
    assert not azure.calls("")


@pytest.mark.parametrize("refusing", ["deployment", "rest", "account"])
def test_a_refusal_of_dynamic_quota_stops_nothing(azure: Azure, refusing: str) -> None:
    azure.environment["AZURE_SUBSCRIPTION_ID"] = "the-subscription"
    azure.answers("deployment", "/subscriptions/s/deployments/batch")
    azure.answers(refusing, "fail")
    ended = azure.run("postprovision")
    assert ended.returncode == 0
    assert "az: no" in ended.stderr
    assert "is on" not in ended.stdout


@pytest.mark.parametrize("name", NAMES)
def test_both_shells_are_given_the_same_commands(name: str) -> None:
    posix, windows = ((HOOKS / f"{name}{suffix}").read_text() for suffix in (".sh", ".ps1"))
    for what in (r"\baz ([a-z]+(?: [a-z]+)*) --", r" (--[a-z][a-z-]+)", r"-ge (\d+)"):
        assert set(re.findall(what, posix)) == set(re.findall(what, windows)), what
    assert re.findall(r"sleep (\d+)", posix) == re.findall(r"Start-Sleep -Seconds (\d+)", windows)
    outputs = set(interface("main")["outputs"])
    asked = {"AZURE_SUBSCRIPTION_ID", "PRIVATE_NETWORK"}
    for text in (posix, windows):
        assert set(re.findall(r"\bAZURE_[A-Z_]+\b", text)) <= outputs | asked
    azd = (PROJECT / "azure.yaml").read_text()
    for suffix in (".sh", ".ps1"):
        assert f"run: ./infra/hooks/{name}{suffix}" in azd
