"""The consumers of docs/integrate.md are told of a finished job, by push and by pull."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import jsonschema_rs
import pytest

from devkit.host.events import blob_created
from devkit.host.process import FunctionsHost
from devkit.stack import PROJECT
from tests.end_to_end.bench import Bench, wait_for
from tests.end_to_end.stories import jsonl, lines

DOCS = PROJECT / "docs"
SAMPLES = DOCS / "samples"
NAME = "told/monday #1 50%.jsonl"


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def bench(port: int) -> Iterator[Bench]:
    # As in Azure, a small drop waits a while for company, which does not come.
    with Bench({"BUNDLE_SECONDS": "1"}, host={"webhook": f"http://127.0.0.1:{port}"}) as bench:
        yield bench


def test_a_webhook_and_a_puller_learn_of_a_finished_job(bench: Bench, port: int) -> None:
    # The webhook is not up when the first event comes: it is sent again.
    dropped = bench.user.drop("told/monday.jsonl", jsonl(*lines(2)))
    report = bench.user.wait(dropped)
    command = [sys.executable, str(SAMPLES / "webhook.py"), str(port)]
    webhook = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert webhook.stdout is not None
        told = json.loads(webhook.stdout.readline())
    finally:
        webhook.kill()
        webhook.communicate()
    assert told["job_id"] == report["job_id"]
    assert told["report"].endswith(f"batch-reports/{dropped}.json")
    command = [sys.executable, str(SAMPLES / "puller.py")]
    for expected in ([report["job_id"]], []):
        pulled = subprocess.run(
            command, env=os.environ | bench.environment, capture_output=True, text=True, check=True, timeout=30
        )
        assert [json.loads(line)["job_id"] for line in pulled.stdout.splitlines()] == expected


def test_another_function_app_learns_of_a_finished_job(bench: Bench) -> None:
    options = {"events": True, "event_seconds": 0.2, "max_poll_seconds": 0.5}
    with FunctionsHost(SAMPLES / "function", bench.environment, **options) as host:
        assert sorted(host.functions) == ["job_finished", "report_written"]
        dropped = bench.drop(NAME, jsonl(*lines(2)))
        for told_by in host.functions:
            told = json.dumps({"told_by": told_by, "job_id": dropped.job_id, "status": "succeeded"})
            wait_for(lambda told=told: told in host.log_text(), told)  # type: ignore[misc]
        assert bench.messages(dropped.job_id) == [], "it was taken off the queue"


def test_a_logic_app_finds_the_report_that_an_event_tells_of(bench: Bench) -> None:
    """As far as that can be seen outside of Azure: its filter, the path that it makes, and what it reads there."""
    definition = json.loads((SAMPLES / "logic_app.json").read_text())["definition"]
    (trigger,) = definition["triggers"].values()
    wanted = trigger["inputs"]["body"]["properties"]["filter"]
    command = (DOCS / "integrate.md").read_text()
    for option in (*wanted["includedEventTypes"], wanted["subjectBeginsWith"], wanted["subjectEndsWith"]):
        assert f" {option} " in command, "the filter is the one of the subscription that is described"
    dropped = bench.drop(NAME, jsonl(*lines(2)))
    report = dropped.wait()
    blob = bench.user.blobs.get_blob_client(bench.settings.reports_container, f"{dropped.path}.json")
    event = blob_created(blob.url, blob.get_blob_properties().etag)
    assert event["eventType"] in wanted["includedEventTypes"]
    assert event["subject"].startswith(wanted["subjectBeginsWith"])
    assert event["subject"].endswith(wanted["subjectEndsWith"])
    get, read = definition["actions"]["Get_the_report"]["inputs"], definition["actions"]["Read_it"]["inputs"]
    given = re.fullmatch(r"@replace\(triggerBody\(\)\?\['subject'\], '([^']+)', '([^']+)'\)", get["queries"]["path"])
    assert given is not None
    assert event["subject"].replace(*given.groups()) == f"/{blob.container_name}/{blob.blob_name}"
    jsonschema_rs.validate(read["schema"], report)
    assert read["schema"]["properties"].keys() <= report.keys()
