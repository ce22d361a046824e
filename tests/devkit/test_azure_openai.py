"""The Azure OpenAI emulator, as the openai SDK sees it on the v1 and on the dated routes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
import requests
from openai import OpenAI
from openai.types import Batch, FileObject

from devkit.azure_openai.process import AzureOpenAI

type Client = OpenAI | openai.AzureOpenAI

TERMINAL = {"completed", "failed", "expired", "cancelled"}
TO_CHAT: dict[str, Any] = {"endpoint": "/chat/completions", "completion_window": "24h"}
DAYS_14, DAYS_30 = 1_209_600, 2_592_000


@pytest.fixture(scope="module")
def process() -> Iterator[AzureOpenAI]:
    with AzureOpenAI(speed=2000) as process:
        yield process


@pytest.fixture
def emulator(process: AzureOpenAI) -> AzureOpenAI:
    process.reset()
    return process


@pytest.fixture
def v1(emulator: AzureOpenAI) -> OpenAI:
    return v1_client(emulator.v1_url, emulator.api_key)


@pytest.fixture
def dated(emulator: AzureOpenAI) -> openai.AzureOpenAI:
    return dated_client(emulator.url, emulator.api_key, "2024-10-21")


@pytest.fixture(params=["v1", "2024-10-21", "2025-04-01-preview"])
def client(request: pytest.FixtureRequest, emulator: AzureOpenAI) -> Client:
    if request.param == "v1":
        return v1_client(emulator.v1_url, emulator.api_key)
    return dated_client(emulator.url, emulator.api_key, request.param)


@cache  # making a client takes longer than most of the tests
def v1_client(base_url: str, api_key: str) -> OpenAI:
    return OpenAI(base_url=base_url, api_key=api_key, max_retries=0)


@cache
def dated_client(url: str, api_key: str, version: str) -> openai.AzureOpenAI:
    return openai.AzureOpenAI(azure_endpoint=url, api_key=api_key, api_version=version, max_retries=0)


def line(number: int, text: str = "hello", **changes: Any) -> str:
    """One line of an input file; `changes` replace its members, or with a name like `body_model` those of its body."""
    body = {"model": "global-batch", "messages": [{"role": "user", "content": text}]}
    body |= {name.removeprefix("body_"): value for name, value in changes.items() if name.startswith("body_")}
    members = {"custom_id": f"task-{number}", "method": "POST", "url": "/chat/completions", "body": body}
    return json.dumps(members | {name: value for name, value in changes.items() if not name.startswith("body_")})


def upload(client: Client, content: list[str] | bytes, **more: Any) -> FileObject:
    data = content if isinstance(content, bytes) else "\n".join(content).encode()
    return client.files.create(file=("test.jsonl", data), purpose="batch", **more)


def create(client: Client, content: list[str] | bytes, **changes: Any) -> Batch:
    return client.batches.create(input_file_id=upload(client, content).id, **(TO_CHAT | changes))


def wait(client: Client, batch: Batch, *statuses: str) -> Batch:
    """The batch as soon as it has one of the statuses, or has ended."""
    until = time.monotonic() + 10
    while (batch := client.batches.retrieve(batch.id)).status not in {*statuses, *TERMINAL}:
        assert time.monotonic() < until, batch
        time.sleep(0.01)
    return batch


def run(client: Client, content: list[str] | bytes, **changes: Any) -> Batch:
    """A batch of that input that has ended."""
    return wait(client, create(client, content, **changes))


def rows(client: Client, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(row) for row in client.files.content(file_id).text.splitlines()] if file_id else []


def ids(client: Client, file_id: str | None) -> set[str]:
    return {row["custom_id"] for row in rows(client, file_id)}


def codes(batch: Batch) -> list[str | None]:
    assert batch.errors
    return [error.code for error in batch.errors.data or []]


# --- files -----------------------------------------------------------------------------------------------------------


def test_file_from_upload_to_delete(client: Client) -> None:
    content = line(1).encode()
    file = upload(client, content)
    assert (file.bytes, file.filename, file.purpose) == (len(content), "test.jsonl", "batch")
    assert client.files.retrieve(file.id).id == file.id
    assert client.files.content(file.id).content == content
    assert [each.id for each in client.files.list(purpose="batch").data] == [file.id]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_file_is_pending_until_it_is_processed(v1: OpenAI) -> None:
    file = upload(v1, [line(1)])
    assert str(file.status) == "pending"
    time.sleep(0.02)
    assert v1.files.retrieve(file.id).status == "processed"


def test_list_of_files_has_pages(v1: OpenAI) -> None:
    files = [upload(v1, [line(n)]).id for n in range(3)]
    first = v1.files.list(limit=2)
    assert ([file.id for file in first.data], first.has_more) == (files[:0:-1], True)
    assert [file.id for file in v1.files.list(limit=1)] == files[::-1]
    assert [file.id for file in v1.files.list(order="asc")] == files


def test_purpose_and_size_are_checked(v1: OpenAI, emulator: AzureOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="purpose"):
        v1.files.create(file=b"{}", purpose="assistants")
    emulator.options(max_file_bytes=1_000_000)
    with pytest.raises(openai.APIStatusError) as error:
        upload(v1, b"x" * 1_000_001)
    assert error.value.status_code == 413
    assert emulator.files() == []


@pytest.mark.parametrize(("seconds", "taken"), [(DAYS_14 - 1, False), (DAYS_14, True), (DAYS_30 + 1, False)])
def test_expiry_has_a_range(v1: OpenAI, seconds: int, taken: bool) -> None:
    expiry = {"seconds": seconds, "anchor": "created_at"}
    if taken:
        file = upload(v1, [line(1)], expires_after=expiry)
        assert file.expires_at == file.created_at + seconds
    else:
        with pytest.raises(openai.BadRequestError, match="1209600"):
            upload(v1, [line(1)], expires_after=expiry)


def test_old_versions_ignore_expiry(dated: openai.AzureOpenAI, emulator: AzureOpenAI) -> None:
    assert upload(dated, [line(1)], expires_after={"seconds": 1, "anchor": "created_at"}).expires_at is None
    newer = dated_client(emulator.url, emulator.api_key, "2025-03-01-preview")
    assert upload(newer, [line(1)], expires_after={"seconds": DAYS_14, "anchor": "created_at"}).expires_at


def test_expired_files_vanish_but_not_below_a_running_batch(v1: OpenAI, emulator: AzureOpenAI) -> None:
    kept = upload(v1, [line(1)])
    gone = upload(v1, [line(1)], expires_after={"seconds": DAYS_14, "anchor": "created_at"})
    batch = v1.batches.create(input_file_id=gone.id, **TO_CHAT)
    emulator.options(speed=DAYS_14 * 100)
    time.sleep(0.05)
    assert gone.id not in [file.id for file in v1.files.list()]
    assert v1.files.retrieve(kept.id)
    assert wait(v1, batch).status == "completed"


def test_file_quota(v1: OpenAI, emulator: AzureOpenAI) -> None:
    emulator.options(max_files=2, max_expiring_files=1)
    expiry = {"seconds": DAYS_14, "anchor": "created_at"}
    first = run(v1, [line(1)])  # its output files do not count
    upload(v1, [line(2)])
    with pytest.raises(openai.BadRequestError) as error:
        upload(v1, [line(3)])
    assert error.value.code == "quotaExceeded"
    assert "The quota for files without expiry is reached. The maximum is 2." in error.value.message
    upload(v1, [line(4)], expires_after=expiry)
    with pytest.raises(openai.BadRequestError, match="with expiry"):
        upload(v1, [line(5)], expires_after=expiry)
    v1.files.delete(first.input_file_id)
    assert upload(v1, [line(3)])


# --- access and versions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"api-key": "wrong"}, 401),
        ({"api-key": "emulator-key"}, 200),
        ({"Authorization": "Bearer emulator-key"}, 200),
        ({"Authorization": "Bearer any-token"}, 200),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Bearer expired"}, 401),
        ({"Authorization": "Basic any"}, 401),
    ],
)
def test_access(emulator: AzureOpenAI, headers: dict[str, str], status: int) -> None:
    response = requests.get(f"{emulator.v1_url}batches", headers=headers, timeout=5)
    assert response.status_code == status
    assert {"apim-request-id", "x-request-id", "x-ms-region"} <= {name.lower() for name in response.headers}
    if status == 401:
        assert response.json()["error"]["code"] == "401"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/openai/batches", 404),
        ("/openai/batches?api-version=2023-05-15", 404),
        ("/openai/batches?api-version=latest", 400),
        ("/openai/batches?api-version=2024-10-21", 200),
        ("/openai/v1/batches?api-version=preview", 200),
        ("/openai/v1/nothing", 404),
        ("/openai/v1/batches?limit=101", 400),
        ("/openai/v1/batches?limit=0", 400),
        ("/openai/v1/batches?after=batch_unknown", 400),
        ("/openai/v1/batches/batch_unknown", 404),
    ],
)
def test_versions_and_paths(emulator: AzureOpenAI, path: str, status: int) -> None:
    response = requests.get(emulator.url + path, headers={"api-key": emulator.api_key}, timeout=5)
    assert response.status_code == status
    assert ("error" in response.json()) == (status != 200)


# --- the life of a batch ---------------------------------------------------------------------------------------------


def test_batch_goes_through_its_statuses(client: Client, emulator: AzureOpenAI) -> None:
    emulator.options(seconds_per_line=20, speed=1000)
    before = int(time.time())
    batch = create(client, [line(n) for n in range(20)], metadata={"job": "a"})
    seen, counts = [batch.status], []
    while batch.status not in TERMINAL:
        batch = client.batches.retrieve(batch.id)
        seen.append(batch.status)
        assert batch.request_counts
        counts.append(batch.request_counts.completed)
    assert list(dict.fromkeys(seen)) == ["validating", "in_progress", "finalizing", "completed"]
    assert counts == sorted(counts)
    assert len(set(counts)) > 5
    assert batch.metadata == {"job": "a"}
    assert batch.created_at >= before
    assert batch.expires_at == batch.created_at + 24 * 3600
    assert batch.in_progress_at
    assert batch.finalizing_at
    assert batch.completed_at
    assert before <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at <= time.time()
    order = [row["custom_id"] for row in rows(client, batch.output_file_id)]
    assert sorted(order) == sorted(f"task-{n}" for n in range(20))
    assert order != [f"task-{n}" for n in range(20)]
    assert client.files.content(batch.error_file_id or "").content == b""


def test_responses_endpoint(v1: OpenAI) -> None:
    body = {"model": "global-batch", "input": "hello"}
    batch = run(v1, [line(1, url="/v1/responses", body=body)], endpoint="/v1/responses")
    (row,) = rows(v1, batch.output_file_id)
    usage = row["response"]["body"]["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert row["response"]["body"]["output"][0]["content"][0]["type"] == "output_text"


def test_same_line_is_answered_the_same(v1: OpenAI) -> None:
    one, two = (rows(v1, run(v1, [line(1, "same")]).output_file_id)[0]["response"]["body"] for _ in range(2))
    assert one["choices"] == two["choices"]


def test_structured_output_is_json(v1: OpenAI) -> None:
    batch = run(v1, [line(1, body_response_format={"type": "json_object"})])
    (row,) = rows(v1, batch.output_file_id)
    assert json.loads(row["response"]["body"]["choices"][0]["message"]["content"])


def test_failed_lines_are_in_the_error_file(v1: OpenAI) -> None:
    batch = run(v1, [line(1), line(2, "[[status 429]]")])
    assert ids(v1, batch.output_file_id) == {"task-1"}
    (row,) = rows(v1, batch.error_file_id)
    assert row["id"]
    assert row["error"] is None
    assert (row["response"]["status_code"], row["response"]["body"]["error"]["code"]) == (429, "429")
    assert batch.request_counts
    assert batch.request_counts.to_dict() == {"completed": 1, "failed": 1, "total": 2}


def test_no_output_file_when_every_line_failed(v1: OpenAI) -> None:
    batch = run(v1, [line(1, "[[status 400]]")])
    assert (batch.status, batch.output_file_id) == ("completed", None)


def test_output_files_may_expire(v1: OpenAI) -> None:
    batch = run(v1, [line(1)], output_expires_after={"seconds": DAYS_14, "anchor": "created_at"})
    file = v1.files.retrieve(batch.output_file_id or "")
    assert file.expires_at == file.created_at + DAYS_14
    assert file.purpose == "batch_output"


def test_input_file_may_be_deleted_while_the_batch_runs(v1: OpenAI, emulator: AzureOpenAI) -> None:
    emulator.hold()
    batch = create(v1, [line(1)])
    v1.files.delete(batch.input_file_id)
    emulator.release()
    assert wait(v1, batch).status == "completed"


def test_cancelled_batch_has_partial_results(v1: OpenAI, emulator: AzureOpenAI) -> None:
    content = [line(1), *(line(n, "[[slow 1000000]]") for n in range(2, 5))]
    for where, lost in (("nowhere", set[str]()), ("error_file", {"task-2", "task-3", "task-4"})):
        emulator.options(unfinished_when_cancelled=where)
        batch = create(v1, content)
        while not (batch.request_counts and batch.request_counts.completed):
            batch = v1.batches.retrieve(batch.id)
        assert v1.batches.cancel(batch.id).status == "cancelling"
        assert v1.batches.cancel(batch.id).status == "cancelling"
        batch = wait(v1, batch)
        assert batch.status == "cancelled"
        assert batch.cancelled_at
        assert ids(v1, batch.output_file_id) == {"task-1"}
        assert ids(v1, batch.error_file_id) == lost
        assert {row["error"]["code"] for row in rows(v1, batch.error_file_id)} == (
            {"batch_cancelled"} if lost else set()
        )
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        v1.batches.cancel(batch.id)


def test_cancel_at_any_moment_ends_a_batch_once(v1: OpenAI, emulator: AzureOpenAI) -> None:
    emulator.options(cancelling_seconds=0)
    content = [line(n) for n in range(3)]
    for moment in range(20):
        batch = create(v1, content)
        time.sleep(moment * 0.003)
        with contextlib.suppress(openai.BadRequestError):
            v1.batches.cancel(batch.id)
        batch = wait(v1, batch)
        assert sum(bool(ended) for ended in (batch.completed_at, batch.cancelled_at)) == 1
        assert batch.request_counts
        assert len(ids(v1, batch.output_file_id)) == batch.request_counts.completed


def test_hold_stops_every_batch(v1: OpenAI, emulator: AzureOpenAI) -> None:
    emulator.options(validating_seconds=0)
    emulator.hold()
    batch = create(v1, [line(1)])
    time.sleep(0.1)
    assert v1.batches.retrieve(batch.id).status == "validating"
    emulator.release()
    assert wait(v1, batch).status == "completed"


def test_speed_changes_take_effect_at_once(v1: OpenAI, emulator: AzureOpenAI) -> None:
    emulator.options(speed=0.001)
    batch = create(v1, [line(1)])
    emulator.options(speed=5000)
    assert wait(v1, batch).status == "completed"


@pytest.mark.parametrize("status", ["expired", "cancelled", "failed", "completed"])
def test_control_ends_a_held_batch(v1: OpenAI, emulator: AzureOpenAI, status: str) -> None:
    emulator.hold()
    batch = create(v1, [line(1), line(2)])
    emulator.end_batch(batch.id, status, code="some_code")
    batch = v1.batches.retrieve(batch.id)
    assert batch.status == status
    assert ids(v1, batch.output_file_id) == ({"task-1", "task-2"} if status == "completed" else set())
    assert ids(v1, batch.error_file_id) == ({"task-1", "task-2"} if status == "expired" else set())
    assert (codes(batch) if status == "failed" else batch.errors) == (["some_code"] if status == "failed" else None)


# --- what is wrong with a batch --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code", "line_number"),
    [
        (["{", line(2)], "invalid_json_line", 1),
        ([line(1), "plain"], "invalid_json_line", 2),
        (b'{"custom_id": "\xff"}', "invalid_json_line", 1),
        ([], "empty_file", None),
        (["", " ", ""], "empty_file", None),
        ([line(1), line(2, url="/v1/chat/completions")], "url_mismatch", 2),
        ([line(1, url="/v1/responses")], "url_mismatch", 1),
        ([line(1), line(1)], "duplicate_custom_id", 2),
        ([line(1), line(2, body_model="other")], "model_mismatch", 2),
        ([line(1), line(2), line(3), line(4)], "too_many_tasks", None),
        ([line(1, method="GET")], "invalid_request", 1),
        ([line(1, custom_id=7)], "invalid_request", 1),
        ([line(1, body_model=None)], "invalid_request", 1),
        ([line(1, body_stream=True)], "invalid_request", 1),
        ([line(1, body_data_sources=[])], "invalid_request", 1),
        (["[]"], "invalid_request", 1),
        ([line(1, body_model="unknown")], "model_not_found", None),
    ],
)
def test_validation(
    v1: OpenAI, emulator: AzureOpenAI, content: list[str] | bytes, code: str, line_number: int | None
) -> None:
    emulator.options(max_lines=3, deployments=["global-batch"])
    batch = run(v1, content)
    assert batch.status == "failed"
    assert batch.failed_at
    assert batch.errors
    assert batch.errors.data
    error = batch.errors.data[0]
    assert (error.code, error.line) == (code, line_number)
    assert error.message
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert emulator.executions() == []


def test_byte_order_mark(v1: OpenAI) -> None:
    batch = run(v1, b"\xef\xbb\xbf" + line(1).encode())
    assert batch.errors
    assert batch.errors.data
    assert "A valid model deployment name couldn't be extracted" in (batch.errors.data[0].message or "")


def test_every_finding_is_listed_with_its_line(v1: OpenAI) -> None:
    batch = run(v1, [line(1), "", "{", line(1), line(4, body_model="other")])
    assert batch.errors
    found = [(error.code, error.line) for error in batch.errors.data or []]
    assert found == [("invalid_json_line", 3), ("duplicate_custom_id", 4), ("model_mismatch", 5)]


def test_other_windows_fail(v1: OpenAI) -> None:
    batch = run(v1, [line(1)], completion_window="48h")
    assert batch.status == "failed"
    assert codes(batch) == ["invalid_request"]


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": "/v1/embeddings"},
        {"metadata": {str(n): "" for n in range(17)}},
        {"metadata": {"k" * 65: ""}},
        {"metadata": {"k": "v" * 513}},
        {"input_file_id": "file-unknown"},
        {"output_expires_after": {"seconds": 1, "anchor": "created_at"}},
        {"extra_body": {"input_blob": "https://somewhere"}},
    ],
)
def test_create_refuses(v1: OpenAI, emulator: AzureOpenAI, changes: dict[str, Any]) -> None:
    arguments = TO_CHAT | {"input_file_id": upload(v1, [line(1)]).id}
    with pytest.raises(openai.BadRequestError):
        v1.batches.create(**(arguments | changes))
    assert emulator.batches() == []


def test_output_of_a_batch_is_no_input(v1: OpenAI) -> None:
    batch = run(v1, [line(1)])
    with pytest.raises(openai.BadRequestError, match="purpose"):
        v1.batches.create(input_file_id=batch.output_file_id or "", **TO_CHAT)


# --- token quota -----------------------------------------------------------------------------------------------------


def tokens(content: list[str]) -> int:
    return sum(len(json.dumps(json.loads(each)["body"])) for each in content) // 4


def test_quota_refused_at_create(v1: OpenAI, emulator: AzureOpenAI) -> None:
    content = [line(n, "x" * 1000) for n in range(4)]
    limit = tokens(content) + 10
    emulator.options(token_limits={"global-batch": limit})
    emulator.hold()
    file = upload(v1, content)
    answer = v1.batches.with_raw_response.create(input_file_id=file.id, **TO_CHAT)
    assert int(answer.headers["deployment-enqueued-tokens"]) == tokens(content)
    assert int(answer.headers["deployment-maximum-enqueued-tokens"]) == limit
    with pytest.raises(openai.BadRequestError) as error:
        create(v1, content)
    assert error.value.code == "token_limit_exceeded"
    assert create(v1, [line(1, body_model="other")])  # another deployment has room of its own
    emulator.release()
    assert wait(v1, answer.parse()).status == "completed"
    assert emulator.state()["enqueued_tokens"]["global-batch"] == 0
    assert run(v1, content).status == "completed"


def test_quota_refused_later(v1: OpenAI, emulator: AzureOpenAI) -> None:
    content = [line(1, "x" * 1000)]
    emulator.options(token_limit=tokens(content), refuse="later", quota_headers=False, in_progress_seconds=1000)
    first = wait(v1, create(v1, content), "in_progress")
    second = run(v1, content)
    assert (second.status, codes(second)) == ("failed", ["token_limit_exceeded"])
    emulator.end_batch(first.id, "cancelled")
    assert wait(v1, create(v1, content), "in_progress").status == "in_progress"


def test_no_quota_headers_without_limit(v1: OpenAI, emulator: AzureOpenAI) -> None:
    for options in ({}, {"token_limit": 1000, "quota_headers": False}):
        emulator.options(**options)
        file = upload(v1, [line(1)])
        answer = v1.batches.with_raw_response.create(input_file_id=file.id, **TO_CHAT)
        assert "deployment-enqueued-tokens" not in answer.headers


# --- directives ------------------------------------------------------------------------------------------------------


def test_line_directives_take_turns(v1: OpenAI, emulator: AzureOpenAI) -> None:
    content = [line(1, "[[status 500 x2]] [[missing x1]]"), line(2)]
    found = []
    for _ in range(4):
        batch = run(v1, content)
        found.append(("task-1" in ids(v1, batch.output_file_id), "task-1" in ids(v1, batch.error_file_id)))
    assert found == [(False, True), (False, True), (False, False), (True, False)]
    counts = {row["custom_id"]: (row["count"], row["succeeded"]) for row in emulator.executions()}
    assert counts == {"task-1": (3, 1), "task-2": (4, 4)}


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_batch_directives_end_a_batch_halfway(v1: OpenAI, status: str) -> None:
    content = [line(1, f"[[batch {status} x1]]"), *(line(n) for n in range(2, 11))]
    batch = run(v1, content)
    assert batch.status == status
    done, lost = ids(v1, batch.output_file_id), ids(v1, batch.error_file_id)
    assert len(done) == 5
    assert not done & lost
    assert len(lost) == (5 if status == "expired" else 0)
    for row in rows(v1, batch.error_file_id):
        assert row["response"] is None
        assert row["error"]["code"] == "batch_expired"
    assert run(v1, content).status == "completed"


def test_failed_directives(v1: OpenAI) -> None:
    batch = run(v1, [line(1, "[[batch failed token_limit_exceeded x1]]")])
    assert (batch.status, codes(batch), batch.output_file_id) == ("failed", ["token_limit_exceeded"], None)
    assert run(v1, [line(1, "[[batch failed token_limit_exceeded x1]]")]).status == "completed"
    late = run(v1, [line(1, "[[batch failed-late]]"), line(2)])
    assert (late.status, codes(late)) == ("failed", ["internal_error"])
    assert len(ids(v1, late.output_file_id)) == 1


# --- lists -----------------------------------------------------------------------------------------------------------


def test_list_is_newest_first_and_has_pages(client: Client, emulator: AzureOpenAI) -> None:
    emulator.hold()
    file = upload(client, [line(1)])
    batches = [client.batches.create(input_file_id=file.id, **TO_CHAT).id for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == batches[::-1]
    page = client.batches.list(limit=2, after=batches[3])
    assert ([batch.id for batch in page.data], page.has_more) == ([batches[2], batches[1]], True)
    assert page.to_dict()["last_id"] == batches[1]


def test_filter_and_order(v1: OpenAI, emulator: AzureOpenAI) -> None:
    done = run(v1, [line(1)])
    emulator.hold()
    held = create(v1, [line(1)])

    def listed(expression: str, version: str = "2024-10-01-preview", **query: str) -> Any:
        response = requests.get(
            f"{emulator.url}/openai/batches",
            params={"api-version": version, "$filter": expression, **query},
            headers={"api-key": emulator.api_key},
            timeout=5,
        )
        return [row["id"] for row in response.json()["data"]] if response.ok else response.status_code

    recent = f"created_at gt {done.created_at - 10}"
    assert listed(recent) == [held.id, done.id]
    assert listed(recent, **{"$orderby": "created_at asc"}) == [done.id, held.id]
    assert listed(f"{recent} and status eq 'Completed'") == [done.id]
    assert listed(f"created_at lt {done.created_at}") == []
    assert listed("status eq 'completed'", version="2024-10-21") == [held.id, done.id]  # no preview: not looked at
    assert listed("nonsense") == 400
    assert listed(recent, **{"$orderby": "status"}) == 400


def test_list_may_lag_behind(v1: OpenAI, emulator: AzureOpenAI) -> None:
    emulator.options(list_delay=0.3)
    batch = create(v1, [line(1)])
    assert list(v1.batches.list()) == []
    assert v1.batches.retrieve(batch.id)
    time.sleep(0.3)
    assert [each.id for each in v1.batches.list()] == [batch.id]


# --- quirks ----------------------------------------------------------------------------------------------------------


def test_quirks_of_a_failed_batch(v1: OpenAI, emulator: AzureOpenAI) -> None:
    batch = run(v1, [line(1), line(1)])
    emulator.options(quirks=["string_lines", "empty_ids", "null_counts"])
    raw = json.loads(v1.batches.with_raw_response.retrieve(batch.id).text)
    assert raw["errors"]["data"][0]["line"] == "2"
    assert (raw["output_file_id"], raw["error_file_id"]) == ("", "")
    assert raw["request_counts"] == {"total": None, "completed": None, "failed": None}
    emulator.options(quirks="all")
    raw = json.loads(v1.batches.with_raw_response.retrieve(batch.id).text)
    assert (raw["errors"], raw["status"], raw["endpoint"]) == (None, "Failed", None)


def test_quirk_of_a_missing_error_file(v1: OpenAI, emulator: AzureOpenAI) -> None:
    emulator.options(quirks=["missing_error_file"])
    batch = run(v1, [line(1)])
    assert batch.output_file_id
    assert batch.error_file_id is None


def test_unknown_options_are_refused(emulator: AzureOpenAI) -> None:
    for changes in ({"quirks": ["none such"]}, {"none_such": 1}, {"speed": 0}):
        response = requests.patch(f"{emulator.url}/control/options", json=changes, timeout=5)
        assert response.status_code == 400


# --- faults ----------------------------------------------------------------------------------------------------------


def test_status_fault(v1: OpenAI, emulator: AzureOpenAI) -> None:
    emulator.fault("status", method="GET", path="/batches$", status=429, headers={"Retry-After": "7"}, times=1, after=1)
    v1.batches.list()
    with pytest.raises(openai.RateLimitError) as error:
        v1.batches.list()
    assert error.value.response.headers["Retry-After"] == "7"
    v1.batches.list()
    assert emulator.requests() == {"GET /openai/v1/batches": 3}


@pytest.mark.parametrize(("kind", "created"), [("drop_before", 0), ("drop_after", 1)])
def test_dropped_connections(v1: OpenAI, emulator: AzureOpenAI, kind: str, created: int) -> None:
    file = upload(v1, [line(1)])
    emulator.fault(kind, method="POST", path="/batches$")
    with pytest.raises(openai.APIConnectionError):
        v1.batches.create(input_file_id=file.id, **TO_CHAT)
    assert len(emulator.batches()) == created
    emulator.clear_faults()
    v1.batches.create(input_file_id=file.id, **TO_CHAT)


def test_delay_fault(v1: OpenAI, emulator: AzureOpenAI) -> None:
    emulator.fault("delay", path="/files", seconds=0.2, times=1)
    started = time.monotonic()
    v1.files.list()
    assert time.monotonic() - started >= 0.2


def test_faults_of_some_probability(v1: OpenAI, emulator: AzureOpenAI) -> None:
    emulator.fault("status", status=500, probability=0.5)
    failed = 0
    for _ in range(20):
        try:
            v1.batches.list()
        except openai.InternalServerError:
            failed += 1
    assert 0 < failed < 20


# --- the process -----------------------------------------------------------------------------------------------------


def test_lines_are_forwarded(emulator: AzureOpenAI, v1: OpenAI, endpoint: str) -> None:
    emulator.options(forward=endpoint, forward_concurrency=2)
    batch = run(v1, [line(1), line(2, "please fail"), line(3)])
    assert {row["response"]["body"]["echo"] for row in rows(v1, batch.output_file_id)} == {"/base/chat/completions"}
    assert [row["response"]["status_code"] for row in rows(v1, batch.error_file_id)] == [422]
    emulator.options(forward="http://127.0.0.1:1")
    batch = run(v1, [line(1)])
    assert [row["response"]["status_code"] for row in rows(v1, batch.error_file_id)] == [502]


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The URL of an OpenAI-compatible endpoint that tells its path, and fails where the body asks for it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(422 if b"please fail" in asked else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"echo": self.path}).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/base"
    server.shutdown()
    thread.join()
    server.server_close()


def test_reset_leaves_nothing(v1: OpenAI, emulator: AzureOpenAI) -> None:
    run(v1, [line(1)])
    emulator.hold()
    create(v1, [line(1)])
    emulator.options(speed=1, quirks="all")
    emulator.reset()
    state = emulator.state()
    assert (state["batches"], state["files"], state["held"]) == ([], [], False)
    assert (state["options"]["speed"], state["options"]["quirks"]) == (2000, [])
    assert (emulator.executions(), emulator.requests()) == ([], {})


def test_program_prints_one_line_and_ends_on_a_signal() -> None:
    command = [sys.executable, "-m", "devkit.azure_openai", "--api-key", "k", "--speed", "9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout
        told = json.loads(program.stdout.readline())
        assert told["api_key"] == "k"
        assert requests.get(f"{told['url']}/control/state", timeout=5).json()["options"]["speed"] == 9
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=5) == 0
        assert program.stdout.read() == ""


def test_program_ends_with_its_parent() -> None:
    script = (
        "import subprocess, sys, time\n"
        "command = [sys.executable, '-m', 'devkit.azure_openai', '--with-parent']\n"
        "child = subprocess.Popen(command, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 5
    while time.monotonic() < until and runs(child):
        time.sleep(0.05)
    assert not runs(child)


def runs(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    # Nobody may be there to collect an orphan's exit code: a zombie has ended too.
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process_id)], capture_output=True, text=True, check=False)
    return bool(state.stdout.strip()) and not state.stdout.strip().startswith("Z")
