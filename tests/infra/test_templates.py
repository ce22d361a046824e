"""What the templates make is what the code uses: settings, names, model, network, host and events."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from batch_fn.settings import Settings
from tests.infra.templates import FILES, INFRA, PROJECT, SETS, SNAPSHOTS, WHOLE, interface, made, made_of, names, the

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

TELEMETRY_SETTINGS = {
    "AzureFunctionsJobHost__telemetryMode": "OpenTelemetry",
    "OTEL_TRACES_SAMPLER": "microsoft.fixed_percentage",
    "OTEL_TRACES_SAMPLER_ARG": "1.0",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
}


def settings_of(name: str) -> dict[str, str]:
    """Return the application settings that a set of parameters makes."""
    settings: dict[str, str] = the(name, "sites/config")["properties"]
    return settings


def properties_of(name: str, kind: str) -> Any:
    return the(name, kind)["properties"]


def last_names(name: str, kind: str) -> list[str]:
    return [each["name"].rpartition("/")[2] for each in made_of(name, kind)]


def test_every_set_of_parameters_has_its_snapshot_and_no_snapshot_is_left_over() -> None:
    assert {path.name.partition(".")[0] for path in SNAPSHOTS.glob("*.snapshot.json")} == set(SETS)
    assert {"default", "existing-account", "blob-mode", "private-network", "vault"} <= set(SETS)


@pytest.mark.parametrize("path", sorted(SNAPSHOTS.rglob("*.json")), ids=lambda path: path.stem)
def test_a_snapshot_holds_nothing_of_the_machine_that_wrote_it(path: Path) -> None:
    assert str(PROJECT) not in path.read_text()
    assert not re.search(r"file:/|/home/|/root/|/Users/|/tmp/|\b[A-Z]:\\", path.read_text())


def test_every_module_is_used() -> None:
    used = {name for path in FILES for name in re.findall(r"'modules/([\w-]+)\.bicep'", path.read_text())}
    assert used == {path.stem for path in (INFRA / "modules").iterdir()}


def test_no_module_is_deployed_to_a_group_that_may_have_no_name() -> None:
    # Azure checks the scope of a module even where its condition is false: a parameter that may be empty is none.
    for group in interface("main")["groups"]:
        assert group.startswith("[variables("), group


def test_parameters_and_defaults_of_azd_are_those_of_main() -> None:
    given = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]
    takes = interface("main")["parameters"]
    assert set(given) == set(takes)
    for name, default in takes.items():
        if default is not None and default != {}:
            said = re.fullmatch(r"\$\{[A-Z_]+=(.*)\}", given[name]["value"])
            assert said, name
            assert said[1] == (str(default).lower() if isinstance(default, bool) else str(default)), name


@pytest.mark.parametrize("name", WHOLE)
def test_every_setting_is_one_of_the_app_or_of_the_host(name: str) -> None:
    expected = set(HOST_SETTINGS)
    if name == "telemetry":
        expected |= {*TELEMETRY_SETTINGS, "OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert set(settings_of(name)) - set(SETTINGS) == expected


@pytest.mark.parametrize("name", WHOLE)
def test_the_app_starts_with_what_it_is_given(name: str) -> None:
    # What another resource gives is known in Azure only.
    known = {
        setting: "https://known-in-azure.example/" if value.startswith("[") else value
        for setting, value in settings_of(name).items()
    }
    settings = Settings.read(known)
    assert settings.storage is None, "a connection string would be a key"
    assert settings.storage_client_id
    assert settings.trigger_source == "EventGrid"
    assert settings.submit_mode == ("blob" if name == "blob-mode" else "upload")


@pytest.mark.parametrize("name", WHOLE)
def test_containers_queues_and_tables_are_called_what_the_code_calls_them(name: str) -> None:
    for kind in ("containers", "queues", "tables"):
        for setting, called in names()[kind].items():
            assert SETTINGS[setting].default == called
            assert settings_of(name)[setting] == called
        assert sorted(names()[kind].values()) == sorted(getattr(DEFAULTS, kind))
    own = {names()["deploymentContainer"], names()["deadLetterContainer"]}
    assert set(last_names(name, "blobServices/containers")) == {*DEFAULTS.containers, *own}
    assert set(last_names(name, "queueServices/queues")) == {*DEFAULTS.queues, *names()["poisonQueues"]}
    assert set(last_names(name, "tableServices/tables")) == set(DEFAULTS.tables)


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
    assert listened | set(DEFAULTS.queues) == set(last_names("default", "queueServices/queues"))


def test_the_model_of_the_default_lives_and_its_deployment_is_named_for_no_model() -> None:
    deployment = the("default", "accounts/deployments")
    assert deployment["name"].endswith("/batch")
    assert deployment["sku"] == {"name": "GlobalBatch", "capacity": 90}
    assert deployment["properties"]["model"] == {"format": "OpenAI", "name": "gpt-5.4-mini", "version": "2026-03-17"}
    # The app is told what it may enqueue: what is too large for all of it is sent in parts.
    assert settings_of("default")["TOKEN_LIMITS"] == "batch=90000"
    assert "TOKEN_LIMITS" not in settings_of("existing-account")
    assert "dynamicThrottlingEnabled" not in deployment["properties"], "a refusal would stop the deployment"
    account = the("default", "Microsoft.CognitiveServices/accounts")
    assert account["properties"]["customSubDomainName"] == account["name"]


def test_host_json_and_the_plan_agree() -> None:
    host = json.loads((PROJECT / "host.json").read_text())
    threads = int(settings_of("default")["PYTHON_THREADPOOL_THREAD_COUNT"])
    queues, blobs = host["extensions"]["queues"], host["extensions"]["blobs"]
    assert queues["batchSize"] + queues["newBatchThreshold"] <= threads
    assert blobs["maxDegreeOfParallelism"] <= threads
    assert host["extensionBundle"]["version"] == "[4.0.0, 5.0.0)", "Flex Consumption takes bundles from 4.0.0"
    version = (PROJECT / ".python-version").read_text().strip()
    config = properties_of("default", "Microsoft.Web/sites")["functionAppConfig"]
    assert config["runtime"] == {"name": "python", "version": version}
    assert config["scaleAndConcurrency"] == {"instanceMemoryMB": 2048, "maximumInstanceCount": 40}
    hours, minutes, _ = map(int, host["functionTimeout"].split(":"))
    assert DEFAULTS.claim_seconds <= hours * 3600 + minutes * 60


def test_no_record_of_the_log_is_sampled_away() -> None:
    host = json.loads((PROJECT / "host.json").read_text())
    # Without OpenTelemetry the host heeds this section; with it, the settings below.
    assert "telemetryMode" not in host
    assert "Trace" in host["logging"]["applicationInsights"]["samplingSettings"]["excludedTypes"].split(";")
    for name in WHOLE:
        found = {setting: value for setting, value in settings_of(name).items() if setting in TELEMETRY_SETTINGS}
        assert found == (TELEMETRY_SETTINGS if name == "telemetry" else {}), name


def test_more_settings_win_over_a_default_and_not_over_what_the_template_knows() -> None:
    given = (SNAPSHOTS / "telemetry.bicepparam").read_text()
    assert {"SUBMIT_MODE", "TOKEN_LIMITS"} <= set(re.findall(r"^  (\w+):", given, re.MULTILINE))
    assert settings_of("telemetry")["SUBMIT_MODE"] == "upload"
    assert settings_of("telemetry")["TOKEN_LIMITS"] == "batch=1000,other=2000"


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_takes_a_key(name: str) -> None:
    assert properties_of(name, "Microsoft.Storage/storageAccounts")["allowSharedKeyAccess"] is False
    assert properties_of(name, "Microsoft.Insights/components")["DisableLocalAuth"] is True
    for account in made_of(name, "Microsoft.CognitiveServices/accounts"):
        assert account["properties"]["disableLocalAuth"] is True
    for policy in made_of(name, "sites/basicPublishingCredentialsPolicies"):
        assert policy["properties"]["allow"] is False
    keys = settings_of(name).get("AZURE_OPENAI_API_KEY")
    reference = "@Microsoft.KeyVault(VaultName=their-vault;SecretName=azure-openai-api-key)"
    assert keys == (reference if name == "vault" else None)


def test_only_the_system_key_of_the_app_is_read() -> None:
    for name in SETS:
        found = set(re.findall(r"list\w+\([^)]*\)\.[\w.]+", json.dumps(made(name))))
        if name == "event-subscription":
            (only,) = found
            assert only.endswith("host/default', '2024-04-01').systemKeys.blobs_extension")
        else:
            assert not found


@pytest.mark.parametrize("name", ["existing-account", "vault"])
def test_an_existing_account_is_called_at_its_sub_domain_and_gets_no_deployment(name: str) -> None:
    assert not made_of(name, "Microsoft.CognitiveServices/accounts")
    assert not made_of(name, "accounts/deployments")
    endpoint = settings_of(name)["AZURE_OPENAI_ENDPOINT"]
    assert endpoint.startswith("[format('https://{0}.openai.azure.com/', ")
    assert "/resourceGroups/their-group/providers/Microsoft.CognitiveServices/accounts/their-account" in endpoint
    assert "customSubDomainName" in endpoint
    assert "'endpoint'" not in endpoint


def test_blob_mode_lets_the_account_reach_the_storage_account() -> None:
    account = the("blob-mode", "Microsoft.CognitiveServices/accounts")
    (rule,) = properties_of("blob-mode", "Microsoft.Storage/storageAccounts")["networkAcls"]["resourceAccessRules"]
    assert rule["resourceId"] == account["id"]
    assert account["identity"] == {"type": "SystemAssigned"}
    assert not properties_of("default", "Microsoft.Storage/storageAccounts")["networkAcls"]["resourceAccessRules"]


def test_a_private_network_closes_storage_and_service_and_opens_endpoints_to_them() -> None:
    storage, account = (
        the("private-network", "Microsoft.Storage/storageAccounts"),
        the("private-network", "Microsoft.CognitiveServices/accounts"),
    )
    assert storage["properties"]["networkAcls"]["defaultAction"] == "Deny"
    assert account["properties"]["publicNetworkAccess"] == "Disabled"
    reached = {
        (link["properties"]["privateLinkServiceId"], group)
        for endpoint in made_of("private-network", "Microsoft.Network/privateEndpoints")
        for link in endpoint["properties"]["privateLinkServiceConnections"]
        for group in link["properties"]["groupIds"]
    }
    assert reached == {*((storage["id"], each) for each in ("blob", "queue", "table")), (account["id"], "account")}
    network = the("private-network", "Microsoft.Network/virtualNetworks")
    subnets = {each["name"]: each["properties"] for each in network["properties"]["subnets"]}
    (delegation,) = subnets["app"]["delegations"]
    assert delegation["properties"]["serviceName"] == "Microsoft.App/environments"
    site = properties_of("private-network", "Microsoft.Web/sites")
    assert site["virtualNetworkSubnetId"] == f"{network['id']}/subnets/app"
    for name in set(WHOLE) - {"private-network"}:
        assert not [each for each in made(name) if each["type"].startswith("Microsoft.Network/")]


def test_events_of_whole_blobs_in_the_inbox_reach_the_drop() -> None:
    inbox = properties_of("event-subscription", "systemTopics/eventSubscriptions")
    assert "functionName=Host.Functions.drop&code=" in inbox["destination"]["properties"]["endpointUrl"]
    assert '@app.function_name("drop")' in (PROJECT / "function_app.py").read_text()
    assert inbox["filter"]["subjectBeginsWith"] == f"/blobServices/default/containers/{DEFAULTS.input_container}/blobs/"
    (kept,) = inbox["filter"]["advancedFilters"]
    assert (kept["operatorType"], kept["key"]) == ("StringIn", "data.api")
    assert {"PutBlob", "PutBlockList", "CopyBlob", "FlushWithClose"} <= set(kept["values"])
    dead = inbox["deadLetterWithResourceIdentity"]["deadLetterDestination"]["properties"]
    assert dead["blobContainerName"] in last_names("default", "blobServices/containers")
