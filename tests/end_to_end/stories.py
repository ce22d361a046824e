"""What is dropped, and what must be true of every job, however it ended."""

import hashlib
import itertools
import json
import re
from datetime import datetime
from typing import Any

import msgspec

from batch_fn.settings import Settings
from tests.end_to_end.bench import Bench, Dropped

ABSENT: Any = ...
"""As a change to a line: leave the member out."""

_numbers = itertools.count(1)


def line(custom_id: str, text: str = "Hello", /, **changes: Any) -> bytes:
    """Return a request; `changes` are to its members, or with a name like `body_model` to those of its body.

    No two lines are the same, so that the emulator's count of executions is about this very line.
    """
    body = {"model": "global-batch", "user": f"user-{next(_numbers)}", "messages": [{"role": "user", "content": text}]}
    body |= {name.removeprefix("body_"): value for name, value in changes.items() if name.startswith("body_")}
    members = {"custom_id": custom_id, "method": "POST", "url": "/chat/completions", "body": _present(body)}
    members |= {name: value for name, value in changes.items() if not name.startswith("body_")}
    return json.dumps(_present(members), ensure_ascii=False).encode()


def lines(count: int, text: str = "Hello", /, **changes: Any) -> list[bytes]:
    """Return that many requests, `task-1` and on."""
    return [line(f"task-{number}", text, **changes) for number in range(1, count + 1)]


def jsonl(*lines: bytes) -> bytes:
    """Return the file of those lines."""
    return b"".join(line + b"\n" for line in lines)


def _present(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not ABSENT}


def answered(dropped: Dropped, *, sent: bytes | None = None) -> dict[str, Any]:
    """Return the report of a file that was accepted, as soon as its job is done, if all of it adds up.

    `sent` is the file as the service must have got it, where that is not what was dropped.
    """
    report = dropped.wait()
    assert report["status"] != "rejected", report["findings"]
    check_report(dropped, report)
    _check_aftermath(dropped, report)
    requests = _requests(dropped.content if sent is None else sent)
    _check_accepted(dropped, report, requests)
    output = _check_output(dropped, report, requests)
    errors = _check_errors(dropped, report)
    order = [request.custom_id for request in requests]
    assert list(output) == [custom_id for custom_id in order if custom_id in output]
    assert list(errors) == [custom_id for custom_id in order if custom_id in errors]
    assert sorted([*output, *errors]) == sorted(order), "each line is in exactly one of output and errors"
    _check_executions(dropped.bench, requests, output)
    return report


def went_well(dropped: Dropped) -> dict[str, Any]:
    """Return the report of a file that was accepted, as soon as its job is done and nothing of it is left anywhere."""
    report = dropped.wait()
    assert report["status"] != "rejected", report["findings"]
    _check_aftermath(dropped, report)
    return report


def rejected(dropped: Dropped) -> dict[str, Any]:
    """Return the report of a file that was rejected, as soon as its job is done, if all of it adds up."""
    report = dropped.wait()
    assert report["status"] == "rejected"
    check_report(dropped, report)
    _check_aftermath(dropped, report)
    bench, outputs = dropped.bench, report["outputs"]
    assert outputs["output"] is None
    assert outputs["errors"] == f"batch-errors/{dropped.path}.jsonl"
    findings = bench.user.lines(outputs["errors"])
    assert report["finding_count"] == len(findings) > 0
    assert report["findings"] == findings[:100]
    assert report["counts"] == {"requests": 0, "succeeded": 0, "failed": 0}
    assert report["batches"] == bench.batches(dropped.job_id) == []
    assert report["times"]["accepted"] is report["times"]["submitted"] is None
    return report


def statuses(report: dict[str, Any]) -> list[tuple[int, str]]:
    """Return attempt and status of each of the report's batches."""
    return [(batch["attempt"], batch["status"]) for batch in report["batches"]]


def error_codes(bench: Bench, report: dict[str, Any]) -> dict[str, str | int]:
    """Return for each line in errors its error's code, or the HTTP status that it was answered with."""
    return {
        each["custom_id"]: each["error"]["code"] if each["error"] else each["response"]["status_code"]
        for each in bench.user.lines(report["outputs"]["errors"])
    }


# --- the checks ------------------------------------------------------------------------------------------------------

REPORT = {
    "job_id": str,
    "status": str,
    "input": {"container": str, "name": str, "etag": str, "bytes": int, "requests": int},
    "counts": {"requests": int, "succeeded": int, "failed": int},
    "finding_count": int,
    "findings": list,
    "outputs": {"output": str | None, "errors": str | None, "archive": str | None},
    "batches": list,
    "waits": list,
    "estimate": dict | None,
    "usage": {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int},
    "cost": None,
    "times": {
        "dropped": str,
        "accepted": str | None,
        "submitted": str | None,
        "finished": str,
        "cancelled": str | None,
        "retried": str | None,
    },
}
ESTIMATE = {"prompt_tokens": int, "cost": None}
FINDING = {"line": int, "code": str, "message": str, "custom_id": str | None}
BATCH = {
    "id": str,
    "part": int,
    "deployment": str,
    "endpoint": str,
    "attempt": int,
    "status": str,
    "requests": int,
    "succeeded": int,
    "failed": int,
    "estimated_tokens": int,
    "usage": {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int},
    "cost": None,
    "created_at": str,
    "finished_at": str,
}
WAIT = {
    "part": int,
    "attempt": int,
    "reason": str,
    "message": str,
    "needed": int | None,
    "limit": int | None,
    "enqueued": int | None,
    "until": str,
}
NO_RESPONSE = {"custom_id": str, "response": None, "error": {"code": str, "message": str}}
ANSWER = {"custom_id": str, "response": {"request_id": str, "status_code": int, "body": dict}, "error": None}
FAILURE = {"id": str, **ANSWER}  # the emulator names the request of a line that failed
JOB_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{10}")
RETRYABLE = re.compile(rb"\[\[status (?:408|409|429|5\d\d)(?: x(\d+))?\]\]")
ATTEMPTS = Settings().max_attempts


def _check_shape(value: Any, shape: Any) -> None:
    """Assert that a JSON object has exactly the shape's members, of the shape's types."""
    assert value.keys() == shape.keys()
    for name, kind in shape.items():
        if isinstance(kind, dict):
            _check_shape(value[name], kind)
        elif kind is None:
            assert value[name] is None, name
        else:
            assert isinstance(value[name], kind), name


def check_report(dropped: Dropped, report: dict[str, Any]) -> None:
    """Assert what is true of every report."""
    _check_shape(report, REPORT)
    for finding in report["findings"]:
        _check_shape(finding, FINDING)
        assert finding["message"].strip()
    for batch in report["batches"]:
        _check_shape(batch, BATCH)
        assert _time(batch["created_at"]) <= _time(batch["finished_at"])
    for wait in report["waits"]:
        _check_shape(wait, WAIT)
    assert report["job_id"] == dropped.job_id
    assert JOB_ID.fullmatch(report["job_id"])
    assert report["input"]["container"] == "batch-input"
    assert report["input"]["name"] == dropped.name
    assert report["input"]["bytes"] == len(dropped.content)
    counts = report["counts"]
    assert counts["succeeded"] + counts["failed"] == counts["requests"] == report["input"]["requests"]
    for name, tokens in report["usage"].items():
        assert tokens == sum(batch["usage"][name] for batch in report["batches"])
    assert (report["estimate"] is None) == (report["times"]["accepted"] is None)
    if report["estimate"] is not None:
        _check_shape(report["estimate"], ESTIMATE)
        assert report["estimate"]["prompt_tokens"] > 0
    assert len(report["findings"]) == min(report["finding_count"], 100)
    times = {name: _time(time) for name, time in report["times"].items() if time is not None}
    known = [times[name] for name in ("dropped", "accepted", "submitted", "finished") if name in times]
    assert known == sorted(known), "dropped, accepted, submitted, finished"
    assert all(time <= times["finished"] for time in times.values())


def _time(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def _check_aftermath(dropped: Dropped, report: dict[str, Any]) -> None:
    """Assert that the file was moved, that who waits was told, and that nothing else is left, here or there."""
    bench, job_id = dropped.bench, dropped.job_id
    if report["outputs"]["archive"] is None:
        assert [finding["code"] for finding in report["findings"]] == ["drop_gone"]
    else:
        assert report["outputs"]["archive"] == f"batch-archive/{dropped.path}.jsonl"
        assert bench.user.read(report["outputs"]["archive"]) == dropped.content
    inbox = bench.user.blobs.get_container_client("batch-input").list_blobs(name_starts_with=dropped.name)
    assert report["input"]["etag"] not in [blob.etag.strip('"') for blob in inbox if blob.name == dropped.name]
    job = {"job_id": job_id, "status": report["status"], "report": f"batch-reports/{dropped.path}.json"}
    assert bench.messages(job_id) == [{"job": job}]
    [row] = bench.history(job_id)
    assert (row["status"], row["name"], row["report"]) == (report["status"], dropped.name, job["report"])
    assert bench.names("batch-work", job_id) == []
    assert bench.files(job_id) == []


class _Request(msgspec.Struct):
    """A line as it was dropped, its body untouched."""

    custom_id: str
    url: str
    body: msgspec.Raw

    @property
    def answer_id(self) -> str:
        """What the built-in model makes of the body's very bytes."""
        digest = hashlib.sha256(bytes(self.body)).hexdigest()
        return f"resp_{digest[:32]}" if self.url.endswith("/responses") else f"chatcmpl-{digest[:29]}"

    @property
    def meaning(self) -> tuple[str, str]:
        """What the emulator counts executions by."""
        body = msgspec.json.encode(msgspec.json.decode(self.body), order="sorted")
        return self.custom_id, hashlib.sha256(body).hexdigest()

    @property
    def most_executions(self) -> int:
        """How often the service may execute it: once, and again after each failure that is worth it."""
        failures = [int(times or ATTEMPTS) for times in RETRYABLE.findall(bytes(self.body))]
        return min(1 + sum(failures), ATTEMPTS)


def _requests(content: bytes) -> list[_Request]:
    raws = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [msgspec.json.decode(raw, type=_Request) for raw in raws if raw.strip()]


def _check_accepted(dropped: Dropped, report: dict[str, Any], requests: list[_Request]) -> None:
    """Assert that the report tells of every line and every batch."""
    counts, batches = report["counts"], report["batches"]
    assert counts["requests"] == len(requests)
    if report["status"] != "cancelled":
        names = {(True, False): "succeeded", (True, True): "partially_succeeded", (False, True): "failed"}
        assert report["status"] == names[counts["succeeded"] > 0, counts["failed"] > 0]
    assert sum(batch["succeeded"] for batch in batches) == counts["succeeded"]
    if batches:
        assert sum(batch["failed"] for batch in batches) == counts["failed"]
    else:
        assert counts["succeeded"] == 0
    assert {batch["endpoint"] for batch in batches} <= {request.url for request in requests}
    existing = {batch["id"]: batch for batch in dropped.bench.batches(dropped.job_id)}
    assert {batch["id"] for batch in batches} <= existing.keys()
    for batch in batches:
        assert batch["status"] == existing[batch["id"]]["status"]
        assert batch["deployment"] == existing[batch["id"]]["deployment"]


def _check_output(dropped: Dropped, report: dict[str, Any], requests: list[_Request]) -> dict[str, Any]:
    """Assert that output holds the service's own lines, each the answer to the request's very bytes. Return them."""
    place, by_id = report["outputs"]["output"], {request.custom_id: request for request in requests}
    raws = _raw_lines(dropped.bench, place)
    assert len(raws) == report["counts"]["succeeded"]
    assert place == (f"batch-output/{dropped.path}.jsonl" if raws else None)
    spent = dict.fromkeys(report["usage"], 0)
    found = {}
    for raw in raws:
        answer = json.loads(raw)
        assert raw == msgspec.json.encode(answer), "written as the service writes"
        _check_shape(answer, ANSWER)
        assert answer["response"]["status_code"] == 200
        body = answer["response"]["body"]
        assert body["id"] == by_id[answer["custom_id"]].answer_id
        usage = body["usage"]
        spent["prompt_tokens"] += usage.get("prompt_tokens", usage.get("input_tokens"))
        spent["completion_tokens"] += usage.get("completion_tokens", usage.get("output_tokens"))
        spent["total_tokens"] += usage["total_tokens"]
        found[answer["custom_id"]] = answer
    assert len(found) == len(raws)
    assert report["usage"] == spent
    return found


def _check_errors(dropped: Dropped, report: dict[str, Any]) -> dict[str, Any]:
    """Assert that errors holds the service's own lines, or ours for those it has none of. Return them."""
    place = report["outputs"]["errors"]
    raws = _raw_lines(dropped.bench, place)
    assert len(raws) == report["counts"]["failed"]
    assert place == (f"batch-errors/{dropped.path}.jsonl" if raws else None)
    found = {}
    for raw in raws:
        error = json.loads(raw)
        assert raw == msgspec.json.encode(error), "written as the service writes"
        if error["response"] is None:
            _check_shape(error, NO_RESPONSE)
            assert error["error"]["code"] in {"no_response", "batch_expired", "batch_cancelled"}
        else:
            _check_shape(error, FAILURE)
            assert error["response"]["status_code"] >= 400
        found[error["custom_id"]] = error
    assert len(found) == len(raws)
    return found


def _raw_lines(bench: Bench, place: str | None) -> list[bytes]:
    if place is None:
        return []
    content = bench.user.read(place)
    assert content is not None
    assert content.endswith(b"\n")
    return content[:-1].split(b"\n")


def _check_executions(bench: Bench, requests: list[_Request], output: dict[str, Any]) -> None:
    """Assert that no line was paid for twice, and that none was run again but where the service said it failed."""
    ran = {(each["custom_id"], each["body_sha256"]): each for each in bench.service.executions()}
    for request in requests:
        runs = ran.get(request.meaning, {"count": 0, "succeeded": 0})
        assert runs["succeeded"] == (request.custom_id in output), request.custom_id
        assert runs["count"] <= request.most_executions, request.custom_id
