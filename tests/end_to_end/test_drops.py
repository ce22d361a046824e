"""One version of a file is one job: however often it is told of, and whatever becomes of the file."""

import json
from urllib.request import Request, urlopen

from devkit.azure_openai.process import AzureOpenAI
from devkit.host.events import blob_created
from tests.end_to_end.bench import Bench, Dropped
from tests.end_to_end.stories import answered, jsonl, lines, rejected


def tell_of(dropped: Dropped, etag: str, times: int) -> None:
    """Do what Event Grid does when it is in doubt: tell the host of the same version again."""
    host, blobs = dropped.bench.host, dropped.bench.user.blobs
    url = blobs.get_blob_client("batch-input", dropped.name).url
    body = json.dumps([blob_created(url, etag, len(dropped.content)) for _ in range(times)]).encode()
    query = f"functionName=Host.Functions.drop&code={host.keys['blobs_extension']}"
    headers = {"aeg-event-type": "Notification", "Content-Type": "application/json"}
    urlopen(Request(f"{host.url}/runtime/webhooks/blobs?{query}", body, headers), timeout=10).close()


def etag_of(dropped: Dropped) -> str:
    """Return the ETag of the version that lies in the inbox."""
    return dropped.bench.user.blobs.get_blob_client("batch-input", dropped.name).get_blob_properties().etag


def test_ten_more_events_at_once_make_no_second_job(stack: Bench) -> None:
    dropped = stack.drop("drops/ten times.jsonl", jsonl(*lines(20)))
    tell_of(dropped, etag_of(dropped), 10)
    report = answered(dropped)
    assert len(stack.batches(report["job_id"])) == 1
    assert stack.names("batch-reports", "drops/ten times/") == [f"{dropped.path}.json"]


def test_an_event_while_the_batch_runs_makes_no_second_job(stack: Bench, service: AzureOpenAI) -> None:
    service.hold()
    dropped = stack.drop("drops/twice.jsonl", jsonl(*lines(3)))
    dropped.batches()
    tell_of(dropped, etag_of(dropped), 2)
    rejected(stack.drop("drops/after twice.jsonl", b"nonsense"))  # whoever comes later is served: the events were, too
    service.release()
    answered(dropped)
    assert len(stack.batches(dropped.job_id)) == 1


def test_an_event_that_comes_when_the_job_is_done_changes_nothing(stack: Bench) -> None:
    dropped = stack.drop("drops/late.jsonl", jsonl(*lines(3)))
    etag = etag_of(dropped)
    report = answered(dropped)
    tell_of(dropped, etag, 3)
    rejected(stack.drop("drops/after late.jsonl", b"nonsense"))
    assert answered(dropped) == report
    assert stack.names("batch-reports", "drops/late/") == [f"{dropped.path}.json"]


def test_a_bad_file_told_of_ten_times_is_rejected_once(stack: Bench) -> None:
    dropped = stack.drop("drops/bad.jsonl", b"nonsense\n" * 20)
    tell_of(dropped, etag_of(dropped), 10)
    rejected(dropped)
    assert stack.names("batch-reports", "drops/bad/") == [f"{dropped.path}.json"]


def test_a_new_version_is_a_new_job_and_the_old_results_stay(stack: Bench) -> None:
    content = jsonl(*lines(3))
    first = answered(stack.drop("drops/weekly.jsonl", content))
    second = answered(stack.drop("drops/weekly.jsonl", jsonl(*lines(5))))
    assert [first["counts"]["succeeded"], second["counts"]["succeeded"]] == [3, 5]
    assert first["job_id"] < second["job_id"]
    assert len(stack.user.lines(first["outputs"]["output"])) == 3
    assert len(stack.names("batch-reports", "drops/weekly/")) == 2


def test_one_file_under_two_names_is_two_jobs(stack: Bench) -> None:
    first = stack.drop("drops/one.jsonl", b"[]")
    second = stack.drop("drops/two.jsonl", b"[]")
    assert rejected(first)["job_id"] != rejected(second)["job_id"]


def test_a_file_that_is_overwritten_while_its_batch_runs_is_answered_and_so_is_the_new_one(
    stack: Bench, service: AzureOpenAI
) -> None:
    service.hold()
    first = stack.drop("drops/overwritten.jsonl", jsonl(*lines(3)))
    first.batches()
    second = stack.drop("drops/overwritten.jsonl", jsonl(*lines(4)))
    second.batches()
    service.release()
    assert answered(first)["counts"]["succeeded"] == 3
    assert answered(second)["counts"]["succeeded"] == 4


def test_a_file_that_is_deleted_while_its_batch_runs_is_answered(stack: Bench, service: AzureOpenAI) -> None:
    service.hold()
    dropped = stack.drop("drops/deleted.jsonl", jsonl(*lines(3)))
    dropped.batches()
    stack.user.blobs.get_blob_client("batch-input", dropped.name).delete_blob()
    service.release()
    assert answered(dropped)["counts"]["succeeded"] == 3
