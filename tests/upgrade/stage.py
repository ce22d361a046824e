"""A stage: all that storage and the service hold at one moment of a job, as one JSON file that can be put back.

Rows are in the wire format of the Table service, so that each column keeps its type. Messages and blobs are text.
"""

import base64
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from azure.data.tables import EdmType, EntityProperty, TableClient, TableServiceClient, UpdateMode
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient
from openai import OpenAI

from batch_fn.settings import Settings
from devkit.azure_openai.process import AzureOpenAI

FOLDER = Path(__file__).parents[1] / "payloads" / "upgrade"

type Stage = dict[str, Any]

_TYPE = "@odata.type"
_JOB_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{10}")


def read_stage(name: str, folder: Path = FOLDER) -> Stage:
    """Return a stage that was captured."""
    stage: Stage = json.loads((folder / f"{name}.json").read_text())
    return stage


def write_stage(stage: Stage, name: str, folder: Path) -> None:
    """Write a stage to its file."""
    (folder / f"{name}.json").write_text(json.dumps(stage, indent=1, ensure_ascii=False) + "\n")


def take_snapshot(connection_string: str, settings: Settings, service: AzureOpenAI) -> Stage:
    """Return everything that storage and service hold now, except the inbox: a restored blob has another ETag."""
    tables = TableServiceClient.from_connection_string(connection_string)
    queues = QueueServiceClient.from_connection_string(connection_string)
    blobs = BlobServiceClient.from_connection_string(connection_string)
    return {
        "tables": {name: raw_rows(tables.get_table_client(name)) for name in settings.tables},
        "queues": {name: _messages(queues, name) for name in settings.queues},
        "blobs": {
            place: content
            for container in settings.containers
            if container != settings.input_container
            for place, content in _blobs(blobs, container)
        },
        "service": {"files": [*_files(service)], "batches": [*_batches(service)]},
    }


def raw_rows(table: TableClient) -> list[dict[str, Any]]:
    """Return a table's rows in the wire format."""
    return [_wire(dict(entity)) for entity in table.list_entities()]


def put_rows(table: TableClient, rows: list[dict[str, Any]]) -> None:
    """Write rows that are in the wire format."""
    for row in rows:
        table.upsert_entity(_entity(row), UpdateMode.REPLACE)


def restore(stage: Stage, connection_string: str, service: AzureOpenAI) -> Stage:
    """Put a stage back. Return it as it was put: the service gives its files and batches new ids.

    What rows and messages refer to is in place before the app can see them.
    """
    text = json.dumps(stage)
    for old, new in _restore_service(stage["service"], service):
        text = text.replace(old, new)
    stage = json.loads(text)
    blobs = BlobServiceClient.from_connection_string(connection_string)
    for place, blob in stage["blobs"].items():
        container, _, name = place.partition("/")
        blobs.get_blob_client(container, name).upload_blob(blob["content"].encode(), metadata=blob["metadata"])
    tables = TableServiceClient.from_connection_string(connection_string)
    for table, rows in stage["tables"].items():
        for row in rows:
            if row.get("endpoint"):  # the resource that a part was sent to
                row["endpoint"] = service.url
        put_rows(tables.get_table_client(table), rows)
    queues = QueueServiceClient.from_connection_string(connection_string)
    for queue, bodies in stage["queues"].items():
        for body in bodies:
            queues.get_queue_client(queue).send_message(base64.b64encode(body.encode()).decode())
    return stage


def outline(stage: Stage) -> set[str]:
    """Return the contract of a stage, a sentence for each fact: keys, columns, types, states, messages, paths, report.

    Whatever differs from run to run (ids, times, numbers, texts) is left out.
    """
    facts = set[str]()
    for table, rows in stage["tables"].items():
        for row in rows:
            key = f"{table} {_plain(row['PartitionKey'])} {_plain(row['RowKey'])}"
            if "state" in row:
                key += f" {row['state']}"
            facts |= {f"{key}: {name} {kind}" for name, kind in _columns(row)}
    for queue, bodies in stage["queues"].items():
        facts |= {f"{queue}: {_plain(body)}" for body in bodies}
    for place, blob in stage["blobs"].items():
        facts.add(f"{_plain(place)}: {sorted(blob['metadata'])}")
        if place.endswith(".json"):
            facts |= {f"report: {name} {kind}" for name, kind in _shape(json.loads(blob["content"]))}
    return facts


def lost(before: Any, after: Any) -> list[str]:
    """Return what of a value in the wire format is not in another one. New columns and members are no loss."""
    if isinstance(before, dict) and isinstance(after, dict):
        missing = [f"{name} is gone" for name in before.keys() - after.keys()]
        return missing + [
            f"{name}: {what}" for name in before.keys() & after.keys() for what in lost(before[name], after[name])
        ]
    if _is_json(before) and _is_json(after):
        return lost(json.loads(before), json.loads(after))
    return [] if before == after else [f"{before!r} became {after!r}"]


def _wire(entity: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in sorted(entity.items()):
        if isinstance(value, EntityProperty):
            row |= {name: str(value.value), name + _TYPE: "Edm.Int64"}
            assert value.edm_type is EdmType.INT64, name
        elif isinstance(value, datetime):
            row |= {name: value.isoformat(), name + _TYPE: "Edm.DateTime"}
        else:
            row[name] = value
    return row


def _entity(row: dict[str, Any]) -> dict[str, Any]:
    entity: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith(_TYPE):
            continue
        match row.get(name + _TYPE):
            case "Edm.Int64":
                entity[name] = EntityProperty(int(value), EdmType.INT64)
            case "Edm.DateTime":
                entity[name] = datetime.fromisoformat(value)
            case _:
                entity[name] = value
    return entity


def _messages(queues: QueueServiceClient, name: str) -> list[str]:
    queue = queues.get_queue_client(name)
    return [base64.b64decode(message.content).decode() for message in queue.peek_messages(max_messages=32)]


def _blobs(blobs: BlobServiceClient, container: str) -> Iterator[tuple[str, dict[str, Any]]]:
    client = blobs.get_container_client(container)
    for blob in client.list_blobs(include=["metadata"]):
        content = client.download_blob(blob.name).readall().decode()
        yield f"{container}/{blob.name}", {"metadata": blob.metadata or {}, "content": content}


def _files(service: AzureOpenAI) -> Iterator[dict[str, Any]]:
    for file in reversed(service.files()):
        if file["purpose"] == "batch":
            request = Request(f"{service.v1_url}files/{file['id']}/content", headers={"api-key": service.api_key})
            with urlopen(request, timeout=60) as answer:
                yield {"id": file["id"], "filename": file["filename"], "content": answer.read().decode()}


def _batches(service: AzureOpenAI) -> Iterator[dict[str, Any]]:
    names = ("id", "input_file_id", "output_file_id", "error_file_id", "endpoint", "status", "metadata")
    for batch in reversed(service.batches()):
        yield {name: batch[name] for name in names}


def _restore_service(given: dict[str, Any], service: AzureOpenAI) -> Iterator[tuple[str, str]]:
    """Upload the files and create the batches anew. Yield each old id with its new one."""
    client = OpenAI(base_url=service.v1_url, api_key=service.api_key)
    ids = dict[str, str]()
    for file in given["files"]:
        content = (file["filename"], file["content"].encode(), "application/jsonl")
        ids[file["id"]] = client.files.create(file=content, purpose="batch").id
    for batch in given["batches"]:
        if batch["input_file_id"] not in ids:
            continue  # its job is finished, and deleted its files
        new = client.batches.create(
            input_file_id=ids[batch["input_file_id"]],
            endpoint=batch["endpoint"],
            completion_window="24h",
            metadata=batch["metadata"],
        )
        ids[batch["id"]] = new.id
        if batch["status"] == "completed":
            ended = service.end_batch(new.id, "completed")
            ids |= {batch[name]: ended[name] for name in ("output_file_id", "error_file_id") if batch[name]}
    yield from ids.items()


def _plain(text: str) -> str:
    """Return a key, a path or a message without what differs from run to run."""
    text = re.sub(rf"^\d{{11}}-{_JOB_ID.pattern}$", "<seconds, counted down>-<job id>", text)
    text = re.sub(r"^\d{6}$", "<first six digits of these>", text)
    text = re.sub(r"(?<=/)[0-9a-f]{10}(?=/)", "<token>", text)
    text = re.sub(r"(?<=\.)[0-9a-f]{8}(?=\.)", "<token>", text)
    return _JOB_ID.sub("<job id>", text)


def _columns(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in row.items():
        if name.endswith(_TYPE):
            continue
        if _is_json(value):
            yield from ((f"{name} as JSON, {inner}", kind) for inner, kind in _shape(json.loads(value)))
        else:
            yield name, row.get(name + _TYPE, type(value).__name__)


def _shape(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the type of each value in a JSON document."""
    if isinstance(value, dict) and value:
        for member, inner in value.items():
            yield from _shape(inner, f"{name}.{member}".lstrip("."))
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _shape(inner, f"{name}[]")
    else:
        yield name, type(value).__name__


def _is_json(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("{", "["))
