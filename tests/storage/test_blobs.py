"""Blobs on Azurite: a drop is read at one version, results appear whole, and the inbox blob is never touched."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from azure.storage.blob import BlobClient, BlobServiceClient, ContainerClient

from batch_fn.app import App
from batch_fn.settings import Settings
from batch_fn.storage.blob_streams import CHUNK_BYTES, PREFETCH, BlobChangedError
from batch_fn.storage.blobs import Blobs, Drop, DropGoneError
from devkit.azurite import Azurite
from devkit.stack import provision

NAME = "sales/monday.jsonl"
ODD_NAMES = [
    NAME,
    "monday",
    "a b/50% #1?&=+;.jsonl",
    "größer/東京 🙂.jsonl",
    "%41%20.jsonl",
    "it's [one] {two}~!@$^()`.jsonl",
    "x/" * 100 + "y.jsonl",
]
TEN_MEGABYTES = 10 * 1024 * 1024


@pytest.fixture
def containers(azurite: Azurite, settings: Settings) -> Blobs:
    provision(azurite.connection_string, settings)
    return App(settings).blobs


@pytest.fixture
def inbox(containers: Blobs, settings: Settings) -> ContainerClient:
    service = BlobServiceClient.from_connection_string(settings.storage or "")
    return service.get_container_client(settings.input_container)


def dropped(containers: Blobs, content: bytes, name: str = NAME) -> Drop:
    """A version of a drop, just written."""
    containers.drop_client(name).upload_blob(content, overwrite=True)
    return seen(containers, name)


def seen(containers: Blobs, name: str = NAME) -> Drop:
    drop = containers.drop(name)
    assert drop is not None
    return drop


def content_of(settings: Settings, place: str) -> bytes:
    """The content of a blob, given as container/name."""
    container, _, name = place.partition("/")
    return BlobClient.from_connection_string(settings.storage or "", container, name).download_blob().readall()


def is_there(settings: Settings, container: str, name: str) -> bool:
    return BlobClient.from_connection_string(settings.storage or "", container, name).exists()


# A drop


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_drop_is_known_by_name_and_version(containers: Blobs, settings: Settings, name: str) -> None:
    client = containers.drop_client(name)
    client.upload_blob(b"abc", metadata={"deployment": "batch"})
    properties = client.get_blob_properties()
    drop = Drop(
        container=settings.input_container,
        name=name,
        etag=properties.etag.strip('"'),
        bytes=3,
        last_modified=properties.last_modified,
        metadata={"deployment": "batch"},
    )
    assert seen(containers, name) == drop
    assert list(containers.inbox()) == [drop]


def test_a_drop_that_is_gone_is_none(containers: Blobs) -> None:
    assert containers.drop(NAME) is None


def test_the_inbox_is_listed_without_the_folders_of_an_account_that_has_them(
    containers: Blobs, inbox: ContainerClient
) -> None:
    assert list(containers.inbox()) == []
    inbox.upload_blob("sales", b"", metadata={"hdi_isfolder": "true"})
    inbox.upload_blob("sales/monday.jsonl", b"a")
    inbox.upload_blob("empty.jsonl", b"")
    assert [drop.name for drop in containers.inbox()] == ["empty.jsonl", "sales/monday.jsonl"]
    assert containers.drop("sales") is None


def test_the_name_of_a_metadata_value_may_be_written_in_capitals(containers: Blobs) -> None:
    client = containers.drop_client(NAME)
    client.upload_blob(b"abc", metadata={"Deployment": "batch"})
    assert seen(containers).metadata == {"deployment": "batch"}
    assert [drop.metadata for drop in containers.inbox()] == [{"deployment": "batch"}]


# Reading it


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, TEN_MEGABYTES])
def test_a_drop_is_read_whole_a_chunk_at_a_time(containers: Blobs, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    drop = dropped(containers, content[:size])
    chunks = list(containers.read_drop(drop))
    assert b"".join(chunks) == content[:size]
    assert all(len(chunk) <= CHUNK_BYTES for chunk in chunks)


@pytest.mark.parametrize("change", ["overwritten", "overwritten by the same", "deleted", "given metadata"])
@pytest.mark.parametrize("already_read", [0, 1])
def test_a_drop_that_changes_while_it_is_read_is_gone(containers: Blobs, change: str, already_read: int) -> None:
    content = b"x" * CHUNK_BYTES * (PREFETCH + 3)  # more than is asked for ahead
    drop = dropped(containers, content)
    reading = containers.read_drop(drop)
    for _ in range(already_read):
        assert next(reading) == content[:CHUNK_BYTES]
    client = containers.drop_client(NAME)
    if change == "deleted":
        client.delete_blob()
    elif change == "given metadata":
        client.set_blob_metadata({"a": "b"})
    else:
        client.upload_blob(content if change == "overwritten by the same" else b"y", overwrite=True)
    with pytest.raises(DropGoneError):
        list(reading)


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, None, b"0123456789"), (3, None, b"3456789"), (3, 4, b"3456"), (9, 1, b"9"), (0, 0, b""), (3, 0, b"")],
)
def test_a_range_of_a_blob_is_read(
    containers: Blobs, settings: Settings, offset: int, length: int | None, expected: bytes
) -> None:
    dropped(containers, b"0123456789")
    assert b"".join(containers.read(settings.input_container, NAME, offset, length)) == expected


def test_a_range_that_is_longer_than_a_chunk_is_read_whole(containers: Blobs, settings: Settings) -> None:
    content = bytes(range(251)) * (TEN_MEGABYTES // 251)
    dropped(containers, content)
    read = b"".join(containers.read(settings.input_container, NAME, 7, 2 * CHUNK_BYTES + 1))
    assert read == content[7 : 7 + 2 * CHUNK_BYTES + 1]


# Keeping it, and taking it out


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_drop_is_kept_under_any_name(containers: Blobs, settings: Settings, name: str) -> None:
    drop = dropped(containers, b"the content", name)
    containers.archive(drop.container, name, drop.etag, name)
    assert containers.archive_path(name) == f"{settings.archive_container}/{name}.jsonl"
    assert content_of(settings, containers.archive_path(name)) == b"the content"


def test_only_that_very_version_is_kept(containers: Blobs, settings: Settings) -> None:
    old = dropped(containers, b"old")
    dropped(containers, b"new")
    with pytest.raises(DropGoneError):
        containers.archive(old.container, NAME, old.etag, "kept")
    containers.drop_client(NAME).delete_blob()
    with pytest.raises(DropGoneError):
        containers.archive(old.container, NAME, old.etag, "kept")
    assert not is_there(settings, settings.archive_container, "kept.jsonl")


def test_keeping_it_twice_leaves_the_copy_as_it_is(containers: Blobs, settings: Settings) -> None:
    """A batch that reads it would fail: the service says that its input was modified."""
    drop = dropped(containers, b"the content")
    containers.archive(drop.container, NAME, drop.etag, "kept")
    first = containers.archived("kept")
    containers.archive(drop.container, NAME, drop.etag, "kept")
    containers.drop_client(NAME).delete_blob()
    containers.archive(drop.container, NAME, drop.etag, "kept")
    assert containers.archived("kept") == first
    assert content_of(settings, containers.archive_path("kept")) == b"the content"


def test_taking_a_drop_out_leaves_a_newer_version_alone(containers: Blobs, settings: Settings) -> None:
    old = dropped(containers, b"old")
    new = dropped(containers, b"new")
    containers.delete_from_inbox(old.container, NAME, old.etag)
    assert list(containers.inbox()) == [new]
    containers.delete_from_inbox(new.container, NAME, new.etag)
    assert list(containers.inbox()) == []
    containers.delete_from_inbox(new.container, NAME, new.etag)  # once more: it is out


@pytest.mark.parametrize("held_by", ["snapshot", "lease"])
def test_a_drop_that_somebody_keeps_in_the_inbox_is_left_there(containers: Blobs, held_by: str) -> None:
    """What cannot be deleted must not keep the job from its end, nor have its listeners told again and again."""
    drop = dropped(containers, b"the content")
    client = containers.drop_client(NAME)
    if held_by == "snapshot":
        client.create_snapshot()
    else:
        client.acquire_lease()
    containers.delete_from_inbox(drop.container, NAME, drop.etag)
    assert list(containers.inbox()) == [drop]


def test_nothing_that_is_done_with_a_drop_changes_its_version(containers: Blobs, settings: Settings) -> None:
    drop = dropped(containers, b"the content")
    containers.drop(NAME)
    list(containers.inbox())
    list(containers.read_drop(drop))
    list(containers.read(drop.container, NAME, 1, 2))
    containers.archive(drop.container, NAME, drop.etag, "kept")
    containers.delete_from_inbox(drop.container, NAME, "0x0")
    assert seen(containers) == drop


# Writing


LINE = b"x" * 1023 + b"\n"


def write_lines(containers: Blobs, settings: Settings, count: int) -> str | None:
    return containers.write(settings.output_container, NAME, (LINE for _ in range(count)))


@pytest.mark.parametrize("count", [1, CHUNK_BYTES // len(LINE), CHUNK_BYTES // len(LINE) + 1])
def test_what_is_written_is_there_and_says_what_it_is(containers: Blobs, settings: Settings, count: int) -> None:
    place = write_lines(containers, settings, count)
    assert place == f"{settings.output_container}/{NAME}"
    assert content_of(settings, place) == LINE * count
    blob = BlobClient.from_connection_string(settings.storage or "", settings.output_container, NAME)
    assert blob.get_blob_properties().content_settings.content_type == "application/jsonl"


def test_more_than_three_blocks_are_put_together_in_order(containers: Blobs, settings: Settings) -> None:
    lines = [b"%07d" % number * 1000 + b"\n" for number in range(2_000)]
    place = containers.write(settings.output_container, NAME, lines)
    assert content_of(settings, place or "") == b"".join(lines)
    blob = BlobClient.from_connection_string(settings.storage or "", settings.output_container, NAME)
    committed, uncommitted = blob.get_block_list("all")
    in_a_block = CHUNK_BYTES // len(lines[0]) + 1  # it is sent when it is full
    assert len(committed) == math.ceil(len(lines) / in_a_block) > 3
    assert uncommitted == []


def test_without_a_line_nothing_is_written_and_there_is_no_place(containers: Blobs, settings: Settings) -> None:
    assert write_lines(containers, settings, 0) is None
    assert not is_there(settings, settings.output_container, NAME)


@pytest.mark.parametrize("megabytes", [1, 13])
def test_until_a_writer_is_closed_what_was_there_before_stays_to_be_seen(
    containers: Blobs, settings: Settings, megabytes: int
) -> None:
    place = f"{settings.output_container}/{NAME}"
    with containers.writer(settings.output_container, NAME) as writer:
        writer.write(b"first\n")
        assert not is_there(settings, settings.output_container, NAME)
    assert content_of(settings, place) == b"first\n"
    with containers.writer(settings.output_container, NAME) as writer:
        for _ in range(megabytes * 1024):
            writer.write(LINE)
        assert content_of(settings, place) == b"first\n"
    assert content_of(settings, place) == LINE * megabytes * 1024


@pytest.mark.parametrize("megabytes", [1, 13])
def test_a_writer_that_ends_in_an_error_leaves_what_was_there_and_can_write_again(
    containers: Blobs, settings: Settings, megabytes: int
) -> None:
    def break_off(lines: int) -> Iterator[bytes]:
        yield from [LINE] * lines
        raise TimeoutError

    place = write_lines(containers, settings, 1) or ""
    with pytest.raises(TimeoutError):
        containers.write(settings.output_container, NAME, break_off(megabytes * 1024))
    assert content_of(settings, place) == LINE
    assert write_lines(containers, settings, megabytes * 1024 + 1) == place
    assert content_of(settings, place) == LINE * (megabytes * 1024 + 1)


def test_a_block_that_does_not_arrive_leaves_what_was_there(
    containers: Blobs, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = BlobClient.stage_block

    def lose(blob: BlobClient, block_id: str, *given: Any, **named: Any) -> Any:
        if block_id.endswith("1"):
            raise TimeoutError
        return stage(blob, block_id, *given, **named)

    place = write_lines(containers, settings, 1) or ""
    monkeypatch.setattr(BlobClient, "stage_block", lose)
    with pytest.raises(TimeoutError):  # the last block on its way is waited for before the blob is put together
        write_lines(containers, settings, 2 * CHUNK_BYTES // len(LINE) + 1)
    assert content_of(settings, place) == LINE


# Reports, and deleting


def test_a_report_is_json_that_people_can_read(containers: Blobs, settings: Settings) -> None:
    assert containers.report("sales/monday") is None
    place = containers.write_report("sales/monday", {"status": "succeeded", "name": "größer"})
    assert place == f"{settings.reports_container}/sales/monday.json"
    assert content_of(settings, place).decode() == '{\n  "status": "succeeded",\n  "name": "größer"\n}'
    blob = BlobClient.from_connection_string(settings.storage or "", settings.reports_container, "sales/monday.json")
    assert blob.get_blob_properties().content_settings.content_type == "application/json"
    containers.write_report("sales/monday", {"status": "failed"})
    assert containers.report("sales/monday") == {"status": "failed"}


def test_all_that_a_job_has_in_the_work_container_is_deleted_and_nothing_else(
    containers: Blobs, settings: Settings
) -> None:
    work = settings.work_container
    own = [f"job-1/{name}" for name in ("part-00001-01.jsonl", "part-00001-02.again", "results/a/b")]
    others = ["job-10/part-00001-01.jsonl", "job-1", "job-2/job-1/part-00001-01.jsonl"]
    for name in own + others:
        containers.write(work, name, [LINE])
    containers.write(settings.output_container, own[0], [LINE])
    for _ in range(2):  # what is gone is fine
        containers.clear_work("job-1")
        assert not any(is_there(settings, work, name) for name in own)
        assert all(is_there(settings, work, name) for name in others)
    assert is_there(settings, settings.output_container, own[0])


def test_what_another_has_written_meanwhile_is_left_alone(containers: Blobs, settings: Settings) -> None:
    place = (settings.output_container, NAME)
    assert containers.version(*place) is None
    with containers.writer(*place, over=None) as writer:
        writer.write(LINE)
    version = containers.version(*place)
    assert version == writer.version is not None
    for over, lines in ((None, 1), ("0x0", 1), (None, 2 * CHUNK_BYTES // len(LINE))):
        late = containers.writer(*place, over=over)
        with pytest.raises(BlobChangedError), late:
            for _ in range(lines):
                late.write(LINE)
    containers.remove(*place, version="0x0")
    assert containers.version(*place) == version
    with containers.writer(*place, over=version) as writer:
        writer.write(LINE)
    containers.remove(*place, version=writer.version or "")
    assert containers.version(*place) is None


def test_a_report_goes_over_none_but_the_one_it_is_to_replace(containers: Blobs, settings: Settings) -> None:
    containers.write_report("sales/monday", {"status": "failed"}, None)
    version = containers.version(settings.reports_container, "sales/monday.json")
    for over in (None, "0x0"):
        with pytest.raises(BlobChangedError):
            containers.write_report("sales/monday", {"status": "succeeded"}, over)
    containers.write_report("sales/monday", {"status": "succeeded"}, version)
    assert containers.report("sales/monday") == {"status": "succeeded"}
