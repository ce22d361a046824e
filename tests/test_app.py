"""What the app loads at start, and that its clients are made when they are used."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from azure.identity import ManagedIdentityCredential

from batch_fn.app import App
from batch_fn.settings import Settings
from devkit.azure_openai.process import AzureOpenAI
from devkit.azurite import Azurite
from devkit.stack import provision

PROJECT = Path(__file__).parents[1]

LOADED = """
import json, sys
import azure.functions, azurefunctions.extensions.bindings.blob
host = set(sys.modules)
import function_app
print(json.dumps({"host": sorted(host), "app": sorted(set(sys.modules) - host)}))
"""

ONE_CALL_EACH = """
import logging
logging.basicConfig(level=logging.INFO, format="%(name)s")
from batch_fn.app import get_app
app = get_app()
assert get_app() is app
list(app.blobs.inbox())
app.queues.collect("a")
app.tables.deployment("a")
list(app.openai.files())
logging.getLogger("batch_fn").info("done")
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, which has loaded nothing yet."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture(scope="module")
def loaded() -> Any:
    """The modules that the trigger's own binding loads (`host`), and those that the app adds to them (`app`)."""
    settings = {
        "BatchStorage": "UseDevelopmentStorage=true",
        "AZURE_OPENAI_ENDPOINT": "https://example.openai.azure.com",
    }
    return json.loads(run(LOADED, **settings).stdout)


@pytest.mark.parametrize(
    "package",
    [
        "openai",
        "httpx2",
        "pydantic",
        "opentelemetry",
        "google.protobuf",
        "azure.data.tables",
        "azure.storage.queue",
        "azure.storage.blob.aio",
    ],
)
def test_what_only_some_triggers_need_is_not_loaded_at_start(loaded: dict[str, list[str]], package: str) -> None:
    everything = loaded["host"] + loaded["app"]
    assert [name for name in everything if f"{name}.".startswith(f"{package}.")] == []


def test_of_the_azure_sdk_the_app_adds_nothing_to_what_the_blob_binding_loads(loaded: dict[str, list[str]]) -> None:
    assert [name for name in loaded["app"] if name.split(".")[0] in {"azure", "azurefunctions", "msal"}] == []


@pytest.mark.parametrize("package", ["steps", "queries", "api", "cli", "azure_openai", "core", "validation", "doctor"])
def test_of_the_app_itself_only_what_every_trigger_needs_is_loaded(loaded: dict[str, list[str]], package: str) -> None:
    assert [name for name in loaded["app"] if f"{name}.".startswith(f"batch_fn.{package}.")] == []


def test_the_sdks_do_not_log_each_call(azurite: Azurite, settings: Settings, service: AzureOpenAI) -> None:
    provision(azurite.connection_string, settings)
    environment = {
        "BatchStorage": azurite.connection_string,
        "AZURE_OPENAI_ENDPOINT": service.url,
        "AZURE_OPENAI_API_KEY": service.api_key,
        "INPUT_CONTAINER": settings.input_container,
        "COLLECT_QUEUE": settings.collect_queue,
        "DEPLOYMENTS_TABLE": settings.deployments_table,
    }
    assert run(ONE_CALL_EACH, **environment).stderr.splitlines() == ["batch_fn"]


@pytest.mark.parametrize("client", ["blobs", "queues", "tables", "openai"])
def test_each_client_is_made_once_when_it_is_first_used(client: str) -> None:
    app = App(
        Settings(
            storage="UseDevelopmentStorage=true",
            openai_endpoint="https://example.openai.azure.com",
            openai_api_key="secret",
        )
    )
    assert client not in vars(app)
    assert getattr(app, client) is getattr(app, client)
    assert client in vars(app)


def test_without_a_connection_string_the_storage_is_reached_by_a_managed_identity() -> None:
    settings = Settings(
        storage_blob_uri="https://mine.blob.core.windows.net",
        storage_queue_uri="https://mine.queue.core.windows.net",
        storage_table_uri="https://mine.table.core.windows.net",
        storage_client_id="00000000-0000-0000-0000-000000000001",
    )
    app = App(settings)
    blob = app.blobs.drop_client("monday.jsonl")
    assert blob.url == "https://mine.blob.core.windows.net/batch-input/monday.jsonl"
    assert isinstance(blob.credential, ManagedIdentityCredential)
    assert app.queues
    assert app.tables
