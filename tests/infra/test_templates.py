"""What bicep makes is what the code uses: settings, names, host, events, alerts."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from batch_fn.settings import Settings
from tests.infra.templates import FILES, INFRA, PROJECT, module, names, template

SETTINGS = {each.metadata["name"]: each for each in fields(Settings)}
DEFAULTS = Settings(storage="x", openai_endpoint="https://x")

HOST_SETTINGS = {
    "AzureWebJobsStorage__accountName": "the host's own storage",
    "AzureWebJobsStorage__credential": "the host's own storage",
    "AzureWebJobsStorage__clientId": "the host's own storage",
    "BatchStorage__credential": "how the triggers' connection signs in",
    "AZURE_CLIENT_ID": "which identity DefaultAzureCredential takes",
    "APPLICATIONINSIGHTS_CONNECTION_STRING": "where logs go",
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING": "as whom",
    "PYTHON_THREADPOOL_THREAD_COUNT": "the worker's threads",
}


def bicep_settings() -> dict[str, str]:
    found = dict(module("function")["variables"]["hostSettings"]["value"])
    for kind in ("containers", "queues", "tables"):
        found |= names()[kind]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_parses(path: Path) -> None:
    assert template(path).keys() & {"resources", "modules"}


def test_every_file_that_is_named_is_there() -> None:
    for path in FILES:
        for name in re.findall(r"(?:module \w+ |load\w+Content\()'([^']+)'", path.read_text()):
            assert (path.parent / name).is_file(), f"{path.name} names {name}"
    used = {name for path in FILES for name in re.findall(r"modules/([\w-]+)\.bicep", path.read_text())}
    assert used == {path.stem for path in (INFRA / "modules").iterdir()}


def test_a_module_gets_each_parameter_that_it_needs_and_no_other() -> None:
    for call in template(INFRA / "main.bicep")["modules"].values():
        config = call["config"].get("config", call["config"])  # within, where the module has a condition
        takes = template(INFRA / call["detail"]["path"])["parameters"]
        assert set(config["params"]) == set(takes), call["detail"]["path"]


def test_parameters_of_azd_are_those_of_main() -> None:
    given = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]
    assert set(given) == set(template(INFRA / "main.bicep")["parameters"])
    for path in ("postdeploy.sh", "postdeploy.ps1"):
        used = set(re.findall(r"\bAZURE_[A-Z_]+\b", (INFRA / "hooks" / path).read_text())) - {"AZURE_SUBSCRIPTION_ID"}
        assert used <= set(template(INFRA / "main.bicep")["outputs"]), path


def test_every_setting_of_bicep_is_one_of_the_app_or_of_the_host() -> None:
    assert set(bicep_settings()) - set(SETTINGS) == set(HOST_SETTINGS)


def test_the_app_starts_with_what_bicep_sets() -> None:
    # What a parameter of the module gives is known in Azure only.
    known = {"openAiEndpoint": "https://oai-x.openai.azure.com/", "submitMode": "upload"}
    settings = Settings.read({name: known.get(value, value) for name, value in bicep_settings().items()})
    assert settings.storage is None, "a connection string would be a key"
    assert settings.storage_client_id
    assert settings.trigger_source == "EventGrid"


def test_containers_queues_and_tables_are_called_what_the_code_calls_them() -> None:
    for kind in ("containers", "queues", "tables"):
        for setting, name in names()[kind].items():
            assert SETTINGS[setting].default == name
        assert sorted(names()[kind].values()) == sorted(getattr(DEFAULTS, kind))


TRIGGERS = """
import json, function_app
print(json.dumps([each.get_trigger().get_dict_repr() for each in function_app.app.get_functions()], default=str))
"""


def triggers() -> list[dict[str, str]]:
    """The triggers of the app, as it is with default settings."""
    settings = {"BatchStorage": "UseDevelopmentStorage=true", "AZURE_OPENAI_ENDPOINT": "https://x.openai.azure.com"}
    run = subprocess.run(
        [sys.executable, "-c", TRIGGERS], cwd=PROJECT, env=settings, check=True, capture_output=True, text=True
    )
    found: list[dict[str, str]] = json.loads(run.stdout)
    return found


def test_every_queue_that_a_trigger_listens_to_is_made() -> None:
    listened = {trigger["queueName"] for trigger in triggers() if trigger["type"] == "queueTrigger"}
    made = {*names()["queues"].values(), *names()["poisonQueues"]}
    assert listened | set(DEFAULTS.queues) == made
    text = (INFRA / "modules/storage.bicep").read_text()
    assert set(re.findall(r"names\.queues\.(\w+)", text)) == set(names()["queues"])


def test_host_json_and_the_plan_agree() -> None:
    host = json.loads((PROJECT / "host.json").read_text())
    threads = int(bicep_settings()["PYTHON_THREADPOOL_THREAD_COUNT"])
    queues, blobs = host["extensions"]["queues"], host["extensions"]["blobs"]
    assert queues["batchSize"] + queues["newBatchThreshold"] <= threads
    assert blobs["maxDegreeOfParallelism"] <= threads
    assert host["extensionBundle"]["version"] == "[4.0.0, 5.0.0)", "Flex Consumption takes bundles from 4.0.0"
    config = module("function")["resources"]["app"]["config"]["properties"]["functionAppConfig"]
    version = (PROJECT / ".python-version").read_text().strip()
    assert config["runtime"] == {"name": "python", "version": version}
    hours, minutes, _ = map(int, host["functionTimeout"].split(":"))
    assert DEFAULTS.claim_seconds <= hours * 3600 + minutes * 60


def test_nothing_takes_a_key() -> None:
    assert module("storage")["resources"]["account"]["config"]["properties"]["allowSharedKeyAccess"] is False
    assert module("openai")["resources"]["account"]["config"]["properties"]["disableLocalAuth"] is True
    assert module("monitoring")["resources"]["insights"]["config"]["properties"]["DisableLocalAuth"] is True
    text = "\n".join(path.read_text() for path in FILES)
    assert re.findall(r"list\w+\(", text) == ["listKeys("], "only the app's own system key is read"


def test_events_of_whole_blobs_in_the_inbox_reach_the_drop() -> None:
    inbox = template(INFRA / "event-subscription.bicep")["resources"]["inbox"]["config"]["properties"]
    assert "functionName=Host.Functions.drop&code=" in inbox["destination"]["properties"]["endpointUrl"]
    assert '@app.function_name("drop")' in (PROJECT / "function_app.py").read_text()
    begins = "/blobServices/default/containers/${names.containers.INPUT_CONTAINER}/blobs/"
    assert inbox["filter"]["subjectBeginsWith"] == begins
    (kept,) = inbox["filter"]["advancedFilters"]
    assert (kept["operatorType"], kept["key"]) == ("StringIn", "data.api")
    assert {"PutBlob", "PutBlockList", "CopyBlob", "FlushWithClose"} <= set(kept["values"])
    assert "deadLetterWithResourceIdentity" in inbox


def test_each_hook_waits_for_the_key_and_deploys_the_subscription() -> None:
    takes = set(template(INFRA / "event-subscription.bicep")["parameters"])
    for name in ("postdeploy.sh", "postdeploy.ps1"):
        text = (INFRA / "hooks" / name).read_text()
        assert set(re.findall(r"(\w+)=[\"$]+(?:env:)?AZURE_", text)) == takes, name
        assert "blobs_extension" in text
        assert f"infra/hooks/{name}" in (PROJECT / "azure.yaml").read_text()


FAKE_AZ = """#!/bin/sh
echo "$@" >> "$HERE/calls"
case "$*" in
  *"keys list"*) if [ -e "$HERE/asked" ]; then echo true; else touch "$HERE/asked"; echo; fi ;;
esac
"""


def test_the_hook_waits_until_the_key_is_there_and_may_run_again(tmp_path: Path) -> None:
    for name, text in {"az": FAKE_AZ, "sleep": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    shell = shutil.which("sh")
    assert shell
    given = ("RESOURCE_GROUP", "FUNCTION_APP_NAME", "STORAGE_ACCOUNT_NAME", "EVENT_TOPIC_NAME")
    environment = {f"AZURE_{name}": f"the-{name.lower()}" for name in given}
    environment |= {"HERE": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run([shell, INFRA / "hooks/postdeploy.sh"], env=environment, check=True, capture_output=True)
    calls = (tmp_path / "calls").read_text()
    assert calls.count("keys list") == 3  # not yet, there, and there at once
    assert calls.count("deployment group create") == 2
    assert "functionAppName=the-function_app_name" in calls
    del environment["AZURE_EVENT_TOPIC_NAME"]
    lost = subprocess.run([shell, INFRA / "hooks/postdeploy.sh"], env=environment, check=False, capture_output=True)
    assert lost.returncode != 0


def events_of_the_journal() -> set[str]:
    source = "\n".join(path.read_text() for path in (PROJECT / "batch_fn").rglob("*.py"))
    return set(re.findall(r'\blog\.(?:info|warning)\(\s*"(\w+)"', source))


def test_every_event_that_a_query_asks_for_is_one_the_app_logs() -> None:
    texts = [path.read_text() for path in sorted((INFRA / "alerts").glob("*.kql"))]
    texts += [
        item["content"]["query"]
        for item in json.loads((INFRA / "workbook.json").read_text())["items"]
        if "query" in item["content"]
    ]
    asked = set()
    for text in texts:
        for one, several in re.findall(r'event\)? (?:[=!]= "(\w+)"|in \(([^)]+)\))', text):
            asked |= {one} if one else set(re.findall(r"\w+", several))
        for name in re.findall(r'name == "(\w+)"', text):
            assert f'@app.function_name("{name}")' in (PROJECT / "function_app.py").read_text()
    assert asked
    assert asked <= events_of_the_journal()


def test_alerts_are_those_of_the_operations_guide() -> None:
    files = {path.stem: path.read_text().strip() for path in (INFRA / "alerts").glob("*.kql")}
    listed = [each["name"] for each in module("alerts")["variables"]["alerts"]["value"]]
    assert set(listed) == set(files)
    alerts = (PROJECT / "docs/operations.md").read_text().partition("\n## Alerts\n")[2].partition("\n## ")[0]
    shown = [re.findall(r"```kusto\n(.*?)```", each, re.DOTALL)[0].strip() for each in alerts.split("\n### ")[1:]]
    assert shown == [files[name] for name in listed]
