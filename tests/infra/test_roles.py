"""Every call of the code is covered by a role that is granted, and no role is granted that nothing needs."""

import ast
import json
import re
from collections import defaultdict
from typing import NamedTuple

import pytest
from azure.data.tables import TableClient, TableServiceClient
from azure.storage.blob import BlobClient, BlobServiceClient, ContainerClient
from azure.storage.queue import QueueClient, QueueServiceClient

from tests.infra.templates import INFRA, PROJECT, WHOLE, left_out, made_of, names, the

BLOB, QUEUE = "blobServices/containers", "queueServices/queues"
ENTITY = "tableServices/tables/entities"

#: Each call that goes over the network: the data action that it needs. A new call fails the test until it is here.
CALLS = {
    # Blob storage
    "commit_block_list": f"{BLOB}/blobs/write",
    "delete_blob": f"{BLOB}/blobs/delete",
    "download_blob": f"{BLOB}/blobs/read",
    "get_blob_properties": f"{BLOB}/blobs/read",
    "create_container": f"{BLOB}/write",
    "get_container_properties": f"{BLOB}/read",
    "list_blob_names": f"{BLOB}/blobs/read",
    "list_blobs": f"{BLOB}/blobs/read",
    "stage_block": f"{BLOB}/blobs/write",
    "start_copy_from_url": f"{BLOB}/blobs/write",
    "upload_blob": f"{BLOB}/blobs/write",
    # Storage queues
    "get_queue_properties": f"{QUEUE}/read",
    "peek_messages": f"{QUEUE}/messages/read",
    "delete_message": f"{QUEUE}/messages/delete",
    "send_message": f"{QUEUE}/messages/add/action",
    # Table storage
    "create_entity": f"{ENTITY}/add/action",
    "delete_entity": f"{ENTITY}/delete",
    "get_entity": f"{ENTITY}/read",
    "list_entities": f"{ENTITY}/read",
    "query_entities": f"{ENTITY}/read",
    "submit_transaction": f"{ENTITY}/write",
    "update_entity": f"{ENTITY}/update/action",
    "upsert_entity": f"{ENTITY}/write",
    # Azure OpenAI
    "batches.cancel": "OpenAI/batches/cancel/action",
    "batches.create": "OpenAI/batch-jobs/write",
    "batches.list": "OpenAI/batches/read",
    "batches.retrieve": "OpenAI/batches/read",
    "files.content": "OpenAI/files/read",
    "files.create": "OpenAI/files/write",
    "files.delete": "OpenAI/files/delete",
    "files.list": "OpenAI/files/read",
    "files.retrieve": "OpenAI/files/read",
}

#: What the app does without an SDK: the doctor asks the service and Azure Resource Manager by plain HTTP.
PLAIN_CALLS = {
    "Microsoft.CognitiveServices/*/read": "lists deployments and models of the account",
    "OpenAI/batches/read": "lists batches",
    "OpenAI/files/read": "lists files",
    "OpenAI/files/write": "uploads a file",
    "OpenAI/files/delete": "deletes it",
}

#: What the Functions host does with the app's identity.
HOST_NEEDS = {
    f"{BLOB}/write": "makes azure-webjobs-hosts, where locks and timer state lie",
    f"{BLOB}/blobs/runAsSuperUser/action": "documented: Owner on the account of AzureWebJobsStorage",
    f"{QUEUE}/write": "makes the internal queue of the blob trigger",
    f"{QUEUE}/messages/process/action": "takes messages for the triggers",
    "Microsoft.Insights/Telemetry/Write": "sends logs and metrics",
    "vaults/secrets/getSecret/action": "resolves the reference to an API key, where one is set",
}

#: What the others do.
OTHER_NEEDS = {
    "service": {
        f"{BLOB}/blobs/read": "SUBMIT_MODE=blob: input from archive and work",
        f"{BLOB}/blobs/write": "SUBMIT_MODE=blob: results into work",
    },
    "user": {f"{BLOB}/blobs/write": "drops a file", f"{BLOB}/blobs/read": "fetches results"},
    "topic": {f"{BLOB}/blobs/write": "dead letters of Event Grid"},
}

#: The data actions of the built-in roles, as far as needed here. Entered by hand: no test holds them to Azure.
ROLES = {
    "Storage Blob Data Reader": {f"{BLOB}/blobs/read"},
    "Storage Blob Data Contributor": {
        f"{BLOB}/read",
        f"{BLOB}/write",
        *(f"{BLOB}/blobs/{each}" for each in ("read", "write", "delete")),
    },
    "Storage Blob Data Owner": {
        f"{BLOB}/read",
        f"{BLOB}/write",
        *(f"{BLOB}/blobs/{each}" for each in ("read", "write", "delete", "runAsSuperUser/action")),
    },
    "Storage Queue Data Contributor": {
        f"{QUEUE}/read",
        f"{QUEUE}/write",
        *(f"{QUEUE}/messages/{each}" for each in ("read", "write", "delete", "add/action", "process/action")),
    },
    "Storage Table Data Contributor": {
        f"{ENTITY}/{each}" for each in ("read", "write", "delete", "add/action", "update/action")
    },
    "Cognitive Services OpenAI Contributor": {
        *(each for each in CALLS.values() if each.startswith("OpenAI/")),
        "Microsoft.CognitiveServices/*/read",
    },
    "Monitoring Metrics Publisher": {"Microsoft.Insights/Telemetry/Write"},
    "Key Vault Secrets User": {"vaults/secrets/getSecret/action"},
}

CLIENTS = (
    BlobClient,
    BlobServiceClient,
    ContainerClient,
    QueueClient,
    QueueServiceClient,
    TableClient,
    TableServiceClient,
)
#: What only makes a client, closes one or tells its address.
LOCAL = {"from_connection_string", "get_blob_client", "get_container_client", "get_queue_client", "get_table_client"}
LOCAL |= {"close", "url", "from_blob_url", "from_container_url", "from_queue_url", "from_table_url"}
SDK_METHODS = {name for client in CLIENTS for name in dir(client) if not name.startswith("_")} - LOCAL


def chain(node: ast.expr) -> list[str]:
    """Return `a.b.c` as its names, as far as it is one."""
    if isinstance(node, ast.Attribute):
        return [*chain(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else []


def calls_of(source: str) -> set[str]:
    """Return the calls in the source that go to storage or to the service."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        # A method that is handed on, to be called in a thread, is called as well.
        found |= {each.attr for each in node.args if isinstance(each, ast.Attribute) and each.attr in SDK_METHODS}
        if not isinstance(node.func, ast.Attribute):
            continue
        *owners, name = chain(node.func) or [node.func.attr]
        kind = next((each for each in ("files", "batches") if each in owners), None)
        if kind:
            found.add(f"{kind}.{name}")
        elif name in SDK_METHODS:
            found.add(name)
    return found


ROLE_OF = {guid: role for role, guid in json.loads((INFRA / "roles.json").read_text()).items()}

#: What part of the id of whom a role is given to tells who that is; a user's id has none of these.
WHOM = {
    "Microsoft.ManagedIdentity/userAssignedIdentities/": "app",
    "Microsoft.CognitiveServices/accounts/": "service",
    "Microsoft.EventGrid/systemTopics/": "topic",
}


class Grant(NamedTuple):
    """A role, who has it, and where: an id without what is before the provider."""

    whom: str
    role: str
    where: str


def grants(name: str) -> list[Grant]:
    """Return the roles that a set of parameters grants."""
    found = []
    for each in made_of(name, "Microsoft.Authorization/roleAssignments"):
        principal, role = each["properties"]["principalId"], each["properties"]["roleDefinitionId"].rpartition("/")[2]
        whom = next((who for part, who in WHOM.items() if part in principal), "user")
        if each["id"].startswith("["):
            (scope,) = re.findall(r"^\[extensionResourceId\('([^']+)'", each["id"])
            # What the assignment's name is made of must tell it from every other: where, who and which role.
            assert each["name"].startswith(f"[guid('{scope}', ")
            assert each["name"].endswith(f", '{ROLE_OF[role]}')]")
        else:
            scope = each["id"].partition("/providers/Microsoft.Authorization/")[0]
        found.append(Grant(whom, ROLE_OF[role], scope.partition("/resourceGroups/")[2].replace("/providers/", ": ")))
    return found


def granted() -> dict[str, set[str]]:
    """Return the roles that are granted with any set of parameters, by whom they are granted to."""
    found = defaultdict[str, set[str]](set)
    for name in WHOLE:
        for grant in grants(name):
            found[grant.whom].add(grant.role)
    return found


def where_granted(name: str) -> set[Grant]:
    """Return the grants that a set of parameters is to make, each at the least place that serves."""
    storage = f"rg-snapshot: Microsoft.Storage/storageAccounts/{the(name, 'Microsoft.Storage/storageAccounts')['name']}"
    container = f"{storage}/blobServices/default/containers"
    insights = the(name, "Microsoft.Insights/components")["name"]
    accounts = made_of(name, "Microsoft.CognitiveServices/accounts")
    account = f"rg-snapshot: Microsoft.CognitiveServices/accounts/{accounts[0]['name']}" if accounts else THEIRS
    expected = {
        Grant("app", "Storage Blob Data Owner", storage),
        Grant("app", "Storage Queue Data Contributor", storage),
        Grant("app", "Storage Table Data Contributor", storage),
        Grant("app", "Cognitive Services OpenAI Contributor", account),
        Grant("app", "Monitoring Metrics Publisher", f"rg-snapshot: Microsoft.Insights/components/{insights}"),
        Grant("topic", "Storage Blob Data Contributor", f"{container}/{names()['deadLetterContainer']}"),
    }
    if name == "blob-mode":
        expected |= {
            Grant("service", "Storage Blob Data Reader", f"{container}/batch-archive"),
            Grant("service", "Storage Blob Data Contributor", f"{container}/batch-work"),
            Grant("user", "Storage Blob Data Contributor", storage),
        }
    if name == "vault":
        expected.add(Grant("app", "Key Vault Secrets User", "vault-group: Microsoft.KeyVault/vaults/their-vault"))
    return expected


THEIRS = "their-group: Microsoft.CognitiveServices/accounts/their-account"
SOURCES = [path for path in sorted((PROJECT / "batch_fn").rglob("*.py")) if not left_out(path.relative_to(PROJECT))]
USED = {call for path in SOURCES for call in calls_of(path.read_text())}


def test_every_call_of_the_code_is_in_the_table_and_no_other() -> None:
    assert set(CALLS) == USED, f"to be entered or to go: {set(CALLS) ^ USED}"


@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_call_is_covered_by_a_role_of_the_app(call: str) -> None:
    assert any(CALLS[call] in ROLES[role] for role in granted()["app"])


def test_what_the_host_and_the_others_do_is_covered() -> None:
    needs = {"app": HOST_NEEDS | PLAIN_CALLS, **OTHER_NEEDS}
    assert set(granted()) == set(needs)
    for whom, actions in needs.items():
        for action in actions:
            assert any(action in ROLES[role] for role in granted()[whom]), f"{whom}: {action}"


@pytest.mark.parametrize("name", WHOLE)
def test_each_role_is_granted_where_it_is_needed_and_nowhere_else(name: str) -> None:
    found = grants(name)
    assert set(found) == where_granted(name)
    assert len(set(found)) == len(found)


def test_no_role_is_granted_that_none_needs() -> None:
    needs = {
        "app": {*HOST_NEEDS, *PLAIN_CALLS, *CALLS.values()},
        **{whom: set(each) for whom, each in OTHER_NEEDS.items()},
    }
    for whom, roles in granted().items():
        for role in roles:
            assert ROLES[role] & needs[whom], f"{whom} has {role} for nothing"
    assert "Storage Blob Data Contributor" not in granted()["app"], "Owner has all of it already"


def test_every_role_that_is_listed_is_granted() -> None:
    listed = json.loads((INFRA / "roles.json").read_text())
    assert set(listed) == set(ROLES) == set.union(*granted().values())
    assert len(set(listed.values())) == len(listed)


def test_a_call_that_is_new_to_the_code_is_seen() -> None:
    assert calls_of("self._blob(c, n).set_blob_tags({})") == {"set_blob_tags"}
    assert calls_of("self._client.batches.with_raw_response.list()") == {"batches.list"}
