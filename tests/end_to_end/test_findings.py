"""A file with anything wrong is rejected whole, and the report says what to change, line by line."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from tests.end_to_end.bench import Bench, Dropped
from tests.end_to_end.stories import ABSENT, jsonl, line, lines, rejected


class Wrong(NamedTuple):
    """A line, and what must be found in it: code, a word of the message, custom_id."""

    raw: bytes
    code: str
    word: str
    custom_id: str | None = None


DEEP: Any = None
for _ in range(120):
    DEEP = [DEEP]

WRONG = [
    Wrong(b'{"custom_id": "cut", "method"', "invalid_json_line", "cut off"),
    Wrong(b'{"custom_id": "\xff"}', "invalid_json_line", "UTF-8"),
    Wrong(b'["an", "array"]', "invalid_json_line", "array"),
    Wrong(line("nan", body_temperature=float("nan")), "invalid_json_line", "NaN"),
    Wrong(b"{} {}", "invalid_json_line", "one JSON object per line"),
    Wrong(line("twice").replace(b'"method"', b'"method": "POST", "method"'), "invalid_json_line", "method", "twice"),
    Wrong(line("deep", body_tools=DEEP), "invalid_json_line", "nested"),
    Wrong(line("long", "x" * 100_000), "invalid_json_line", "MAX_LINE_BYTES"),
    Wrong(line("-", custom_id=ABSENT), "invalid_request", "custom_id is missing"),
    Wrong(line(""), "invalid_request", "custom_id is empty"),
    Wrong(line("-", custom_id=7), "invalid_request", "custom_id is a number"),
    Wrong(line("first"), "duplicate_custom_id", "line 1", "first"),
    Wrong(line("get", method="GET"), "invalid_request", "method", "get"),
    Wrong(line("elsewhere", url="/v1/embeddings"), "invalid_request", "ALLOWED_URLS", "elsewhere"),
    Wrong(line("other url", url="/v1/chat/completions"), "url_mismatch", "/v1/chat/completions", "other url"),
    Wrong(line("other model", body_model="other"), "model_mismatch", "other", "other model"),
    Wrong(line("sample", body_model="REPLACE-WITH-MODEL-DEPLOYMENT-NAME"), "invalid_request", "placeholder", "sample"),
    Wrong(line("no model", body_model=ABSENT), "invalid_request", "body.model", "no model"),
    Wrong(line("no body", body=[]), "invalid_request", "body is an empty array", "no body"),
    Wrong(line("no messages", body_messages=[]), "invalid_request", "body.messages", "no messages"),
    Wrong(line("stream", body_stream=True), "invalid_request", "stream", "stream"),
    Wrong(line("own data", body_data_sources=[]), "invalid_request", "data_sources", "own data"),
]

FILES = {
    "everything": jsonl(line("first"), *(wrong.raw for wrong in WRONG), line("last")),
    "nonsense": b"nonsense\n" * 150,
    "empty": b"",
    "blank": b"\r\n  \n\t\n\n",
    "only a mark": b"\xef\xbb\xbf",
    "utf-16": "\n".join(each.decode() for each in lines(3)).encode("utf-16"),
    "too many": jsonl(*lines(1_002)),
    "too large": b" " * 10_000_001,
    "no input": jsonl(line("a", url="/v1/responses"), line("b", url="/v1/responses", body_input="Hello")),
}


@pytest.fixture(scope="module")
def dropped(stack: Bench) -> Mapping[str, Dropped]:
    """Every file of these stories, dropped at once."""
    return {name: stack.drop(f"findings/{name}.jsonl", content) for name, content in FILES.items()}


def test_one_wrong_line_of_each_kind_is_found_and_named(dropped: Mapping[str, Dropped]) -> None:
    report = rejected(dropped["everything"])
    found = [(finding["line"], finding["code"], finding["custom_id"]) for finding in report["findings"]]
    assert found == [(number, wrong.code, wrong.custom_id) for number, wrong in enumerate(WRONG, start=2)]
    for wrong, finding in zip(WRONG, report["findings"], strict=True):
        assert wrong.word in finding["message"]


def test_the_report_holds_the_first_hundred_findings_and_the_errors_blob_all(
    dropped: Mapping[str, Dropped], stack: Bench
) -> None:
    report = rejected(dropped["nonsense"])
    assert report["finding_count"] == 150
    assert [finding["line"] for finding in report["findings"]] == list(range(1, 101))
    assert [finding["line"] for finding in stack.user.lines(report["outputs"]["errors"])] == list(range(1, 151))


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        ("empty", 1, "empty_file"),
        ("blank", 1, "empty_file"),
        ("only a mark", 1, "empty_file"),
        ("utf-16", 1, "invalid_json_line"),
        ("too many", 1_001, "too_many_tasks"),
        ("too large", 1, "invalid_request"),
        ("no input", 1, "invalid_request"),
    ],
)
def test_a_file_that_is_wrong_in_one_way_has_one_finding(
    dropped: Mapping[str, Dropped], name: str, number: int, code: str
) -> None:
    report = rejected(dropped[name])
    assert [(finding["line"], finding["code"]) for finding in report["findings"]] == [(number, code)]


def test_a_rejected_file_is_accepted_when_it_is_dropped_again_with_a_deployment(stack: Bench) -> None:
    content = jsonl(*lines(2, body_model="REPLACE-WITH-MODEL-DEPLOYMENT-NAME"))
    report = rejected(stack.drop("findings/sample.jsonl", content))
    assert "metadata `deployment`" in report["findings"][0]["message"]
    again = stack.drop("findings/sample.jsonl", content, deployment="mine").wait()
    assert again["status"] == "succeeded"
    assert again["job_id"] != report["job_id"]
