"""Hostile files, 10,000 of them: never an exception, never a file both rejected and sent, never much memory."""

import itertools
import json
import os
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_fn.core.jobs import Outcome
from batch_fn.steps.intake import ingest
from batch_fn.storage.part_lines import read_lines
from batch_fn.validation.check import check
from batch_fn.validation.findings import Finding
from batch_fn.validation.requests import Request, Rules, custom_id_of
from tests.model.fakes import new_process
from tests.model.world import World

FILES = int(os.environ.get("HOSTILE_FILES", "10000"))
CHUNK = 64 * 1024
SCRAPS = [
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\t",
    b"NaN",
]
SCRAPS += [b"\\u0022", b"\\ud800", b"1e999", b"-0", b'"custom_id":', b'"body":{', b"\xe2\x80\xa8", b"null", b"[" * 300]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def request(custom_id: object, model: object, url: object) -> dict[str, Any]:
    """A line that may be good, or nearly so."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "input": "Hello"}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


requests = st.builds(
    request,
    custom_id=st.sampled_from(["a", "b", "c", "d", "e", "f"]) | json_values,
    model=st.sampled_from(["mini", "mini", "mini", "maxi"]) | json_values,
    url=st.sampled_from(["/chat/completions", "/chat/completions", "/v1/responses"]) | json_values,
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A request, perhaps with another value in one place, or with bytes cut out of it or put into it."""
    value: Any = draw(requests | json_values)
    if isinstance(value, dict) and draw(st.booleans()):
        value[draw(st.sampled_from(["method", "url", "body", "custom_id", "more"]))] = draw(json_values)
    raw = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        start = draw(st.integers(0, len(raw)))
        end = draw(st.integers(start, min(len(raw), start + 4)))
        raw = raw[:start] + draw(st.sampled_from(SCRAPS) | st.binary(max_size=4)) + raw[end:]
    return raw


good = st.builds(
    lambda ids: [json.dumps(request(each, "mini", "/chat/completions")).encode() for each in ids],
    st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=5, unique=True),
)
files = st.builds(
    lambda some, end, head: head + end.join(some),
    good | st.lists(lines(), max_size=5) | st.lists(st.binary(max_size=40), max_size=4),
    st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b""]),
    st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\n"]),
)


@settings(max_examples=FILES, suppress_health_check=list(HealthCheck))
@given(content=files, deployment=st.sampled_from([None, None, "mini", "/?#"]))
def test_no_file_raises_and_none_is_both_rejected_and_sent(content: bytes, deployment: str | None) -> None:
    world = World()
    world.drop("hostile.jsonl", content, {"deployment": deployment} if deployment else {})
    content = world.inbox()["hostile.jsonl"].content  # as it lies there: the world puts a number in the place of a #
    app = new_process(world)
    ingest(app, "hostile.jsonl")
    parts = world.parts()
    rejected = [job for job in world.history.values() if job.status is Outcome.REJECTED]
    assert bool(parts) is not bool(rejected), "either it is sent, or it is rejected"
    assert not (rejected and world.messages)
    assert world.broken == []
    sources = [read_lines(app.blobs, part.source) for part in parts]
    sent = [custom_id_of(line.raw) for line in sorted(itertools.chain.from_iterable(sources))]
    raws = [raw for raw in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if raw.strip()]
    assert sent == ([custom_id_of(raw) for raw in raws] if parts else []), "each line of a good file is in one part"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"nonsense\n", id="no JSON"),
        pytest.param(b"{}\n", id="no members"),
        pytest.param(b'{"a":1,"a":2}\n', id="a repeated key"),
        pytest.param(b"\xff\n", id="no UTF-8"),
        pytest.param(b"[" * 1_000 + b"\n", id="deep"),
        pytest.param(b"x" * 5_000 + b"\n", id="too long"),
    ],
)
def test_a_file_in_which_every_line_is_bad_takes_no_more_memory_the_longer_it_is(line: bytes) -> None:
    peaks = [_peak(line, lines=count) for count in (300, 3_000)]
    assert peaks[1] < peaks[0] + 256 * 1024


def _peak(line: bytes, lines: int) -> int:
    """Return the most memory, in bytes, that checking so many of that line took."""
    tracemalloc.start()
    try:
        for found in check(_chunks(line, lines), Rules(max_line_bytes=4_096)):
            assert isinstance(found, Finding | Request)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _chunks(line: bytes, lines: int) -> Iterator[bytes]:
    each = max(1, CHUNK // len(line))
    for start in range(0, lines, each):
        yield line * min(each, lines - start)


def test_every_finding_can_be_written_down() -> None:
    content = b'{"custom_id": "\\ud800", "method": "GET", "url": "\\u0000", "body": {"model": "\\udfff"}}\n\xff\xfe\n'
    for found in check([content], Rules()):
        assert isinstance(found, Finding)
        assert msgspec.json.decode(msgspec.json.encode(found), type=Finding) == found
