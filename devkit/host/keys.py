"""The host's keys, kept where the real host keeps them: in `azure-webjobs-secrets/{hostId}/host.json`."""

import secrets
from dataclasses import dataclass

from azure.storage.blob.aio import BlobServiceClient

from devkit.host.configuration import HostOptions
from devkit.host.messages import Json
from devkit.host.storage import create_container, read_json, write_json

CONTAINER = "azure-webjobs-secrets"


@dataclass(frozen=True)
class Keys:
    """`function` opens functions, `blobs_extension` the Event Grid webhook, `master` everything."""

    function: str
    master: str
    blobs_extension: str

    def open_function(self, key: str) -> bool:
        """Return whether a key opens functions of level "function"."""
        return matches(key, self.function) or self.open_admin(key)

    def open_webhook(self, key: str) -> bool:
        """Return whether a key opens the blob extension's webhook."""
        return matches(key, self.blobs_extension) or self.open_admin(key)

    def open_admin(self, key: str) -> bool:
        """Return whether a key opens the admin routes, and functions of level "admin"."""
        return matches(key, self.master)


def matches(key: str, expected: str) -> bool:
    """Return whether a key is the expected one, in a time that does not depend on how alike they are."""
    return secrets.compare_digest(key.encode(), expected.encode())


async def load_keys(service: BlobServiceClient, host_id: str, options: HostOptions) -> Keys:
    """Return the keys: the options', else the stored ones, else new ones; and store them."""
    await create_container(service, CONTAINER)
    blob = service.get_blob_client(CONTAINER, f"{host_id}/host.json")
    stored = await read_json(blob) or {}
    keys = Keys(
        function=options.function_key or _first(stored.get("functionKeys")),
        master=options.master_key or _first([stored.get("masterKey")]),
        blobs_extension=options.blobs_extension_key or _first(stored.get("systemKeys")),
    )
    document = {
        "masterKey": _entry("master", keys.master),
        "functionKeys": [_entry("default", keys.function)],
        "systemKeys": [_entry("blobs_extension", keys.blobs_extension)],
    }
    if document != stored:
        await write_json(blob, document)
    return keys


def _first(entries: list[Json | None] | None) -> str:
    """Return the value of the first stored key, a new one if there is none."""
    value: str = entries[0]["value"] if entries and entries[0] else secrets.token_urlsafe(32)
    return value


def _entry(name: str, value: str) -> Json:
    return {"name": name, "value": value, "encrypted": False}
