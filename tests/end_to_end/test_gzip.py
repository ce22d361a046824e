"""A file that is gzip is accepted: its first two bytes decide, not its name and not its Content-Encoding."""

import gzip

import pytest
from azure.storage.blob import ContentSettings

from batch_fn.app import App
from batch_fn.steps.retrying import retry
from tests.end_to_end.bench import Bench, Dropped, wait_for
from tests.end_to_end.stories import answered, error_codes, jsonl, line, lines, rejected

CONTENT = jsonl(*lines(5))


@pytest.mark.parametrize("name", ["monday.jsonl.gz", "monday.jsonl", "monday"])
def test_a_gzip_file_is_accepted_under_any_name(stack: Bench, name: str) -> None:
    content = jsonl(*lines(5))
    dropped = stack.drop(f"gzip/{name}", gzip.compress(content))
    report = answered(dropped, sent=content)
    assert dropped.path == f"gzip/monday/{dropped.job_id}"
    assert report["status"] == "succeeded"
    assert report["outputs"]["archive"] == f"batch-archive/{dropped.path}.jsonl.gz"
    assert stack.user.read(f"batch-archive/{dropped.path}.jsonl") == content


def test_several_members_are_one_file(stack: Bench) -> None:
    first, rest = jsonl(*lines(2)), jsonl(line("last"))
    dropped = stack.drop("gzip/members.jsonl.gz", gzip.compress(first) + gzip.compress(rest))
    assert answered(dropped, sent=first + rest)["counts"]["succeeded"] == 3


@pytest.mark.parametrize("compressed", [True, False])
def test_what_the_header_says_does_not_matter(stack: Bench, *, compressed: bool) -> None:
    name, content = f"gzip/header-{compressed}.jsonl", jsonl(*lines(5))
    content = gzip.compress(content) if compressed else content
    blob = stack.user.blobs.get_blob_client("batch-input", name)
    blob.upload_blob(content, content_settings=ContentSettings(content_encoding="gzip"))
    found = wait_for(lambda: stack.names("batch-reports", f"gzip/header-{compressed}/"), "the report")
    dropped = Dropped(stack, name, content, found[0].removesuffix(".json"))
    report = dropped.wait()
    assert report["counts"] == {"requests": 5, "succeeded": 5, "failed": 0}
    assert report["input"]["bytes"] == len(content)
    archive = stack.user.blobs.get_blob_client(*report["outputs"]["archive"].split("/", 1))
    assert archive.download_blob(decompress=False).readall() == content


def test_a_mixed_deployment_and_metadata_are_as_in_any_file(stack: Bench) -> None:
    content = jsonl(*lines(2, body_model=""))
    dropped = stack.drop("gzip/filled.jsonl.gz", gzip.compress(content), deployment="mine")
    report = dropped.wait()
    assert report["status"] == "succeeded"
    assert report["batches"][0]["deployment"] == "mine"


def test_a_gzip_file_is_retried(stack: Bench) -> None:
    content = jsonl(*lines(2), line("wrong", "[[status 400]]"))
    dropped = stack.drop("gzip/retried.jsonl.gz", gzip.compress(content))
    report = answered(dropped, sent=content)
    assert error_codes(stack, report) == {"wrong": 400}
    retry(App(stack.settings), dropped.job_id)
    again = wait_for(
        lambda: found if (found := stack.user.report(dropped.path)) and found["times"]["retried"] else None, "a retry"
    )
    assert again is not None
    assert again["outputs"]["archive"] == f"batch-archive/{dropped.path}.jsonl.gz"
    assert again["counts"] == report["counts"]


@pytest.mark.parametrize(
    ("what", "content", "message"),
    [
        ("truncated", gzip.compress(CONTENT)[:-9], "truncated"),
        ("damaged", gzip.compress(CONTENT)[:-8] + bytes(8), "damaged"),
        ("followed", gzip.compress(CONTENT) + b"more", "damaged"),
        ("large", gzip.compress(jsonl(line("a", "x" * 90_000)) * 120), "MAX_DROP_BYTES"),
    ],
    ids=["truncated", "damaged", "followed", "large"],
)
def test_what_cannot_be_unpacked_is_rejected_and_kept(stack: Bench, what: str, content: bytes, message: str) -> None:
    dropped = stack.drop(f"gzip/{what}.jsonl.gz", content)
    report = rejected(dropped)
    [finding] = report["findings"]
    assert finding["code"] == "invalid_gzip"
    assert message in finding["message"]
    assert report["outputs"]["archive"] == f"batch-archive/{dropped.path}.jsonl.gz"


def test_findings_are_about_the_lines_inside(stack: Bench) -> None:
    dropped = stack.drop("gzip/bad.jsonl.gz", gzip.compress(CONTENT + b"nonsense\n"))
    assert [finding["line"] for finding in rejected(dropped)["findings"]] == [6]


def test_nothing_inside_is_an_empty_file(stack: Bench) -> None:
    [finding] = rejected(stack.drop("gzip/empty.jsonl.gz", gzip.compress(b"")))["findings"]
    assert finding["code"] == "empty_file"
