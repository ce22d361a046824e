"""Batches of the Azure OpenAI emulator whose input and results are blobs, in a real Azurite, through the openai SDK."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import openai
import pytest
from azure.storage.blob import BlobClient, BlobServiceClient, ContainerClient
from openai.types import Batch

from devkit.azure_openai.process import AzureOpenAI
from devkit.azurite import Azurite
from tests.devkit.test_azure_openai import TO_CHAT, Client, codes, dated_client, line, tokens, v1_client, wait

pytestmark = pytest.mark.xdist_group("blob_input")


class Blobs(NamedTuple):
    """The user's side of the storage."""

    service: BlobServiceClient
    input: ContainerClient
    output: ContainerClient

    def put(self, content: list[str] | bytes, name: str = "input.jsonl") -> str:
        """Upload an input; returns its URL."""
        data = content if isinstance(content, bytes) else "\n".join(content).encode()
        return str(self.input.upload_blob(name, data, overwrite=True).url)

    def at(self, url: str) -> BlobClient:
        return BlobClient.from_blob_url(url, credential=self.service.credential)

    def rows(self, url: str) -> list[dict[str, Any]]:
        return [json.loads(row) for row in self.at(url).download_blob().readall().splitlines()]

    def ids(self, url: str) -> set[str]:
        """Of the lines in a blob of results; empty if there is no such blob."""
        return {row["custom_id"] for row in self.rows(url)} if self.at(url).exists() else set()


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    with Azurite() as azurite:
        yield azurite


@pytest.fixture(scope="module")
def process(azurite: Azurite) -> Iterator[AzureOpenAI]:
    with AzureOpenAI(speed=2000, storage=azurite.connection_string) as process:
        yield process


@pytest.fixture
def emulator(process: AzureOpenAI) -> AzureOpenAI:
    process.reset()
    return process


@pytest.fixture(scope="module")
def service(azurite: Azurite) -> Iterator[BlobServiceClient]:
    with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        yield service


@pytest.fixture
def blobs(service: BlobServiceClient) -> Blobs:
    own = uuid.uuid4().hex
    return Blobs(service, service.create_container(f"input-{own}"), service.create_container(f"output-{own}"))


@pytest.fixture
def v1(emulator: AzureOpenAI) -> Client:
    return v1_client(emulator.v1_url, emulator.api_key)


@pytest.fixture(params=["v1", "2025-04-01-preview"])
def client(request: pytest.FixtureRequest, emulator: AzureOpenAI) -> Client:
    if request.param == "v1":
        return v1_client(emulator.v1_url, emulator.api_key)
    return dated_client(emulator.url, emulator.api_key, request.param)


def arguments(input_blob: str, folder: str, /, **body: Any) -> dict[str, Any]:
    """What create is called with; `body` replaces members of its JSON."""
    hosted = {"input_file_id": None, "input_blob": input_blob, "output_folder": {"url": folder}}
    # The SDK's type of input_file_id has no None, but what is in extra_body has the last word.
    return TO_CHAT | {"input_file_id": "", "extra_body": hosted | body}


def create(client: Client, blobs: Blobs, content: list[str] | bytes, /, **body: Any) -> Batch:
    return client.batches.create(**arguments(blobs.put(content), blobs.output.url, **body))


def run(client: Client, blobs: Blobs, content: list[str] | bytes, /, **body: Any) -> Batch:
    return wait(client, create(client, blobs, content, **body))


def urls(batch: Batch) -> tuple[str, str]:
    """`output_blob` and `error_blob`."""
    shown = batch.to_dict()
    return str(shown["output_blob"]), str(shown["error_blob"])


# --- life ------------------------------------------------------------------------------------------------------------


def test_whole_life(client: Client, emulator: AzureOpenAI, blobs: Blobs) -> None:
    created = create(client, blobs, [line(n) for n in range(10)])
    shown = created.to_dict()
    assert shown["input_blob"] == f"{blobs.input.url}/input.jsonl"
    assert (shown["input_file_id"], shown["metadata"]) == (None, None)
    assert urls(created) == ("", "")
    batch = wait(client, created)
    assert batch.status == "completed"
    assert [batch.to_dict()[f"{name}_file_id"] for name in ("input", "output", "error")] == [None, None, None]
    output, errors = urls(batch)
    folder = output.removesuffix("/results.jsonl")
    assert errors == f"{folder}/errors.jsonl"
    assert uuid.UUID(folder.removeprefix(f"{blobs.output.url}/"))
    assert blobs.ids(output) == {f"task-{n}" for n in range(10)}
    assert blobs.rows(output)[0]["response"]["status_code"] == 200
    assert [f"{blobs.output.url}/{name}" for name in blobs.output.list_blob_names()] == [output]
    assert [each.to_dict() for each in client.batches.list()] == [batch.to_dict()]
    assert emulator.batches()[0].items() >= {**shown, **batch.to_dict()}.items()
    assert emulator.files() == []


def test_call_as_the_how_to_prints_it(v1: Client, blobs: Blobs) -> None:
    batch = v1.batches.create(
        input_file_id=None,  # type: ignore[arg-type]
        endpoint="/chat/completions",  # type: ignore[arg-type]
        completion_window="24h",
        extra_body={"input_blob": blobs.put([line(1)]), "output_folder": {"url": blobs.output.url}},
    )
    assert blobs.ids(urls(wait(v1, batch))[0]) == {"task-1"}


def test_failed_lines_are_in_the_errors_blob(v1: Client, blobs: Blobs) -> None:
    output, errors = urls(run(v1, blobs, [line(1), line(2, "[[status 429]]")]))
    assert (blobs.ids(output), blobs.ids(errors)) == ({"task-1"}, {"task-2"})


def test_no_results_blob_when_every_line_failed(v1: Client, blobs: Blobs) -> None:
    batch = run(v1, blobs, [line(1, "[[status 400]]")])
    output, errors = urls(batch)
    assert batch.status == "completed"
    assert output.endswith("/results.jsonl")
    assert not blobs.at(output).exists()
    assert blobs.ids(errors) == {"task-1"}


def test_responses_without_version_is_an_endpoint(v1: Client, blobs: Blobs) -> None:
    content = [line(1, url="/responses", body={"model": "global-batch", "input": "hello"})]
    output, _ = urls(run(v1, blobs, content, endpoint="/responses"))
    assert blobs.rows(output)[0]["response"]["body"]["object"] == "response"


def test_more_than_a_chunk_each_way(v1: Client, blobs: Blobs) -> None:
    ids = {f"{n}-{'x' * 50_000}" for n in range(100)}  # which are in the results too
    output, _ = urls(run(v1, blobs, [line(1, custom_id=custom_id) for custom_id in ids]))
    for blob in (blobs.input.get_blob_client("input.jsonl"), blobs.at(output)):
        assert blob.get_blob_properties().size > 4 * 1024 * 1024
    assert blobs.ids(output) == ids


@pytest.mark.parametrize(
    ("folder", "prefix"),
    [
        ("", ""),
        ("/", ""),
        ("/sales", "sales/"),
        ("/sales/2026/", "sales/2026/"),
        ("/a%20b/%C3%BC+%23%3F%26%25/", "a b/ü+#?&%/"),
    ],
)
def test_folders(v1: Client, blobs: Blobs, folder: str, prefix: str) -> None:
    url = blobs.output.url + folder
    batch = wait(v1, v1.batches.create(**arguments(blobs.put([line(1)]), url)))
    output, errors = urls(batch)
    assert output.startswith(f"{url.rstrip('/')}/")
    assert blobs.ids(output) == {"task-1"}
    assert not blobs.at(errors).exists()
    (name,) = blobs.output.list_blob_names()
    assert name.startswith(prefix)
    assert name.count("/") == prefix.count("/") + 1


@pytest.mark.parametrize("name", ["a b/c/ü+#?&%.jsonl", "(100%25)'~$=,@:.jsonl"])
def test_odd_names_of_inputs(v1: Client, blobs: Blobs, name: str) -> None:
    url = blobs.put([line(1)], name)
    batch = wait(v1, v1.batches.create(**arguments(url, blobs.output.url)))
    assert batch.to_dict()["input_blob"] == url
    assert blobs.ids(urls(batch)[0]) == {"task-1"}


# --- other ends ------------------------------------------------------------------------------------------------------


def test_cancelled_batch_has_partial_results(client: Client, blobs: Blobs) -> None:
    batch = create(client, blobs, [line(1), *(line(n, "[[slow 1000000]]") for n in range(2, 5))])
    while not (batch.request_counts and batch.request_counts.completed):
        batch = client.batches.retrieve(batch.id)
    assert client.batches.cancel(batch.id).status == "cancelling"
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = wait(client, batch)
    output, errors = urls(batch)
    assert batch.status == "cancelled"
    assert (blobs.ids(output), blobs.ids(errors)) == ({"task-1"}, set())


def test_batch_cancelled_before_its_time_has_urls_and_no_blobs(v1: Client, emulator: AzureOpenAI, blobs: Blobs) -> None:
    emulator.hold()
    batch = create(v1, blobs, [line(1)])
    v1.batches.cancel(batch.id)
    emulator.release()
    batch = wait(v1, batch)
    assert batch.status == "cancelled"
    assert all(urls(batch))
    assert list(blobs.output.list_blob_names()) == []


def test_cancel_at_any_moment_ends_a_batch_once(v1: Client, emulator: AzureOpenAI, blobs: Blobs) -> None:
    emulator.options(cancelling_seconds=0, in_progress_seconds=20, finalizing_seconds=2, validating_seconds=2)
    for moment in range(8):
        batch = create(v1, blobs, [line(1), line(2)])
        time.sleep(moment * 0.006)
        try:
            v1.batches.cancel(batch.id)
        except openai.BadRequestError:
            assert v1.batches.retrieve(batch.id).status == "completed"
        batch = wait(v1, batch)
        assert sum(bool(ended) for ended in (batch.completed_at, batch.cancelled_at)) == 1
        assert batch.request_counts
        assert len(blobs.ids(urls(batch)[0])) == batch.request_counts.completed


@pytest.mark.parametrize(("directive", "lost"), [("expired", 2), ("failed-late", 0)])
def test_batch_that_ends_halfway_has_partial_results(v1: Client, blobs: Blobs, directive: str, lost: int) -> None:
    batch = run(v1, blobs, [line(1, f"[[batch {directive}]]"), *(line(n) for n in range(2, 5))])
    output, errors = urls(batch)
    assert batch.status == directive.removesuffix("-late")
    assert len(blobs.ids(output)) == 2
    assert len(blobs.ids(errors)) == lost


@pytest.mark.parametrize("status", ["completed", "expired", "failed"])
def test_control_ends_a_held_batch(v1: Client, emulator: AzureOpenAI, blobs: Blobs, status: str) -> None:
    emulator.hold()
    ended = emulator.end_batch(create(v1, blobs, [line(1)]).id, status)
    assert ended["status"] == status
    assert blobs.ids(ended["output_blob"]) == ({"task-1"} if status == "completed" else set())
    assert blobs.ids(ended["error_blob"]) == ({"task-1"} if status == "expired" else set())


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_lines_are_validated(v1: Client, blobs: Blobs) -> None:
    batch = run(v1, blobs, [line(1), line(1)])
    assert (batch.status, codes(batch), urls(batch)) == ("failed", ["duplicate_custom_id"], ("", ""))
    assert codes(run(v1, blobs, b"")) == ["empty_file"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"storage": None}, "input_no_permissions"),
        ({"no_blob_permission": True}, "input_no_permissions"),
        ({"max_blob_bytes": 10}, "invalid_request"),
    ],
)
@pytest.mark.parametrize("limit", [None, 1_000_000])
def test_input_that_cannot_be_had(
    v1: Client, emulator: AzureOpenAI, blobs: Blobs, options: dict[str, Any], code: str, limit: int | None
) -> None:
    emulator.options(token_limit=limit, **options)
    batch = run(v1, blobs, [line(1)])
    assert (batch.status, codes(batch), urls(batch)) == ("failed", [code], ("", ""))
    assert emulator.executions() == []


def test_blobs_of_others_and_missing_ones(v1: Client, blobs: Blobs) -> None:
    ours, folder = blobs.put([line(1)]), blobs.output.url
    for input_blob, output_folder in (
        (ours.replace("127.0.0.1", "elsewhere.blob.core.windows.net"), folder),
        (ours.replace("devstoreaccount1", "another"), folder),
        (ours, folder.replace("devstoreaccount1", "another")),
        (f"{ours}.gone", folder),
        (ours.replace("/input-", "/gone-"), folder),
        (blobs.input.url, folder),
    ):
        batch = wait(v1, v1.batches.create(**arguments(input_blob, output_folder)))
        assert (batch.status, codes(batch)) == ("failed", ["input_no_permissions"])


def test_results_that_cannot_be_written(v1: Client, blobs: Blobs) -> None:
    gone = blobs.output.url.replace("/output-", "/gone-")
    batch = wait(v1, v1.batches.create(**arguments(blobs.put([line(1)]), gone)))
    assert (batch.status, codes(batch)) == ("failed", ["internal_error"])


def test_role_may_come_before_validation(v1: Client, emulator: AzureOpenAI, blobs: Blobs) -> None:
    emulator.options(no_blob_permission=True)
    emulator.hold()
    batch = create(v1, blobs, [line(1)])
    emulator.options(no_blob_permission=False)
    emulator.release()
    assert wait(v1, batch).status == "completed"


@pytest.mark.parametrize("limit", [None, 1_000_000])  # with a limit the input is read by create
@pytest.mark.parametrize("moment", ["validating", "in_progress"])
@pytest.mark.parametrize("how", ["changed", "deleted"])
def test_modified_input(
    v1: Client, emulator: AzureOpenAI, blobs: Blobs, how: str, moment: str, limit: int | None
) -> None:
    emulator.options(token_limit=limit, in_progress_seconds=600)
    if moment == "validating":
        emulator.hold()
    batch = wait(v1, create(v1, blobs, [line(1)]), moment)
    emulator.hold()
    if how == "changed":
        blobs.put([line(1)])  # the same content has another ETag all the same
    else:
        blobs.input.delete_blob("input.jsonl")
    emulator.release()
    batch = wait(v1, batch)
    assert (batch.status, codes(batch)) == ("failed", ["input_modified"])
    assert list(blobs.output.list_blob_names()) == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input_file_id": "file-any"}, "input_file_id"),
        ({"input_blob": None}, "output_folder"),
        ({"input_blob": None, "output_folder": None}, "input_file_id"),
        ({"output_folder": None}, "output_folder"),
        ({"output_folder": "folder"}, None),
        ({"output_folder": {}}, None),
        ({"output_folder": {"url": "folder"}}, "output_folder.url"),
        ({"input_blob": "input.jsonl"}, "input_blob"),
        ({"input_blob": "https://account.blob.core.windows.net/"}, "input_blob"),
        ({"input_blob": "https://account.blob.core.windows.net/c/b?sig=x"}, "input_blob"),
    ],
)
def test_create_refuses(
    v1: Client, emulator: AzureOpenAI, blobs: Blobs, body: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        create(v1, blobs, [line(1)], **body)
    assert (error.value.code, error.value.param) == ("invalid_request", param)
    assert emulator.batches() == []


def test_metadata_is_refused(client: Client, emulator: AzureOpenAI, blobs: Blobs) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.batches.create(**arguments(blobs.put([line(1)]), blobs.output.url), metadata={"job": "a"})
    assert (error.value.code, error.value.param) == ("invalid_request", "metadata")
    assert emulator.batches() == []


# --- quota and quirks ------------------------------------------------------------------------------------------------


def test_quota_refused_at_create(v1: Client, emulator: AzureOpenAI, blobs: Blobs) -> None:
    content = [line(n, "x" * 1000) for n in range(4)]
    limit = tokens(content) + 10
    emulator.options(token_limit=limit)
    emulator.hold()
    hosted = arguments(blobs.put(content), blobs.output.url)
    answer = v1.batches.with_raw_response.create(**hosted)
    assert int(answer.headers["deployment-enqueued-tokens"]) == tokens(content)
    assert int(answer.headers["deployment-maximum-enqueued-tokens"]) == limit
    with pytest.raises(openai.BadRequestError) as error:
        v1.batches.create(**hosted)
    assert error.value.code == "token_limit_exceeded"
    emulator.release()
    assert wait(v1, answer.parse()).status == "completed"
    assert emulator.state()["enqueued_tokens"]["global-batch"] == 0


def test_quota_refused_later(v1: Client, emulator: AzureOpenAI, blobs: Blobs) -> None:
    content = [line(1, "x" * 1000)]
    emulator.options(token_limit=tokens(content) - 1, refuse="later")
    answer = v1.batches.with_raw_response.create(**arguments(blobs.put(content), blobs.output.url))
    assert answer.headers["deployment-maximum-enqueued-tokens"] == str(tokens(content) - 1)
    batch = wait(v1, answer.parse())
    assert (batch.status, codes(batch)) == ("failed", ["token_limit_exceeded"])


def test_blobs_need_no_room_for_files(v1: Client, emulator: AzureOpenAI, blobs: Blobs) -> None:
    emulator.options(max_files=0, max_expiring_files=0, max_file_bytes=0)
    assert run(v1, blobs, [line(1)]).status == "completed"
    assert emulator.files() == []


def test_quirks(v1: Client, emulator: AzureOpenAI, blobs: Blobs) -> None:
    batch = run(v1, blobs, [line(1)])
    emulator.options(quirks="all")
    raw = json.loads(v1.batches.with_raw_response.retrieve(batch.id).text)
    assert (raw["status"], raw["endpoint"]) == ("Completed", None)
    assert [raw[f"{name}_file_id"] for name in ("input", "output", "error")] == ["", "", ""]
    assert (raw["output_blob"], raw["error_blob"]) == urls(batch)
