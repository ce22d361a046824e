"""What is uploaded for a part is, line by line, what the drop holds, wherever the part's lines lie."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batch_fn.app import App
from batch_fn.azure_openai.client import OpenAIBatches
from batch_fn.core.jobs import InputRange, Part
from batch_fn.core.planning import Limits, Planner
from batch_fn.settings import Settings
from batch_fn.storage.blob_streams import CHUNK_BYTES
from batch_fn.storage.blobs import Blobs
from batch_fn.storage.part_lines import SourceLine, picked, read_lines, upload_content
from batch_fn.validation.check import check
from batch_fn.validation.findings import Finding
from batch_fn.validation.requests import Rules
from devkit.azure_openai.process import AzureOpenAI
from devkit.azurite import Azurite
from devkit.stack import provision
from tests.conftest import JOB_ID, NOON, a_part

MAX_LINE = 1_000_000
BOM = b"\xef\xbb\xbf"
NAME = "sales/monday.jsonl"


@pytest.fixture
def containers(azurite: Azurite, settings: Settings) -> Blobs:
    provision(azurite.connection_string, settings)
    return App(settings).blobs


def line(custom_id: str, model: str | None = "batch-small", text: str = "Grüße 🙂") -> bytes:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} | ({"model": model} if model else {})
    request = {"custom_id": custom_id, "method": "POST", "url": "/chat/completions", "body": body}
    return json.dumps(request, ensure_ascii=False).encode()


A, B, C, D = (line(custom_id) for custom_id in "abcd")
UNFILLED = line("e", model=None)
PLACEHOLDER = line("f", model="REPLACE-WITH-MODEL-DEPLOYMENT-NAME")


def parts_of(containers: Blobs, settings: Settings, content: bytes, requests: int = 2) -> list[Part]:
    """The parts of a drop, of so many requests each."""
    containers.drop_client(NAME).upload_blob(content)
    planner = Planner(Limits(10**9, requests), container=settings.input_container, name=NAME, size=len(content))
    for result in check([content], Rules(deployment="batch-small")):
        assert not isinstance(result, Finding), result
        planner.add(result)
    return planner.parts(JOB_ID, now=NOON, due=NOON)


def uploaded(containers: Blobs, part: Part) -> bytes:
    """What is uploaded for a part, read in small pieces as the SDK does."""
    with upload_content(containers, part, MAX_LINE) as content:
        return b"".join(iter(lambda: content.read(50), b""))


CONTENTS = pytest.mark.parametrize(
    "content",
    [
        b"\n".join([A, B, C, D]),
        b"\n".join([A, B, C, D, b""]),
        BOM + b"\n".join([A, B, C, D, b""]),
        b"\r\n".join([A, B, C, D, b""]),
        b"\n\n" + b"\n \t\n".join([A, B, C, D]) + b"\n\n",
        b"\n".join([A, B]) + b"\r\n" + b"\n\n\n".join([C, D]),
    ],
    ids=["no last end", "plain", "mark", "carriage returns", "blank lines", "some of each"],
)


@CONTENTS
def test_a_part_s_lines_are_uploaded_as_they_are(containers: Blobs, settings: Settings, content: bytes) -> None:
    parts = parts_of(containers, settings, content)
    assert [uploaded(containers, part).splitlines() for part in parts] == [[A, B], [C, D]]


@CONTENTS
def test_a_part_s_lines_are_read_with_their_numbers_in_the_drop(
    containers: Blobs, settings: Settings, content: bytes
) -> None:
    parts = parts_of(containers, settings, content)
    read = [each for part in parts for each in read_lines(containers, part.source, MAX_LINE)]
    physical = [raw.strip() for raw in content.removeprefix(BOM).split(b"\n")]
    assert read == [SourceLine(physical.index(raw) + 1, raw) for raw in (A, B, C, D)]


def test_a_deployment_is_filled_in_on_the_way(containers: Blobs, settings: Settings) -> None:
    (part,) = parts_of(containers, settings, b"\n".join([A, UNFILLED, PLACEHOLDER]), requests=9)
    requests = [json.loads(raw) for raw in uploaded(containers, part).splitlines()]
    assert [request["custom_id"] for request in requests] == ["a", "e", "f"]
    assert {request["body"]["model"] for request in requests} == {"batch-small"}
    assert {request["body"]["messages"][0]["content"] for request in requests} == {"Grüße 🙂"}
    assert [raw for _, raw in read_lines(containers, part.source, MAX_LINE)] == [A, UNFILLED, PLACEHOLDER]


@pytest.mark.parametrize("fill", [False, True])
def test_picked_lines_are_uploaded_without_their_numbers(containers: Blobs, settings: Settings, fill: bool) -> None:
    some = [SourceLine(2, A), SourceLine(70, UNFILLED), SourceLine(100_000, b'{"custom_id": "\\t", "body": {"a":\t1}}')]
    containers.write(settings.work_container, "x.again", map(picked, some))
    source = InputRange(container=settings.work_container, name="x.again", picked=True, fill=fill)
    assert list(read_lines(containers, source, MAX_LINE)) == some
    sent = uploaded(containers, a_part(source=source)).splitlines()
    if fill:
        assert [json.loads(raw)["custom_id"] for raw in sent] == ["a", "e", "\t"]
        assert {json.loads(raw)["body"]["model"] for raw in sent} == {"batch-small"}
    else:
        assert sent == [raw for _, raw in some]


# A range, as the file that the SDK uploads


@pytest.fixture
def ranged(containers: Blobs, settings: Settings) -> Part:
    """A part that is the bytes `3456789` of a blob."""
    containers.drop_client(NAME).upload_blob(b"0123456789abc")
    source = InputRange(container=settings.input_container, name=NAME, offset=3, length=7, verbatim=True)
    return a_part(source=source)


def test_a_range_tells_its_length_and_is_then_read_from_its_beginning(containers: Blobs, ranged: Part) -> None:
    with upload_content(containers, ranged, MAX_LINE) as content:
        assert content.readable()
        assert content.seekable()
        assert content.tell() == 0
        assert content.seek(0, io.SEEK_END) == 7
        assert content.tell() == 7
        assert content.seek(0) == 0
        assert [content.read(3), content.tell(), content.read(100), content.tell()] == [b"345", 3, b"6789", 7]
        assert content.read(3) == b""


def test_a_range_can_be_read_again_from_its_beginning(containers: Blobs, ranged: Part) -> None:
    with upload_content(containers, ranged, MAX_LINE) as content:
        content.read(4)
        content.seek(0)
        assert content.read(100) == b"3456789"


def test_a_range_is_not_read_from_its_middle(containers: Blobs, ranged: Part) -> None:
    with upload_content(containers, ranged, MAX_LINE) as content, pytest.raises(io.UnsupportedOperation):
        content.seek(3)


def test_a_range_that_is_asked_for_all_gives_all_of_many_chunks(containers: Blobs, settings: Settings) -> None:
    data = bytes(range(251)) * (2 * CHUNK_BYTES // 251)
    containers.drop_client(NAME).upload_blob(data)
    source = InputRange(container=settings.input_container, name=NAME, offset=1, length=len(data) - 1, verbatim=True)
    with upload_content(containers, a_part(source=source), MAX_LINE) as content:
        assert content.read() == data[1:]


@pytest.mark.parametrize("verbatim", [True, False])
def test_the_service_gets_the_range_whole_through_the_sdk(
    containers: Blobs, settings: Settings, service: AzureOpenAI, tmp_path: Path, verbatim: bool
) -> None:
    lines = [line(str(number), text="x" * 1_000) for number in range(6_000)]
    (part,) = parts_of(containers, settings, b"\n".join(lines), requests=10**6)
    assert part.source.verbatim
    source = msgspec.structs.replace(part.source, verbatim=verbatim)
    batches = OpenAIBatches.connect(Settings(openai_endpoint=service.url, openai_api_key=service.api_key))
    with upload_content(containers, msgspec.structs.replace(part, source=source), MAX_LINE) as content:
        file_id = batches.upload("x.jsonl", content)
    batches.download(file_id, tmp_path / "x.jsonl")
    assert (tmp_path / "x.jsonl").read_bytes().splitlines() == lines
