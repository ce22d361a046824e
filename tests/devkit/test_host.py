"""The promises of the local Functions host, seen from outside: a sample app, on Azurite, in a real worker."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import BlobClient, BlobServiceClient
from azure.storage.queue import QueueServiceClient

from devkit.azurite import Azurite
from devkit.host.bindings import read_blob_path, resolve
from devkit.host.configuration import ConfigurationError
from devkit.host.events import blob_created
from devkit.host.process import FunctionsHost, HostError
from devkit.host.schedules import more_often_than_once_a_minute, read_schedule

APP = Path(__file__).parent / "sample_app"
PATIENCE = 60  # seconds


def wait_for[T](look: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Return what `look` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.03)
    return seen


class Bench:
    """A host with the sample app, and the storage it works on, seen from outside."""

    def __init__(self, azurite: Azurite, folder: Path, host_id: str, extra: dict[str, str], **options: Any) -> None:
        self.host_id = host_id
        self.trace = folder / f"{host_id}.jsonl"
        self.container = f"drops-{host_id}"
        settings = {
            "AzureWebJobsStorage": azurite.connection_string,
            "DropStorage": azurite.connection_string,
            "DROP_CONTAINER": self.container,
            "TICK": "* * * * * *",
            "TRACE": str(self.trace),
            "AzureFunctionsWebHost__hostid": host_id,
            "AzureWebJobs.switched_off.Disabled": "true",
        }
        self.host = FunctionsHost(APP, settings | extra, **options)
        self.blobs = BlobServiceClient.from_connection_string(azurite.connection_string)
        self.queues = QueueServiceClient.from_connection_string(azurite.connection_string)

    def seen(self, function: str, **members: object) -> list[dict[str, Any]]:
        """Return the runs of a function that the sample app traced, those with these members."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        runs = [json.loads(line) for line in lines]
        return [run for run in runs if run["function"] == function and members.items() <= run.items()]

    def drop(self, name: str, text: str) -> BlobClient:
        """Write a blob that Event Grid tells of."""
        blob = self.blobs.get_blob_client(self.container, name)
        blob.upload_blob(text, overwrite=True)
        return blob

    def send(self, text: str, queue: str = "work") -> None:
        self.queues.get_queue_client(queue).send_message(base64.b64encode(text.encode()).decode())

    def queue_texts(self, queue: str) -> list[str]:
        """Return the visible messages of a queue, without taking them."""
        try:
            messages = self.queues.get_queue_client(queue).peek_messages(32)
            return [base64.b64decode(message.content).decode() for message in messages]
        except ResourceNotFoundError:
            return []

    def queue_length(self, queue: str) -> int:
        return self.queues.get_queue_client(queue).get_queue_properties().approximate_message_count or 0

    def host_blob(self, path: str) -> BlobClient:
        return self.blobs.get_blob_client("azure-webjobs-hosts", path)

    def put_blob_message(self, function: str, name: str, etag: str) -> None:
        message = {
            "Type": "BlobTrigger",
            "FunctionId": f"Host.Functions.{function}",
            "BlobType": "BlockBlob",
            "ContainerName": self.container if function == "drop" else "scan",
            "BlobName": name,
            "ETag": etag,
        }
        self.send(json.dumps(message), f"azure-webjobs-blobtrigger-{self.host_id}")

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Return the status, body and headers (names in lower case) of an answer of the host."""
        request = Request(f"{self.host.url}{path}", method=method, data=body, headers=headers or {})
        try:
            with urlopen(request, timeout=PATIENCE) as response:
                return (
                    response.status,
                    response.read(),
                    {name.lower(): value for name, value in response.headers.items()},
                )
        except HTTPError as error:
            with error:
                return error.code, error.read(), dict(error.headers)

    def post_events(
        self, kind: str, events: list[dict[str, Any]], key: str, function: str = "drop"
    ) -> tuple[int, bytes]:
        path = f"/runtime/webhooks/blobs?functionName=Host.Functions.{function}&code={key}"
        status, body, _ = self.ask(
            path, method="POST", body=json.dumps(events).encode(), headers={"aeg-event-type": kind}
        )
        return status, body

    def close(self) -> None:
        self.host.__exit__(None, None, None)
        self.blobs.close()
        self.queues.close()


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    with Azurite() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("host")


@pytest.fixture(scope="module")
def bench(azurite: Azurite, folder: Path) -> Iterator[Bench]:
    """The host of most tests: Event Grid played by the host itself."""
    bench = Bench(
        azurite,
        folder,
        "first",
        {},
        events=True,
        event_seconds=0.2,
        scan_seconds=0.3,
        max_poll_seconds=0.5,
        poison_retry_seconds=1,
    )
    for container in (bench.container, "scan"):
        bench.blobs.create_container(container)
    bench.queues.create_queue("work")
    bench.host.start()
    yield bench
    bench.close()


# The blob trigger, Event Grid


def test_a_dropped_blob_runs_the_function_with_a_blob_client(bench: Bench) -> None:
    blob = bench.drop("sales/monday.jsonl", "hello")
    [run] = wait_for(lambda: bench.seen("drop", name="sales/monday.jsonl"))
    assert (run["text"], run["etag"]) == ("hello", blob.get_blob_properties().etag)


def test_an_overwrite_and_a_metadata_write_are_events_too(bench: Bench) -> None:
    blob = bench.drop("again", "one")
    wait_for(lambda: bench.seen("drop", name="again", text="one"))
    bench.drop("again", "two")
    wait_for(lambda: bench.seen("drop", name="again", text="two"))
    blob.set_blob_metadata({"a": "b"})
    wait_for(lambda: len(bench.seen("drop", name="again", text="two")) == 2)


def test_the_webhook_shakes_hands_and_asks_for_the_system_key(bench: Bench) -> None:
    key = bench.host.keys["blobs_extension"]
    handshake = [{"data": {"validationCode": "1234"}}]
    status, body = bench.post_events("SubscriptionValidation", handshake, key)
    assert (status, json.loads(body)) == (200, {"validationResponse": "1234"})
    assert bench.post_events("SubscriptionValidation", handshake, "wrong") == (401, b"")
    assert bench.post_events("SubscriptionValidation", handshake, bench.host.keys["function"]) == (401, b"")
    assert bench.post_events("Unsubscribe", [], key)[0] == 202
    assert bench.post_events("Nonsense", [], key)[0] == 400


def test_the_events_of_a_function_that_is_not_there_are_taken_and_lost(bench: Bench) -> None:
    blob = bench.drop("for nobody", "x")
    wait_for(lambda: bench.seen("drop", name="for nobody"))
    event = blob_created(blob.url, blob.get_blob_properties().etag)
    key = bench.host.keys["blobs_extension"]
    assert bench.post_events("Notification", [event], key, function="nobody")[0] == 202
    wait_for(lambda: bench.queue_length("azure-webjobs-blobtrigger-first") == 0)
    assert len(bench.seen("drop", name="for nobody")) == 1


def test_an_event_is_delivered_as_often_as_it_is_sent_whatever_its_etag(bench: Bench) -> None:
    blob = bench.drop("repeated", "x")
    wait_for(lambda: bench.seen("drop", name="repeated"))
    event = blob_created(blob.url, '"0xOLD"')
    assert bench.post_events("Notification", [event, event], bench.host.keys["blobs_extension"])[0] == 202
    wait_for(lambda: len(bench.seen("drop", name="repeated")) == 3)


# The blob trigger, container scan


def test_a_scanned_blob_runs_once_per_version_and_leaves_a_receipt(bench: Bench) -> None:
    blob = bench.blobs.get_blob_client("scan", "in/a b.txt")
    blob.upload_blob("bytes")
    [run] = wait_for(lambda: bench.seen("scan", name="scan/in/a b.txt"))
    assert (run["text"], run["length"], run["uri"]) == ("bytes", 5, blob.url)
    etag = blob.get_blob_properties().etag
    receipt = bench.host_blob(f"blobreceipts/first/Host.Functions.scan/{etag}/scan/in/a b.txt")
    wait_for(lambda: receipt.get_blob_properties().metadata == {})
    time.sleep(1.1)  # Last-Modified has whole seconds, and the scan wants a later one
    blob.upload_blob("other", overwrite=True)
    wait_for(lambda: bench.seen("scan", text="other"))
    assert len(bench.seen("scan", name="scan/in/a b.txt")) == 2


def test_a_blob_beside_the_pattern_is_not_noticed(bench: Bench) -> None:
    time.sleep(1.1)
    bench.blobs.get_blob_client("scan", "out/x.txt").upload_blob("never")
    bench.blobs.get_blob_client("scan", "in/x.txt").upload_blob("noticed")
    wait_for(lambda: bench.seen("scan", text="noticed"))
    assert not bench.seen("scan", text="never")


# The internal queue


def test_a_stale_etag_is_not_run_for_the_polling_source_only(bench: Bench) -> None:
    bench.drop("stale", "event grid")
    wait_for(lambda: bench.seen("drop", name="stale"))
    before = len(bench.seen("scan", name="scan/in/x.txt"))
    bench.put_blob_message("scan", "in/x.txt", '"0xSTALE"')
    bench.put_blob_message("drop", "stale", '"0xSTALE"')
    wait_for(lambda: len(bench.seen("drop", name="stale")) == 2)
    wait_for(lambda: bench.queue_length("azure-webjobs-blobtrigger-first") == 0)
    assert len(bench.seen("scan", name="scan/in/x.txt")) == before


def test_unknown_functions_and_missing_blobs_are_done_with_silently(bench: Bench) -> None:
    bench.put_blob_message("removed", "in/x.txt", '"0x1"')
    bench.put_blob_message("drop", "missing", '"0x1"')
    wait_for(lambda: bench.queue_length("azure-webjobs-blobtrigger-first") == 0)
    assert not bench.seen("drop", name="missing")


def test_a_blob_that_fails_five_times_is_poison(bench: Bench) -> None:
    blob = bench.drop("bad", "fail for ever")
    [text] = wait_for(lambda: bench.queue_texts("webjobs-blobtrigger-poison"))
    assert json.loads(text) == {
        "Type": "BlobTrigger",
        "FunctionId": "Host.Functions.drop",
        "BlobType": "BlockBlob",
        "ContainerName": bench.container,
        "BlobName": "bad",
        "ETag": blob.get_blob_properties().etag,
    }
    assert len(bench.seen("drop", name="bad")) == 5


# Queues


def test_a_message_runs_its_output_is_written_and_it_is_deleted(bench: Bench) -> None:
    bench.send("good")
    [run] = wait_for(lambda: bench.seen("work", text="good"))
    assert run["dequeue_count"] == 1
    wait_for(lambda: bench.seen("copied", text="copy of good"))
    wait_for(lambda: bench.queue_length("work") == 0)


def test_a_message_that_fails_five_times_is_poison_and_its_outputs_are_not_written(bench: Bench) -> None:
    bench.send("fail always")
    wait_for(lambda: bench.queue_texts("work-poison") == ["fail always"])
    assert [run["dequeue_count"] for run in bench.seen("work", text="fail always")] == [1, 2, 3, 4, 5]
    assert not bench.seen("copied", text="copy of fail always")


def test_a_message_that_is_not_base64_is_poison_at_once_and_unseen(bench: Bench) -> None:
    bench.queues.get_queue_client("work").send_message("not base64!")
    poison = bench.queues.get_queue_client("work-poison")
    wait_for(lambda: "not base64!" in [message.content for message in poison.peek_messages(32)])
    assert "Message moved to work-poison after 1 attempts" in bench.host.log_text()


def test_a_message_that_is_base64_of_no_text_is_run(bench: Bench) -> None:
    bench.queues.get_queue_client("work").send_message(base64.b64encode(b"odd \xff").decode())
    wait_for(lambda: bench.seen("work", text="odd \ufffd"))


def test_what_fails_on_a_poison_queue_is_run_again_and_again(bench: Bench) -> None:
    """The real host does so every ten minutes, without a limit."""
    bench.queues.create_queue("others-poison")
    bench.send("fail for ever", "others-poison")
    bench.queues.get_queue_client("others-poison").send_message("not base64!")
    runs = wait_for(lambda: len(runs := bench.seen("others_poisoned")) >= 7 and runs)
    assert isinstance(runs, list)
    assert [run["dequeue_count"] for run in runs[:7]] == [1, 2, 3, 4, 5, 6, 7]
    assert {run["text"] for run in runs} == {"fail for ever"}
    assert bench.queue_length("others-poison") == 2
    assert bench.queue_texts("others-poison-poison") == []
    bench.queues.delete_queue("others-poison")


def test_top_level_members_of_a_body_override_the_metadata(bench: Bench) -> None:
    bench.send('{"id": "mine"}')
    [run] = wait_for(lambda: bench.seen("work", text='{"id": "mine"}'))
    assert run["id"] == "mine"


def test_a_killed_worker_is_replaced_and_its_message_comes_again(bench: Bench) -> None:
    bench.send("sleep 1.5")
    [first] = wait_for(lambda: bench.seen("work", text="sleep 1.5"))
    bench.host.kill_worker()
    _, second = wait_for(lambda: len(runs := bench.seen("work", text="sleep 1.5")) == 2 and runs)  # type: ignore[misc]
    assert second["dequeue_count"] == 2
    assert second["pid"] != first["pid"]
    wait_for(lambda: bench.queue_length("work") == 0)


def test_a_timeout_kills_the_worker_and_all_that_runs_in_it(bench: Bench) -> None:
    statuses: list[int] = []
    caller = threading.Thread(target=lambda: statuses.append(bench.ask("/api/slow/30")[0]))
    caller.start()
    [slow] = wait_for(lambda: bench.seen("slow", seconds=30.0))
    time.sleep(2.5)
    bench.send("sleep 2")
    wait_for(lambda: len(bench.seen("work", text="sleep 2")) == 2)
    caller.join()
    assert statuses == [500]
    innocent, repeated = bench.seen("work", text="sleep 2")
    assert innocent["pid"] == slow["pid"] != repeated["pid"]
    assert "Timeout value of 4.0 s was exceeded by function: Functions.slow" in bench.host.log_text()


# HTTP, keys, admin


def test_http_carries_bytes_routes_queries_and_headers(bench: Bench) -> None:
    status, body, headers = bench.ask(
        "/api/echo/7?q=a%20b",
        method="POST",
        body=b"\x00\xff",
        headers={"x-functions-key": bench.host.keys["function"], "X-Mine": "yes"},
    )
    assert (status, body) == (201, b"\x00\xff")
    assert (headers["x-number"], headers["x-query"], headers["x-header"]) == ("7", "a b", "yes")
    assert headers["content-type"] == "application/octet-stream"
    assert bench.ask("/api/echo/text")[:2] == (200, b"hello from GET")
    assert bench.ask("/api/slow/0")[:2] == (500, b"")


@pytest.mark.parametrize(
    ("path", "method", "key", "status"),
    [
        ("/api/echo/7", "POST", "function", 201),
        ("/api/echo/7", "POST", "master", 201),
        ("/api/echo/7", "POST", "blobs_extension", 401),
        ("/api/echo/7", "POST", "", 401),
        ("/api/echo/7", "GET", "function", 404),
        ("/api/echo/seven", "POST", "function", 404),
        ("/api/nothing", "GET", "master", 404),
        ("/api/reset", "GET", "function", 401),
        ("/api/reset", "GET", "master", 200),
        ("/admin/host/status", "GET", "master", 200),
        ("/admin/host/status", "GET", "function", 401),
        ("/admin/functions/nobody", "POST", "master", 404),
        ("/admin/host/ping", "GET", "", 200),
    ],
)
def test_keys_and_routes(bench: Bench, path: str, method: str, key: str, status: int) -> None:
    code = f"?code={bench.host.keys[key]}" if key else ""
    answer = bench.ask(path + code, method=method, body=b"" if method == "POST" else None)
    assert answer[0] == status
    assert status != 401 or answer[1] == b""


def test_the_admin_routes_give_the_system_key_and_run_functions(bench: Bench) -> None:
    master = {"x-functions-key": bench.host.keys["master"], "content-type": "application/json"}
    _, body, _ = bench.ask("/admin/host/systemkeys/blobs_extension", headers=master)
    assert json.loads(body) == {"name": "blobs_extension", "value": bench.host.keys["blobs_extension"]}
    bench.drop("by-hand", "x")
    wait_for(lambda: bench.seen("drop", name="by-hand"))
    inputs = {"drop": f"{bench.container}/by-hand", "work": "by hand", "start": ""}
    for function, text in inputs.items():
        body = json.dumps({"input": text}).encode()
        assert bench.ask(f"/admin/functions/{function}", method="POST", body=body, headers=master)[0] == 202
    wait_for(lambda: len(bench.seen("drop", name="by-hand")) == 2)
    wait_for(lambda: bench.seen("work", text="by hand"))
    wait_for(lambda: len(bench.seen("start")) == 2)


# Timers


def test_a_timer_ticks_runs_at_start_and_has_a_status(bench: Bench) -> None:
    first, *_ = wait_for(lambda: bench.seen("tick"))
    assert (first["past_due"], first["status"]) == (False, {})  # every second: no monitor
    assert bench.seen("start")[0]["past_due"] is False
    status = json.loads(bench.host_blob("timers/first/Host.Functions.start/status").download_blob().readall())
    assert status.keys() == {"Last", "Next", "LastUpdated"}
    assert status["Next"].endswith("-01-01T00:00:00+00:00")
    with pytest.raises(ResourceNotFoundError):
        bench.host_blob("timers/first/Host.Functions.tick/status").get_blob_properties()


def test_a_timer_is_locked_and_a_second_host_does_not_run_it(bench: Bench, azurite: Azurite, folder: Path) -> None:
    with pytest.raises(HttpResponseError):
        bench.host_blob("locks/first/Host.Functions.start.Listener").acquire_lease(15)
    second = Bench(azurite, folder, "first", {"TRACE": str(folder / "second.jsonl")}, lose_events=True)
    second.trace = folder / "second.jsonl"
    try:
        second.host.start()
        assert second.host.keys == bench.host.keys  # of one host id, stored
        assert second.ask("/api/slow/1")[0] == 200
        assert second.seen("slow")
        assert not second.seen("start")
        assert not second.seen("tick")
    finally:
        second.close()


def test_a_disabled_function_is_not_there(bench: Bench) -> None:
    assert "switched_off" not in bench.host.functions
    assert "tick" in bench.host.functions


# A host of its own: bad days, and what a restart finds


ONLY_DROP_AND_TIMERS = {f"AzureWebJobs.{name}.Disabled": "true" for name in ("scan", "work", "copied")}


def test_a_killed_hosts_work_comes_again(azurite: Azurite, folder: Path) -> None:
    extra = ONLY_DROP_AND_TIMERS | {"TICK": "0 0 0 1 1 *"}
    options: dict[str, Any] = {"receive_visibility_seconds": 2, "event_copies": 2, "break_locks": True, "events": True}
    bench = Bench(azurite, folder, "killed", extra, event_seconds=0.2, max_poll_seconds=0.5, **options)
    bench.blobs.create_container(bench.container)
    bench.drop("older", "before the subscription")
    status = {"Last": datetime(2024, 1, 1), "Next": datetime(2025, 1, 1), "LastUpdated": datetime(2024, 1, 1)}
    bench.host_blob("timers/killed/Host.Functions.tick/status").upload_blob(
        json.dumps({name: moment.replace(tzinfo=UTC).isoformat() for name, moment in status.items()})
    )
    try:
        bench.host.start()
        [tick] = wait_for(lambda: bench.seen("tick"))
        assert tick["past_due"] is True  # the recorded Next went by, once
        bench.drop("twice", "sleep 2.5")
        wait_for(lambda: len(bench.seen("drop", name="twice")) == 2)  # two events, both running
        bench.host.kill()
        bench.drop("meanwhile", "the host is down")
        bench.host.start()
        wait_for(lambda: len(bench.seen("drop", name="meanwhile")) == 2)  # the subscription has outlived the host
        wait_for(lambda: len(bench.seen("drop", name="twice")) == 4)  # hidden for a while, then again
        wait_for(lambda: len(bench.seen("start")) == 2)  # the lock was taken over
        assert len(bench.seen("tick")) == 1  # nothing missed this time
        bench.host.stop()  # a drain: what runs is seen through
        assert len(bench.seen("drop", name="twice")) == 4  # renewed: a run outlasts the visibility of its message
        assert bench.queue_length("azure-webjobs-blobtrigger-killed") == 0
        assert not bench.seen("drop", name="older")
    finally:
        bench.close()


def test_a_long_run_is_followed_by_one_catch_up_run(azurite: Azurite, folder: Path) -> None:
    extra = ONLY_DROP_AND_TIMERS | {"TICK_SECONDS": "2.2"}
    bench = Bench(azurite, folder, "long", extra, lose_events=True, events=True, event_seconds=0.1)
    bench.blobs.create_container(bench.container)
    try:
        bench.host.start()
        bench.drop("lost", "x")
        wait_for(lambda: len(bench.seen("tick")) >= 3)
        first, second, third = bench.seen("tick")[:3]
        assert second["at"] - first["at"] >= 2.2
        assert second["at"] % 1 > 0.1  # at once, between two full seconds
        assert third["at"] % 1 < second["at"] % 1  # once: the next run is on a full second again
        assert second["past_due"] is False
        assert not bench.seen("drop")  # lose_events
    finally:
        bench.close()


def test_an_app_that_cannot_be_indexed_says_why(azurite: Azurite, tmp_path: Path) -> None:
    (tmp_path / "function_app.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "host.json").write_text('{"version": "2.0"}')
    host = FunctionsHost(tmp_path, {"AzureWebJobsStorage": azurite.connection_string})
    with pytest.raises(HostError, match=r"could not be indexed: ModuleNotFoundError: .*a_module_that_is_not_there"):
        host.start()


def test_nothing_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from devkit.azurite import Azurite
from devkit.host.process import FunctionsHost
azurite = Azurite(Path({str(tmp_path)!r}))
azurite.start()
settings = {{"AzureWebJobsStorage": azurite.connection_string, "DropStorage": azurite.connection_string}}
settings |= {{"DROP_CONTAINER": "drops", "TICK": "0 0 0 * * *", "TRACE": {os.devnull!r}}}
host = FunctionsHost(Path({str(APP)!r}), settings)
host.start()
print(azurite._process.pid, host._process.pid, host.worker_pid(), flush=True)
time.sleep(60)
"""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
    with parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert len(pids) == 3
    wait_for(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    """Return whether a process is there and is no zombie that nobody reaps."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(") ")[2].startswith("Z"))


def test_azurite_comes_back_with_its_data_and_the_host_goes_on(bench: Bench, azurite: Azurite) -> None:
    before = azurite.connection_string
    blob = bench.drop("kept", "kept")
    azurite.stop()
    azurite.start()
    assert azurite.connection_string == before
    assert blob.download_blob().readall() == b"kept"
    bench.drop("later", "x")
    wait_for(lambda: bench.seen("drop", name="later"))


# Pure parts


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("*/10 * * * * *", "2026-01-01T00:00:00", "2026-01-01T00:00:10"),
        ("0 */5 * * * *", "2026-01-01T00:59:59", "2026-01-01T01:00:00"),
        ("*/5 * * * *", "2026-01-01T00:00:00", "2026-01-01T00:05:00"),
        ("30 0 9-17 * * *", "2026-01-01T17:00:30", "2026-01-02T09:00:30"),
        ("0 0 10,12 * * *", "2026-01-01T10:00:00", "2026-01-01T12:00:00"),
        ("0 30 9 * * 1-5", "2026-01-02T09:30:00", "2026-01-05T09:30:00"),
        ("0 30 9 * JAN MON", "2026-01-26T09:30:00", "2027-01-04T09:30:00"),
        ("0 0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
        ("0 10-30/10 * * * *", "2026-01-01T00:10:00", "2026-01-01T00:20:00"),
        ("00:01:30", "2026-01-01T00:00:00", "2026-01-01T00:01:30"),
        ("1.00:00:00", "2026-01-01T00:00:00", "2026-01-02T00:00:00"),
    ],
)
def test_schedules(schedule: str, after: str, expected: str) -> None:
    moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
    assert read_schedule(schedule).next_after(moment) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "schedule", ["", "* * *", "60 * * * * *", "* * * * * 7", "*/0 * * * * *", "x * * * * *", "1:2"]
)
def test_a_wrong_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(ConfigurationError):
        read_schedule(schedule)


def test_only_a_timer_of_less_than_a_minute_has_no_monitor() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert more_often_than_once_a_minute(read_schedule("*/30 * * * * *"), now)
    assert more_often_than_once_a_minute(read_schedule("00:00:59"), now)
    assert not more_often_than_once_a_minute(read_schedule("0 * * * * *"), now)


def test_settings_in_bindings_and_patterns_of_paths() -> None:
    assert resolve({"queueName": "%NAME%-x", "n": 1}, {"NAME": "q"}) == {"queueName": "q-x", "n": 1}
    with pytest.raises(ConfigurationError, match="NAME"):
        resolve({"queueName": "%NAME%"}, {})
    path = read_blob_path("drop/{folder}/{name}.jsonl")
    assert path.parameters("a/b.jsonl") == {"folder": "a", "name": "b"}
    assert path.parameters("a/b.csv") is None
    assert read_blob_path("drop").parameters("any/thing") == {"name": "any/thing"}
