"""The consumers of docs/integrate.md are told of a finished job: by push and by pull."""

import json
import os
import socket
import subprocess
import sys

from devkit.stack import PROJECT
from tests.end_to_end.bench import Bench
from tests.end_to_end.stories import jsonl, lines

SAMPLES = PROJECT / "docs/samples"


def test_a_webhook_and_a_puller_learn_of_a_finished_job() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Bench(host={"webhook": f"http://127.0.0.1:{port}"}) as bench:
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
