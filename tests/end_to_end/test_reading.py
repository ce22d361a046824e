"""A file is overwritten or deleted while it is being read: its report says so, and a new version has its own job."""

from collections.abc import Iterator
from typing import Any

import pytest

from batch_fn.storage.blob_streams import CHUNK_BYTES
from tests.end_to_end.bench import Dropped
from tests.end_to_end.gate import GatedBench
from tests.end_to_end.stories import answered, jsonl, lines, rejected

pytestmark = pytest.mark.xdist_group("reading")

BIG = jsonl(*lines(100, "x" * 50_000))

MOMENTS = {
    "before the first chunk": b"GET /[^ ]*/batch-input/reading.*bytes=0-",
    "between two chunks": b"GET /[^ ]*/batch-input/reading.*bytes=%d-" % CHUNK_BYTES,
    "before it is archived": b"PUT /[^ ]*/batch-archive/reading",
}


@pytest.fixture(scope="module")
def stack() -> Iterator[GatedBench]:
    with GatedBench() as bench:
        yield bench


def stopped(stack: GatedBench, name: str, moment: str) -> Dropped:
    """Drop a big file, and return when the app's reading of it stands at the gate."""
    stack.gate.stop_at(b"(?s)" + MOMENTS[moment])
    dropped = stack.drop(f"reading/{name}.jsonl", BIG)
    stack.gate.wait()
    return dropped


def check_gone(report: dict[str, Any]) -> None:
    [finding] = report["findings"]
    assert finding["code"] == "drop_gone"
    assert "overwritten or deleted" in finding["message"]
    assert report["outputs"]["archive"] is None


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_file_overwritten_while_it_is_read_is_gone_and_the_new_one_is_answered(
    stack: GatedBench, moment: str
) -> None:
    old = stopped(stack, "overwritten", moment)
    new = stack.drop(old.name, jsonl(*lines(3)))
    stack.gate.go_on()
    check_gone(rejected(old))
    assert answered(new)["status"] == "succeeded"


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_file_deleted_while_it_is_read_is_gone(stack: GatedBench, moment: str) -> None:
    dropped = stopped(stack, "deleted", moment)
    stack.user.blobs.get_blob_client("batch-input", dropped.name).delete_blob()
    stack.gate.go_on()
    check_gone(rejected(dropped))
