"""What an answer of the service proves: whole lists, absence, and calls that do not hold a process up."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from batch_fn.azure_openai import client
from batch_fn.azure_openai.client import CREATE_TIMEOUT_SECONDS, OpenAIBatches
from batch_fn.azure_openai.wire import UnreadableBatchError, read_batch
from batch_fn.core.batches import (
    CreateOutcomeUnknownError,
    EnvironmentServiceError,
    NotFoundError,
    ServiceCallError,
    ServiceError,
    TransientServiceError,
)
from batch_fn.settings import Settings
from tests.conftest import a_part

SINCE = datetime(2026, 11, 22, 12, tzinfo=UTC)
NOON = int(SINCE.timestamp())
PART = a_part(file_id="file-ours")
OURS = {"id": "batch-ours", "created_at": NOON + 60, "metadata": PART.metadata}
REAL_PAUSE = client._pause
HTML = b"<html>Welcome</html>"


def entry(number: int, created_at: Any) -> dict[str, Any]:
    return {"id": f"batch-{number}", "created_at": created_at, "metadata": {"job": "of another"}}


class Answers(BaseHTTPRequestHandler):
    """Answers from a table: by method and last part of the path, status and JSON, or what makes it of the query."""

    answers: dict[str, Any]
    headers_sent: dict[str, str]
    asked: list[str]

    def _answer(self) -> None:
        url = urlsplit(self.path)
        name = f"{self.command} {url.path.rpartition('/')[2]}"
        type(self).asked.append(name)
        given = self.answers.get(name, (404, {"error": {"code": "404", "message": "Resource not found"}}))
        status, body = given(parse_qs(url.query)) if callable(given) else given
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for header, value in self.headers_sent.items():
            self.send_header(header, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Service:
    """A service that answers as it is told, and the app's client for it."""

    def __init__(self, url: str, kind: type[Answers]) -> None:
        self.answers, self.headers, self.asked = kind.answers, kind.headers_sent, kind.asked
        self.client = OpenAIBatches.connect(Settings(openai_endpoint=url, openai_api_key="key"))


@pytest.fixture
def service() -> Iterator[Service]:
    kind = type("AnswersNow", (Answers,), {"answers": {}, "headers_sent": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Service(f"http://127.0.0.1:{server.server_port}", kind)
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """After which try there was a pause, which takes no time here."""
    pauses: list[int] = []
    monkeypatch.setattr(client, "_pause", lambda _trouble, tries: pauses.append(tries))
    return pauses


def paged(*pages: list[Any]) -> Any:
    """A list in pages: `after` is the id of the last entry of the page before."""

    def answer(query: dict[str, list[str]]) -> tuple[int, Any]:
        after = query.get("after", [""])[0]
        last_ids = [""] + [page[-1]["id"] for page in pages[:-1]]
        number = last_ids.index(after)
        return 200, {"data": pages[number], "has_more": number < len(pages) - 1}

    return answer


# Lists


@pytest.mark.parametrize(
    "pages",
    [
        [[entry(1, NOON - 9_999), OURS]],
        [[entry(1, NOON - 9_999)], [OURS]],
        [[entry(1, NOON + 99), entry(2, NOON - 99)], [entry(3, NOON + 70), OURS]],
        [[entry(1, NOON - 99)], [entry(2, NOON - 98)], [entry(3, NOON - 97)], [OURS]],
        [[entry(1, None), entry(2, "soon"), entry(3, [])], [OURS]],
        [[entry(1, 10**30), entry(2, True), entry(3, -(10**30))], [OURS]],
    ],
    ids=["one odd entry ahead", "an odd page ahead", "out of order", "oldest first", "no times", "impossible times"],
)
def test_a_batch_is_found_wherever_it_stands(service: Service, pages: list[list[Any]]) -> None:
    service.answers["GET batches"] = paged(*pages)
    found = service.client.find_batch(PART, SINCE)
    assert found is not None
    assert found.id == "batch-ours"
    assert service.client.find_batches({"batch-ours", "batch-x"}, SINCE).keys() == {"batch-ours"}


BROKEN: list[Any] = [
    None,
    "text",
    7,
    [],
    {},
    {"id": None},
    {"id": 7, "created_at": NOON},
    {"id": ""},
]
ODD: list[Any] = [
    {"id": "odd"},
    {"id": "odd", "created_at": None, "status": None, "metadata": None, "errors": "it failed", "request_counts": 7},
    {
        "id": "odd",
        "created_at": "x",
        "status": 5,
        "metadata": ["job"],
        "errors": ["it", None, {}],
        "request_counts": [],
    },
    {"id": "odd", "created_at": {}, "metadata": {"job": 5}, "errors": {"data": "it failed"}, "input_file_id": 7},
    {"id": "odd", "created_at": 1e300, "errors": {"data": [{"line": "²", "code": 5}]}, "endpoint": {}},
    {"id": "odd", "created_at": "-1", "errors": {"data": [{"line": "9" * 5_000}]}, "input_blob": 3},
    {"id": "odd", "completed_at": "0000-00-00", "request_counts": {"total": "3", "completed": -1, "failed": 1e9}},
]


@pytest.mark.parametrize("broken", [*BROKEN, *ODD], ids=repr)
def test_an_entry_of_others_that_cannot_be_read_hides_no_other(service: Service, broken: Any) -> None:
    service.answers["GET batches"] = (200, {"data": [broken, OURS], "has_more": False})
    found = service.client.find_batch(PART, SINCE)
    assert found is not None
    assert found.id == "batch-ours"


@pytest.mark.parametrize("created_at", [NOON + 60, None])
def test_a_listed_batch_that_does_not_say_whose_it_is_is_asked_for(service: Service, created_at: Any) -> None:
    """A lost create was ruled out by a list that had its batch, with nothing but its id: it was made again."""
    unsaid = {"id": OURS["id"], "created_at": created_at, "metadata": None, "input_file_id": ""}
    service.answers["GET batches"] = (200, {"data": [unsaid], "has_more": False})
    service.answers["GET batch-ours"] = (200, OURS)
    found = service.client.find_batch(PART, SINCE)
    assert found is not None
    assert found.metadata == PART.metadata
    service.answers["GET batch-ours"] = (503, {})
    with pytest.raises(TransientServiceError):
        service.client.find_batch(PART, SINCE)


def test_a_batch_with_more_metadata_than_was_sent_is_ours(service: Service) -> None:
    more = OURS | {"metadata": PART.metadata | {"added": "by the service"}}
    service.answers["GET batches"] = (200, {"data": [more], "has_more": False})
    assert service.client.find_batch(PART, SINCE) is not None


@pytest.mark.parametrize("broken", BROKEN, ids=repr)
def test_what_has_no_id_is_no_batch(broken: Any) -> None:
    with pytest.raises(UnreadableBatchError):
        read_batch(broken)


def test_errors_that_are_a_text_are_told() -> None:
    assert read_batch({"id": "b", "errors": "it failed"}).errors == (ServiceError("unknown", "it failed"),)
    assert read_batch({"id": "b", "errors": ["it", {"code": "c"}]}).errors == (
        ServiceError("unknown", "it"),
        ServiceError("c", ""),
    )


def test_a_list_that_is_newest_first_is_read_to_one_page_behind_the_mark(service: Service) -> None:
    pages = [[entry(number, NOON + 250 - 100 * number)] for number in range(6)]
    service.answers["GET batches"] = paged(*pages)
    assert service.client.find_batch(PART, SINCE) is None
    assert service.asked == ["GET batches"] * 4, "the fourth is the first that is older"


@pytest.mark.parametrize(
    "answer",
    [
        (404, {"error": {"code": "404", "message": "Resource not found"}}),
        (405, {}),
        (403, {}),
        (400, {}),
        (500, {}),
        (200, HTML),
        (200, b""),
        (200, []),
        (200, {}),
        (200, {"data": None}),
        (200, {"data": [], "has_more": True}),
        (200, {"data": [entry(1, NOON)], "has_more": True}),
        (200, {"data": [{"created_at": NOON}], "has_more": True}),
        (200, b'{"data":' + b"[" * 100_000),
    ],
    ids=[
        "route gone",
        "405",
        "403",
        "400",
        "500",
        "HTML",
        "nothing",
        "no object",
        "no data",
        "null",
        "empty and goes on",
        "the same page again and again",
        "no id to go on from",
        "deep",
    ],
)
@pytest.mark.parametrize("what", ["batches", "files"])
def test_a_list_that_is_not_shown_whole_proves_nothing(service: Service, what: str, answer: tuple[int, Any]) -> None:
    service.answers[f"GET {what}"] = answer
    with pytest.raises(ServiceCallError) as caught:
        if what == "batches":
            service.client.find_batch(PART, SINCE)
        else:
            service.client.lacks_file("file-1")
    assert not isinstance(caught.value, NotFoundError)


@pytest.mark.parametrize("has_more", [{}, {"has_more": None}, {"has_more": False}])
def test_a_list_that_does_not_say_whether_it_goes_on_is_whole(service: Service, has_more: dict[str, Any]) -> None:
    service.answers["GET batches"] = (200, {"data": [entry(1, NOON)], **has_more})
    service.answers["GET files"] = (200, {"data": [{"id": "file-2"}], **has_more})
    assert service.client.find_batch(PART, SINCE) is None
    assert service.client.lacks_file("file-1")


# Files


def test_a_file_is_lacking_when_it_answers_404_and_a_list_of_every_purpose_lacks_it(service: Service) -> None:
    def files(query: dict[str, list[str]]) -> tuple[int, Any]:
        assert "purpose" not in query, "results have another purpose than inputs"
        return 200, {"data": [{"id": "file-2"}, None, {"id": 7}], "has_more": False}

    service.answers["GET files"] = files
    assert service.client.lacks_file("file-1")
    assert not service.client.lacks_file("file-2")
    service.answers["GET file-1"] = (200, {"id": "file-1"})
    assert not service.client.lacks_file("file-1")
    service.answers["GET file-1"] = (403, {})
    with pytest.raises(EnvironmentServiceError):
        service.client.lacks_file("file-1")


@pytest.mark.parametrize(
    ("status", "pending"),
    [("pending", True), ("Pending", True), ("uploaded", True), ("processed", False), ("error", False), (None, False)],
)
def test_a_file_is_pending_by_its_own_status(service: Service, status: str | None, pending: bool) -> None:
    service.answers["GET file-1"] = (200, {"id": "file-1", "status": status})
    assert service.client.file_is_pending("file-1") is pending
    assert not service.client.file_is_pending("file-2")


# Answers that are none


@pytest.mark.parametrize("body", [HTML, b"", [], {}, {"id": None}, {"id": 7}], ids=repr)
def test_a_create_that_is_answered_with_anything_else_may_have_made_a_batch(service: Service, body: Any) -> None:
    service.answers["POST batches"] = (200, body)
    with pytest.raises(CreateOutcomeUnknownError):
        service.client.create(PART)
    assert service.asked == ["POST batches"]


@pytest.mark.parametrize("body", [HTML, b"", [], {}, {"id": "batch-2"}], ids=repr)
def test_a_batch_that_is_answered_with_anything_else_is_not_told(service: Service, body: Any) -> None:
    service.answers["GET batch-1"] = (200, body)
    with pytest.raises(TransientServiceError):
        service.client.retrieve("batch-1")


@pytest.mark.parametrize("call", ["delete_file", "cancel"])
def test_what_was_done_needs_no_words(service: Service, call: str) -> None:
    service.answers |= {"DELETE some-id": (200, HTML), "POST cancel": (200, HTML)}
    getattr(service.client, call)("some-id")


def test_a_file_that_may_not_be_deleted_keeps_no_job_from_its_end(service: Service) -> None:
    service.answers["DELETE some-id"] = (400, {"error": {"code": "inUse", "message": "A batch reads it."}})
    service.client.delete_file("some-id")


# Time


@pytest.mark.parametrize(
    ("settle", "timeout"), [(300, CREATE_TIMEOUT_SECONDS), (120, CREATE_TIMEOUT_SECONDS), (60, 30.0), (0, 1.0)]
)
def test_a_create_is_over_before_a_list_can_prove_that_it_made_nothing(settle: int, timeout: float) -> None:
    settings = Settings(openai_endpoint="https://example", openai_api_key="key", settle_seconds=settle)
    assert OpenAIBatches.connect(settings)._create_timeout_seconds == timeout


@pytest.mark.parametrize("wait", ["6", "30", "600", "1e300", "inf"])
@pytest.mark.parametrize("call", ["retrieve", "has_file", "delete_file", "cancel", "find_files"])
def test_a_call_does_not_sleep_for_as_long_as_the_service_asks(
    service: Service, pauses: list[int], call: str, wait: str
) -> None:
    busy = (429, {"error": {"code": "429", "message": "Slow down."}})
    names = ["GET some-id", "DELETE some-id", "POST cancel", "GET files"]
    service.answers |= dict.fromkeys(names, busy)
    service.headers["Retry-After"] = wait
    started = time.monotonic()
    with pytest.raises(TransientServiceError, match="Slow down") as caught:
        getattr(service.client, call)("some-id")
    assert caught.value.retry_after is not None
    assert 5 < caught.value.retry_after <= 3_600
    assert time.monotonic() - started < 5
    assert pauses == []
    assert len(service.asked) == 1


@pytest.mark.parametrize("retry_after", [None, 0.5, 5.0])
@pytest.mark.parametrize("tries", [1, 2, 20])
def test_a_pause_takes_a_few_seconds_at_most(
    monkeypatch: pytest.MonkeyPatch, retry_after: float | None, tries: int
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    REAL_PAUSE(TransientServiceError("busy", retry_after=retry_after), tries)
    assert len(slept) == 1
    assert 0 < slept[0] <= 5


@pytest.mark.parametrize("wait", [None, "1", "nan", "-5", "soon"])
def test_trouble_that_may_pass_within_seconds_is_met_by_asking_again(
    service: Service, pauses: list[int], wait: str | None
) -> None:
    answers = iter([(503, {}), (429, {}), (200, {"id": "batch-1", "status": "in_progress"})])
    service.answers["GET batch-1"] = lambda _: next(answers)
    if wait:
        service.headers["Retry-After"] = wait
    assert service.client.retrieve("batch-1").status == "in_progress"
    assert pauses == [1, 2]


@pytest.mark.parametrize("status", [401, 403, 405])
def test_what_only_a_user_can_correct_is_not_asked_again(service: Service, status: int) -> None:
    service.answers["GET batch-1"] = (status, {})
    with pytest.raises(EnvironmentServiceError):
        service.client.retrieve("batch-1")
    assert len(service.asked) == 1
