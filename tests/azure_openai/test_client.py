"""The service's quirks made plain, and its refusals told apart, against the emulator and payloads."""

import contextlib
import functools
import io
import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from batch_fn.azure_openai import client, listing
from batch_fn.azure_openai.client import DOWNLOAD_TRIES, OpenAIBatches
from batch_fn.azure_openai.wire import read_batch
from batch_fn.core.batches import (
    CreateOutcomeUnknownError,
    Enqueued,
    EnvironmentServiceError,
    FileQuotaError,
    NotFoundError,
    PermanentServiceError,
    ServiceBatch,
    ServiceError,
    TokenLimitError,
    TransientServiceError,
)
from batch_fn.core.jobs import Part
from batch_fn.settings import DAY, Settings
from devkit.azure_openai.options import Quirk
from devkit.azure_openai.process import AzureOpenAI
from tests.conftest import JOB_ID, PAYLOADS, a_part

VERSIONS = ["v1", "2024-10-21", "2025-04-01-preview"]
REQUEST = {
    "custom_id": "a",
    "method": "POST",
    "url": "/chat/completions",
    "body": {"model": "batch-small", "messages": [{"role": "user", "content": "Hello"}]},
}
CONTENT = json.dumps(REQUEST).encode() + b"\n"
CREATE, UPLOAD = "/batches$", "/files$"


@functools.cache  # making a client takes longer than most of the tests
def connected(url: str, key: str, version: str = "v1", expiry: int = 14 * DAY) -> OpenAIBatches:
    return OpenAIBatches.connect(
        Settings(openai_endpoint=url, openai_api_key=key, openai_api_version=version, file_expiry_seconds=expiry)
    )


@pytest.fixture
def batches(service: AzureOpenAI) -> OpenAIBatches:
    return connected(service.url, service.api_key)


@pytest.fixture(params=VERSIONS)
def any_version(request: pytest.FixtureRequest, service: AzureOpenAI) -> OpenAIBatches:
    return connected(service.url, service.api_key, request.param)


@pytest.fixture
def nobody() -> OpenAIBatches:
    """An endpoint where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    return OpenAIBatches.connect(Settings(openai_endpoint=url, openai_api_key="key"))


def uploaded(batches: OpenAIBatches, **changes: object) -> Part:
    """A part whose file is at the service."""
    part = a_part(**changes)
    return a_part(file_id=batches.upload(part.file_name, io.BytesIO(CONTENT)), **changes)


def posted(service: AzureOpenAI, route: str) -> int:
    """How many requests came that post to that route, in any version."""
    return sum(count for name, count in service.requests().items() if name in {f"POST /openai{route}", V1 + route})


V1 = "POST /openai/v1"


def listed(service: AzureOpenAI) -> int:
    """How many pages of batches were asked for."""
    return service.requests().get("GET /openai/v1/batches", 0)


# Upload


def test_an_uploaded_file_is_there_under_its_name_and_comes_down_as_it_went_up(
    any_version: OpenAIBatches, service: AzureOpenAI, tmp_path: Path
) -> None:
    file_id = any_version.upload("größer 東京.jsonl", io.BytesIO(CONTENT))
    assert list(any_version.files()) == [(file_id, "größer 東京.jsonl")]
    any_version.download(file_id, tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == CONTENT
    assert posted(service, "/files") == 1


@pytest.mark.parametrize(
    ("version", "expiry", "kept"),
    [
        ("v1", 14 * DAY, 14 * DAY),
        ("v1", 30 * DAY, 30 * DAY),
        ("v1", 0, None),
        ("2025-04-01-preview", 14 * DAY, 14 * DAY),
        ("2024-10-21", 14 * DAY, None),
    ],
)
def test_a_file_is_uploaded_with_its_expiry_where_the_version_knows_it(
    service: AzureOpenAI, version: str, expiry: int, kept: int | None
) -> None:
    connected(service.url, service.api_key, version, expiry).upload("a.jsonl", io.BytesIO(CONTENT))
    (file,) = service.files()
    assert (file["expires_at"] - file["created_at"] if "expires_at" in file else None) == kept


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ({"kind": "status", "status": 401}, TransientServiceError, "HTTP 401"),
        ({"kind": "status", "status": 403}, TransientServiceError, "HTTP 403"),
        ({"kind": "status", "status": 404}, TransientServiceError, "HTTP 404"),
        ({"kind": "status", "status": 413}, PermanentServiceError, "413"),
        ({"kind": "status", "status": 429}, TransientServiceError, "HTTP 429"),
        ({"kind": "status", "status": 500}, TransientServiceError, "HTTP 500"),
        ({"kind": "status", "status": 503}, TransientServiceError, "HTTP 503"),
        ({"kind": "drop_before"}, TransientServiceError, "no answer"),
        ({"kind": "drop_after"}, TransientServiceError, "no answer"),
    ],
    ids=lambda value: str(value.get("status", value["kind"])) if isinstance(value, dict) else "",
)
def test_an_upload_that_goes_wrong_is_sent_once_and_told_by_what_may_be_done_next(
    any_version: OpenAIBatches, service: AzureOpenAI, fault: dict[str, Any], error: type[Exception], says: str
) -> None:
    service.fault(**fault, method="POST", path=UPLOAD)
    with pytest.raises(error, match=says):
        any_version.upload("a.jsonl", io.BytesIO(CONTENT))
    assert posted(service, "/files") == 1


def test_an_upload_over_the_file_quota_is_told_apart(batches: OpenAIBatches, service: AzureOpenAI) -> None:
    service.options(max_expiring_files=0)
    with pytest.raises(FileQuotaError, match="The quota for files with expiry is reached"):
        batches.upload("a.jsonl", io.BytesIO(CONTENT))


def test_an_upload_to_nobody_may_be_tried_later(nobody: OpenAIBatches) -> None:
    with pytest.raises(TransientServiceError) as caught:
        nobody.upload("a.jsonl", io.BytesIO(CONTENT))
    assert not caught.value.outcome_unknown


def test_a_wrong_key_or_version_is_trouble_that_somebody_can_mend(service: AzureOpenAI) -> None:
    for key, version in (("wrong", "2024-10-21"), (service.api_key, "2023-05-15")):
        with pytest.raises(TransientServiceError):
            connected(service.url, key, version).upload("a.jsonl", io.BytesIO(CONTENT))


# Create


def test_a_part_becomes_a_batch_that_is_marked_as_its_own(any_version: OpenAIBatches, service: AzureOpenAI) -> None:
    part = uploaded(any_version)
    batch, _ = any_version.create(part)
    (made,) = service.batches()
    assert (made["id"], made["input_file_id"], made["endpoint"]) == (batch.id, part.file_id, part.url)
    assert made["metadata"] == batch.metadata == {"job": JOB_ID, "part": "1", "attempt": "1"}
    assert made["completion_window"] == "24h"
    assert batch.status == "validating"
    assert batch.created_at is not None
    assert abs(batch.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert posted(service, "/batches") == 1


def test_a_create_tells_the_deployment_s_enqueued_tokens_and_their_limit(
    any_version: OpenAIBatches, service: AzureOpenAI
) -> None:
    service.options(token_limit=1_000)
    service.hold()
    tokens = len(json.dumps(REQUEST["body"])) // 4
    told = [any_version.create(uploaded(any_version))[1] for _ in range(2)]
    assert told == [Enqueued(tokens, 1_000), Enqueued(2 * tokens, 1_000)]


@pytest.mark.parametrize(
    ("headers", "enqueued"),
    [
        ({}, Enqueued(None, None)),
        ({"deployment-enqueued-tokens": "0"}, Enqueued(0, None)),
        ({"deployment-maximum-enqueued-tokens": "5000000000"}, Enqueued(None, 5_000_000_000)),
        ({"deployment-enqueued-tokens": "many", "deployment-maximum-enqueued-tokens": ""}, Enqueued(None, None)),
    ],
)
def test_what_the_headers_do_not_tell_is_none(
    batches: OpenAIBatches, service: AzureOpenAI, headers: dict[str, str], enqueued: Enqueued
) -> None:
    body = json.loads((PAYLOADS / "batch_created.json").read_bytes())
    service.fault("status", status=200, body=body, headers=headers, method="POST", path=CREATE)
    batch, told = batches.create(a_part(file_id="file-1"))
    assert batch == read_batch(body)
    assert told == enqueued


def refusal(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "Because."}}


@pytest.mark.parametrize(
    ("fault", "error", "retry_after"),
    [
        ({"status": 400, "body": refusal("token_limit_exceeded")}, TokenLimitError, None),
        ({"status": 429, "body": refusal("token_limit_exceeded")}, TokenLimitError, None),
        ({"status": 400, "body": refusal("invalid_request")}, PermanentServiceError, None),
        ({"status": 400, "body": refusal("model_not_found")}, PermanentServiceError, None),
        ({"status": 400, "body": ["no object"]}, PermanentServiceError, None),
        ({"status": 422}, PermanentServiceError, None),
        ({"status": 404}, EnvironmentServiceError, None),
        ({"status": 404, "body": refusal("DeploymentNotFound")}, PermanentServiceError, None),
        ({"status": 405}, EnvironmentServiceError, None),
        ({"status": 401}, EnvironmentServiceError, None),
        ({"status": 403}, EnvironmentServiceError, None),
        ({"status": 409}, TransientServiceError, None),
        ({"status": 429}, TransientServiceError, None),
        ({"status": 429, "headers": {"Retry-After": "7"}}, TransientServiceError, 7.0),
        ({"status": 429, "headers": {"Retry-After": "1.5"}}, TransientServiceError, 1.5),
        ({"status": 429, "headers": {"Retry-After": "Sun, 22 Nov 2026 12:00:00 GMT"}}, TransientServiceError, None),
        ({"status": 408}, CreateOutcomeUnknownError, None),
        ({"status": 500}, CreateOutcomeUnknownError, None),
        ({"status": 502, "body": "<html>"}, CreateOutcomeUnknownError, None),
        ({"status": 503, "headers": {"Retry-After": "7"}}, CreateOutcomeUnknownError, None),
        ({"kind": "drop_before"}, CreateOutcomeUnknownError, None),
        ({"kind": "drop_after"}, CreateOutcomeUnknownError, None),
    ],
)
def test_a_create_that_goes_wrong_is_sent_once_and_told_by_what_may_be_done_next(
    any_version: OpenAIBatches,
    service: AzureOpenAI,
    fault: dict[str, Any],
    error: type[Exception],
    retry_after: float | None,
) -> None:
    part = uploaded(any_version)
    service.fault(**{"kind": "status", **fault}, method="POST", path=CREATE)
    with pytest.raises(Exception) as caught:
        any_version.create(part)
    assert type(caught.value) is error
    assert getattr(caught.value, "retry_after", None) == retry_after
    assert posted(service, "/batches") == 1


def test_a_refusal_says_the_service_s_code_and_message(batches: OpenAIBatches, service: AzureOpenAI) -> None:
    part = uploaded(batches)
    service.fault("status", status=400, body=refusal("invalid_request"), method="POST", path=CREATE)
    with pytest.raises(PermanentServiceError, match="invalid_request: Because") as caught:
        batches.create(part)
    assert caught.value.error == ServiceError("invalid_request", "Because.")


def test_a_create_over_the_token_limit_makes_no_batch(any_version: OpenAIBatches, service: AzureOpenAI) -> None:
    service.options(token_limit=1)
    with pytest.raises(TokenLimitError, match="the limit is 1"):
        any_version.create(uploaded(any_version))
    assert service.batches() == []


def test_a_create_to_nobody_made_no_batch(nobody: OpenAIBatches) -> None:
    with pytest.raises(TransientServiceError) as caught:
        nobody.create(a_part(file_id="file-1"))
    assert not caught.value.outcome_unknown


def test_a_create_whose_answer_does_not_come_in_time_may_have_made_a_batch(
    batches: OpenAIBatches, service: AzureOpenAI
) -> None:
    part = uploaded(batches)
    service.fault("delay", seconds=3, method="POST", path=CREATE)
    hasty = OpenAIBatches.connect(
        Settings(openai_endpoint=service.url, openai_api_key=service.api_key, settle_seconds=2)
    )
    with pytest.raises(CreateOutcomeUnknownError):
        hasty.create(part)
    assert posted(service, "/batches") == 1


# Finding a batch again

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def found(batches: OpenAIBatches, part: Part, since: datetime = LONG_AGO) -> str | None:
    """The id of the batch that is found for a part."""
    batch = batches.find_batch(part, since)
    return batch.id if batch else None


def test_a_lost_create_s_batch_is_found_again(any_version: OpenAIBatches, service: AzureOpenAI) -> None:
    part = uploaded(any_version)
    service.fault("drop_after", method="POST", path=CREATE, times=1)
    with pytest.raises(CreateOutcomeUnknownError):
        any_version.create(part)
    (made,) = service.batches()
    assert found(any_version, part) == made["id"]


def test_a_batch_is_found_by_its_metadata_even_where_the_file_is_not_known(batches: OpenAIBatches) -> None:
    batch, _ = batches.create(uploaded(batches))
    batches.create(uploaded(batches, attempt=2))
    batches.create(uploaded(batches, number=2))
    assert found(batches, a_part()) == batch.id


def test_a_batch_is_found_by_its_file_even_where_its_metadata_was_lost(batches: OpenAIBatches) -> None:
    other = uploaded(batches, attempt=2)
    batch, _ = batches.create(other)
    assert found(batches, a_part(file_id=other.file_id)) == batch.id


def test_a_batch_is_found_whatever_the_clocks_say(batches: OpenAIBatches) -> None:
    batch, _ = batches.create(uploaded(batches))
    assert found(batches, a_part(), datetime.now(UTC) + timedelta(days=1)) == batch.id


def test_a_batch_that_was_refused_for_quota_is_not_found_again(batches: OpenAIBatches) -> None:
    part = uploaded(batches)
    refused, _ = batches.create(part)
    assert found(batches, a_part(file_id=part.file_id, refused=(refused.id,))) is None
    again, _ = batches.create(part)
    assert found(batches, a_part(file_id=part.file_id, refused=(refused.id,))) == again.id


def test_a_part_without_a_file_does_not_take_somebody_else_s_batch(batches: OpenAIBatches) -> None:
    batches.create(uploaded(batches, number=2))
    assert found(batches, a_part(file_id="")) is None


def test_batches_are_listed_newest_first_over_many_pages(
    any_version: OpenAIBatches, service: AzureOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    assert list(any_version.pages()) == [[]]
    part = uploaded(any_version)
    made = [any_version.create(part)[0].id for _ in range(5)]
    newest_first = made[::-1]
    assert [[batch.id for batch in page] for page in any_version.pages()] == [
        newest_first[:2],
        newest_first[2:4],
        newest_first[4:],
    ]


def test_a_page_has_a_hundred_batches_and_is_one_call_when_it_is_asked_for(
    batches: OpenAIBatches, service: AzureOpenAI
) -> None:
    part = uploaded(batches)
    made = [batches.create(part)[0].id for _ in range(101)]
    before = listed(service)
    pages = batches.pages()
    assert [batch.id for batch in next(pages)] == made[:0:-1]
    assert listed(service) == before + 1
    assert [[batch.id for batch in page] for page in pages] == [made[:1]]
    assert listed(service) == before + 2


# What a batch is


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (
            "batch_created",
            ServiceBatch(
                id="batch_6caaf24d-54a5-46be-b1b7-518884fcbdde",
                status="validating",
                input_file_id="file-9f3a81d899b4442f98b640e4bc3535dd",
                created_at=at("2024-08-01T01:43:03"),
            ),
        ),
        (
            "batch_completed",
            ServiceBatch(
                id="batch_6caaf24d-54a5-46be-b1b7-518884fcbdde",
                status="completed",
                input_file_id="file-9f3a81d899b4442f98b640e4bc3535dd",
                output_file_id="file-3304e310-3b39-4e34-9f1c-e1c1504b2b2a",
                error_file_id="file-c795ae52-3ba7-417d-86ec-07eebca57d0b",
                completed=3,
                created_at=at("2024-08-01T01:43:03"),
                finished_at=at("2024-08-01T01:57:09"),
            ),
        ),
        (
            "batch_listed",
            ServiceBatch(
                id="batch_4ddc7b60-19a9-419b-8b93-b9a3274b33b5",
                status="completed",
                input_file_id="file-f89384af0082485da43cb26b49dc25ce",
                output_file_id="file-62bebde8-e767-4cd3-a0a1-28b214dc8974",
                error_file_id="file-472c0626-4561-4327-9e4e-f41afbfb30e6",
                completed=2,
                failed=1,
                created_at=at("2024-10-15T16:52:08"),
                finished_at=at("2024-10-15T17:04:56"),
            ),
        ),
        (
            "batch_created_rest",
            ServiceBatch(
                id="batch_fe3f047a-de39-4068-9008-346795bfc1db",
                status="validating",
                input_file_id="file-21006e70789246658b86a1fc205899a4",
                created_at=at("2024-07-19T17:13:57.249138"),
            ),
        ),
        (
            "batch_tracked_rest",
            ServiceBatch(
                id="batch_e0a7ee28-82c4-46a2-a3a0-c13b3c4e390b",
                status="validating",
                input_file_id="file-c55ec4e859d54738a313d767718a2ac5",
                created_at=at("2024-07-19T17:33:29.161928"),
            ),
        ),
        (
            "batch_failed",
            ServiceBatch(
                id="batch_80f5ad38-e05b-49bf-b2d6-a799db8466da",
                status="failed",
                input_file_id="file-c2d9a7881c8a466285e6f76f6321a681",
                output_file_id="file-ef12af98-dbbc-4d27-8309-2df57feed572",
                error_file_id="file-3b0f9beb-11ce-4796-bc31-d54e675f28fb",
                errors=(
                    ServiceError(
                        "empty_file",
                        "The input file is empty. Please ensure that the batch contains at least one   request.",
                    ),
                ),
                created_at=at("2024-09-04T03:09:54"),
                finished_at=at("2024-09-04T03:19:15"),
            ),
        ),
        (
            "batch_failed_null_errors",
            ServiceBatch(
                id="batch_6caaf24d-54a5-46be-b1b7-518884fcbdde",
                status="failed",
                input_file_id="file-9f3a81d899b4442f98b640e4bc3535dd",
                created_at=at("2024-08-01T01:43:03"),
                finished_at=at("2024-08-01T01:43:20"),
            ),
        ),
        (
            "batch_failed_string_lines",
            ServiceBatch(
                id="batch_379f1007-8057-4f43-be38-73f3d233c5da",
                status="failed",
                input_file_id="file-9f3a81d899b4442f98b640e4bc3535dd",
                errors=(
                    ServiceError("url_mismatch", "The URL does not match.", line=3),
                    ServiceError("token_limit_exceeded", "Too many enqueued tokens."),
                    ServiceError("unknown", ""),
                ),
                created_at=at("2025-10-30T09:46:02"),
                finished_at=at("2025-10-30T09:51:17.450"),
            ),
        ),
        (
            "batch_canceled",
            ServiceBatch(
                id="batch_1e1e7b9f-d4b4-41fa-bd2e-8d2ec50fb8cc",
                status="cancelled",
                input_file_id="file-9f3a81d899b4442f98b640e4bc3535dd",
                output_file_id="file-3304e310-3b39-4e34-9f1c-e1c1504b2b2a",
                completed=2,
                metadata={"job": "20250411T200000Z-0123456789", "part": "1", "attempt": "2"},
                created_at=at("2025-04-11T20:07:28"),
                finished_at=at("2025-04-11T20:19:00.765432"),
            ),
        ),
    ],
)
def test_a_payload_is_read_as_a_batch(payload: str, expected: ServiceBatch) -> None:
    body = json.loads((PAYLOADS / f"{payload}.json").read_bytes())
    counts = body.get("request_counts") or {}
    only_shown = {
        "endpoint": body.get("endpoint") or "",
        "total": counts["total"] if counts.get("completed") is not None else 0,
    }
    assert read_batch(body) == msgspec.structs.replace(expected, **only_shown)


def test_every_payload_of_a_batch_has_its_row_in_the_table() -> None:
    (table,) = test_a_payload_is_read_as_a_batch.pytestmark  # type: ignore[attr-defined]
    assert {f"{payload}.json" for payload, _ in table.args[1]} == {path.name for path in PAYLOADS.glob("batch_*.json")}


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("validating", "validating"),
        ("Validating", "validating"),
        ("InProgress", "in_progress"),
        ("In_progress", "in_progress"),
        ("Completed", "completed"),
        ("canceled", "cancelled"),
        ("Canceling", "cancelling"),
        ("CANCELLED", "cancelled"),
        ("Paused", "paused"),
        (None, ""),
    ],
)
def test_a_status_is_told_in_the_documented_words(given: str | None, status: str) -> None:
    assert read_batch({"id": "batch_1", "created_at": 0, "status": given}).status == status


def test_of_very_many_errors_the_first_are_kept_and_long_messages_are_cut() -> None:
    data = [{"code": "invalid_json_line", "message": "x" * 10_000, "line": line} for line in range(1, 1_000)]
    errors = read_batch({"id": "batch_1", "created_at": 0, "errors": {"data": data}}).errors
    assert [error.line for error in errors] == list(range(1, 21))
    assert {len(error.message) for error in errors} == {500}


@pytest.mark.parametrize("quirk", get_args(Quirk.__value__))
def test_a_quirk_makes_no_difference_to_a_batch(any_version: OpenAIBatches, service: AzureOpenAI, quirk: str) -> None:
    part = uploaded(any_version)
    service.hold()
    batch, _ = any_version.create(part)
    service.options(quirks=[quirk])
    shown = any_version.retrieve(batch.id)
    assert shown.created_at is not None
    assert shown.created_at.replace(microsecond=0) == batch.created_at
    told_apart = {"created_at", "endpoint"} if quirk == "null_endpoint" else {"created_at"}
    plain = {name: getattr(shown, name) for name in ServiceBatch.__struct_fields__ if name not in told_apart}
    assert plain == {name: getattr(batch, name) for name in plain}


# The rest of what is asked of the service


def test_a_batch_is_followed_to_its_end_and_one_that_is_not_known_is_not_found(
    any_version: OpenAIBatches, service: AzureOpenAI
) -> None:
    batch, _ = any_version.create(uploaded(any_version))
    service.end_batch(batch.id, "completed")
    ended = any_version.retrieve(batch.id)
    assert (ended.status, ended.completed, ended.failed) == ("completed", 1, 0)
    assert ended.output_file_id
    with pytest.raises(NotFoundError):
        any_version.retrieve("batch_unknown")


def test_a_batch_is_cancelled_and_one_that_has_ended_or_is_gone_stays_as_it_is(
    any_version: OpenAIBatches, service: AzureOpenAI
) -> None:
    service.hold()
    part = uploaded(any_version)
    running, ended = any_version.create(part)[0], any_version.create(part)[0]
    service.end_batch(ended.id, "completed")
    for batch_id in (running.id, ended.id, "batch_unknown"):
        any_version.cancel(batch_id)
    assert [batch["status"] for batch in service.batches()] == ["completed", "cancelling"]


def test_a_file_is_found_by_its_name_and_deleted_once_for_all(any_version: OpenAIBatches) -> None:
    part = uploaded(any_version)
    other = uploaded(any_version, number=2)
    assert any_version.find_files(part.file_name) == [part.file_id]
    assert any_version.has_file(part.file_id)
    for _ in range(2):
        any_version.delete_file(part.file_id)
    assert not any_version.has_file(part.file_id)
    assert list(any_version.files()) == [(other.file_id, other.file_name)]


@pytest.mark.parametrize("ask", ["retrieve", "has_file", "delete_file", "cancel"])
def test_trouble_is_never_taken_for_an_answer(batches: OpenAIBatches, service: AzureOpenAI, ask: str) -> None:
    service.fault("status", status=503, headers={"retry-after-ms": "1"})
    with pytest.raises(TransientServiceError):
        getattr(batches, ask)("some-id")


# Download


class Breaking(BaseHTTPRequestHandler):
    """Sends a file's content; the connection breaks in the middle as many times as `breaks` says."""

    breaks = 0
    asked = 0
    content = bytes(range(256)) * 20_000

    def do_GET(self) -> None:
        kind = type(self)
        kind.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        broken = kind.asked <= kind.breaks
        with contextlib.suppress(OSError):
            self.wfile.write(self.content[: len(self.content) // 2] if broken else self.content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def breaking() -> Iterator[type[Breaking]]:
    kind = type("BreakingNow", (Breaking,), {"breaks": 0, "asked": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        kind.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield kind
        server.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """After which try there was a pause, which takes no time here."""
    pauses: list[int] = []
    monkeypatch.setattr(client, "_pause", lambda _trouble, tries: pauses.append(tries))
    return pauses


@pytest.mark.parametrize("breaks", range(DOWNLOAD_TRIES))
def test_a_download_that_breaks_in_the_middle_starts_again(
    breaking: Any, pauses: list[int], tmp_path: Path, breaks: int
) -> None:
    breaking.breaks = breaks
    OpenAIBatches.connect(Settings(openai_endpoint=breaking.url, openai_api_key="key")).download(
        "file-1", tmp_path / "down"
    )
    assert (tmp_path / "down").read_bytes() == Breaking.content
    assert breaking.asked == breaks + 1
    assert pauses == list(range(1, breaks + 1))


def test_a_download_that_breaks_every_time_is_trouble(breaking: Any, pauses: list[int], tmp_path: Path) -> None:
    breaking.breaks = 99
    batches = OpenAIBatches.connect(Settings(openai_endpoint=breaking.url, openai_api_key="key"))
    with pytest.raises(TransientServiceError, match="broke"):
        batches.download("file-1", tmp_path / "down")
    assert breaking.asked == DOWNLOAD_TRIES


def test_a_file_that_is_gone_is_not_asked_for_again(
    any_version: OpenAIBatches, service: AzureOpenAI, pauses: list[int], tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError):
        any_version.download("file-unknown", tmp_path / "down")
    assert pauses == []


def test_a_busy_service_is_asked_again_for_a_file(
    batches: OpenAIBatches, service: AzureOpenAI, pauses: list[int], tmp_path: Path
) -> None:
    part = uploaded(batches)
    service.fault("status", status=503, headers={"retry-after-ms": "1"}, path="/content$", times=3)
    batches.download(part.file_id, tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == CONTENT
    assert pauses == [1, 2, 3]
