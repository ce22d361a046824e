"""What must never cost a file its bytes, on Azurite: a failed copy, a missing container, two writers of one blob."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.storage.blob import (
    AccountSasPermissions,
    BlobServiceClient,
    ContentSettings,
    ResourceTypes,
    generate_account_sas,
)

from batch_fn.app import App
from batch_fn.core.jobs import InputRange
from batch_fn.settings import Settings
from batch_fn.storage.blob_streams import CHUNK_BYTES, BlobChangedError
from batch_fn.storage.blobs import Blobs
from batch_fn.storage.drops import Drop, DropGoneError
from batch_fn.storage.environment import describe, is_environmental
from batch_fn.storage.part_lines import input_blob_of
from devkit.azurite import Azurite
from devkit.stack import provision
from tests.conftest import a_part

NAME = "sales/monday.jsonl"
LINE = b"x" * 1023 + b"\n"
OTHER = b"y" * 1023 + b"\n"
MANY = 2 * CHUNK_BYTES // len(LINE) + 1


@pytest.fixture
def blobs(azurite: Azurite, settings: Settings) -> Blobs:
    provision(azurite.connection_string, settings)
    return App(settings).blobs


@pytest.fixture
def service(settings: Settings) -> BlobServiceClient:
    return BlobServiceClient.from_connection_string(settings.storage or "")


def dropped(blobs: Blobs, content: bytes = b"the content", name: str = NAME) -> Drop:
    blobs.drop_client(name).upload_blob(content, overwrite=True)
    drop = blobs.drop(name)
    assert drop is not None
    return drop


def with_rights(settings: Settings, **rights: bool) -> Blobs:
    """The same containers, for an identity with these rights only."""
    account = dict(part.split("=", 1) for part in (settings.storage or "").split(";") if part)
    token = generate_account_sas(
        account["AccountName"],
        account["AccountKey"],
        ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions(**rights),
        datetime.now(UTC) + timedelta(hours=1),
    )
    return Blobs(BlobServiceClient(account["BlobEndpoint"], token), settings)


# A copy to the archive that fails


def test_a_missing_archive_container_is_made_again(
    blobs: Blobs, service: BlobServiceClient, settings: Settings
) -> None:
    drop = dropped(blobs)
    service.delete_container(settings.archive_container)
    blobs.archive(drop.container, NAME, drop.etag, "kept")
    assert blobs.archived("kept").bytes == drop.bytes


def _no_right(_blobs: Blobs, settings: Settings) -> Blobs:
    return with_rights(settings, read=True, list=True, delete=True)


def _archive_tier(blobs: Blobs, settings: Settings) -> Blobs:
    blobs.drop_client(NAME).set_standard_blob_tier("Archive")
    return blobs


@pytest.mark.parametrize("trouble", [_no_right, _archive_tier])
def test_a_failed_copy_of_a_drop_that_is_there_is_no_reason_to_call_it_gone(
    blobs: Blobs, settings: Settings, trouble: Callable[[Blobs, Settings], Blobs]
) -> None:
    drop = dropped(blobs)
    with pytest.raises(HttpResponseError) as raised:
        trouble(blobs, settings).archive(drop.container, NAME, drop.etag, "kept")
    assert is_environmental(raised.value)
    assert blobs.drop(NAME) == drop


def test_a_drop_in_the_archive_tier_is_not_gone_when_it_is_read(blobs: Blobs) -> None:
    drop = dropped(blobs)
    blobs.drop_client(NAME).set_standard_blob_tier("Archive")
    with pytest.raises(HttpResponseError) as raised:
        list(blobs.read_drop(drop))
    assert is_environmental(raised.value)
    assert "archive tier" in describe(raised.value)


def test_a_missing_inbox_container_does_not_say_that_a_drop_is_gone(
    blobs: Blobs, service: BlobServiceClient, settings: Settings
) -> None:
    drop = dropped(blobs)
    service.delete_container(settings.input_container)
    for look in (
        lambda: blobs.drop(NAME),
        lambda: list(blobs.read_drop(drop)),
        lambda: blobs.archive(drop.container, NAME, drop.etag, "kept"),
    ):
        with pytest.raises(HttpResponseError) as raised:
            look()
        assert is_environmental(raised.value)
    assert list(blobs.inbox()) == []  # it is made again
    assert service.get_container_client(settings.input_container).exists()


def test_a_drop_that_is_gone_or_changed_is_called_gone(blobs: Blobs) -> None:
    old = dropped(blobs)
    dropped(blobs, b"new")
    for path in ("changed", "deleted"):
        with pytest.raises(DropGoneError):
            blobs.archive(old.container, NAME, old.etag, path)
        with pytest.raises(DropGoneError):
            list(blobs.read_drop(old))
        if path == "changed":
            blobs.drop_client(NAME).delete_blob()


# Deleting from the inbox


def _nothing(_service: BlobServiceClient, _settings: Settings) -> None:
    pass


def _shorter(service: BlobServiceClient, settings: Settings) -> None:
    service.get_blob_client(settings.archive_container, "kept.jsonl").upload_blob(b"the conte")


def _no_container(service: BlobServiceClient, settings: Settings) -> None:
    service.delete_container(settings.archive_container)


@pytest.mark.parametrize("archive", [_nothing, _shorter, _no_container])
def test_a_drop_whose_bytes_are_not_in_the_archive_stays_in_the_inbox(
    blobs: Blobs,
    service: BlobServiceClient,
    settings: Settings,
    archive: Callable[[BlobServiceClient, Settings], None],
) -> None:
    drop = dropped(blobs)
    archive(service, settings)
    blobs.delete_from_inbox(drop.container, NAME, drop.etag, "kept", drop.bytes)
    assert blobs.drop(NAME) == drop


def test_a_drop_is_deleted_where_the_archive_has_its_bytes(blobs: Blobs) -> None:
    for compressed in (False, True):
        drop = dropped(blobs)
        blobs.archive(drop.container, NAME, drop.etag, f"kept-{compressed}", gzip=compressed)
        blobs.delete_from_inbox(drop.container, NAME, drop.etag, f"kept-{compressed}", drop.bytes)
        assert blobs.drop(NAME) is None


def test_a_drop_that_may_not_be_deleted_stays_and_is_no_error(blobs: Blobs, settings: Settings) -> None:
    drop = dropped(blobs)
    blobs.archive(drop.container, NAME, drop.etag, "kept")
    reader = with_rights(settings, read=True, list=True)
    reader.delete_from_inbox(drop.container, NAME, drop.etag, "kept", drop.bytes)
    assert blobs.drop(NAME) == drop


# Two writers of one blob


def test_the_blocks_of_a_writer_that_was_overtaken_are_never_in_the_blob_of_the_other(
    blobs: Blobs, settings: Settings
) -> None:
    """Both staged their blocks under the same ids: the later block was committed by whoever came first."""
    first, second = (blobs.writer(settings.output_container, NAME, over=None) for _ in range(2))
    with pytest.raises(BlobChangedError), second:
        with first:
            for _ in range(MANY):
                first.write(LINE)
            for _ in range(MANY):
                second.write(OTHER)
            while second._on_their_way:  # all of it is staged before the other commits
                second._on_their_way.popleft().result()
        second.write(OTHER)
    assert b"".join(blobs.read(settings.output_container, NAME)) == LINE * MANY


def test_a_writer_whose_blocks_were_discarded_by_another_commit_was_overtaken(blobs: Blobs, settings: Settings) -> None:
    late = blobs.writer(settings.output_container, NAME)
    with pytest.raises(BlobChangedError), late:
        for _ in range(MANY):
            late.write(OTHER)
        with blobs.writer(settings.output_container, NAME) as other:
            for _ in range(MANY):
                other.write(LINE)
    assert b"".join(blobs.read(settings.output_container, NAME)) == LINE * MANY


@pytest.mark.parametrize("lines", [1, MANY])
def test_a_missing_container_is_made_again_by_a_writer(
    blobs: Blobs, service: BlobServiceClient, settings: Settings, lines: int
) -> None:
    service.delete_container(settings.work_container)
    blobs.write(settings.work_container, NAME, [LINE] * lines)
    assert b"".join(blobs.read(settings.work_container, NAME)) == LINE * lines


def test_a_missing_container_is_made_again_for_a_report(
    blobs: Blobs, service: BlobServiceClient, settings: Settings
) -> None:
    service.delete_container(settings.reports_container)
    blobs.write_report("kept", {"status": "rejected"})
    assert blobs.report("kept") == {"status": "rejected"}


# Content-Encoding


def test_what_a_blob_says_of_its_encoding_does_not_change_what_is_read(blobs: Blobs, settings: Settings) -> None:
    """The SDK unpacked each range of it: offsets did not match, and 600 KB took 1.2 GB."""
    content = gzip.compress(LINE * 10_000) + bytes(CHUNK_BYTES)  # more than one chunk
    blobs.drop_client(NAME).upload_blob(content, content_settings=ContentSettings(content_encoding="gzip"))
    drop = blobs.drop(NAME)
    assert drop is not None
    assert b"".join(blobs.read_drop(drop)) == content
    blobs.archive(drop.container, NAME, drop.etag, "kept", gzip=True)
    assert b"".join(blobs.read(settings.archive_container, "kept.jsonl.gz")) == content
    blobs.drop_client(NAME).upload_blob(
        b"plain", overwrite=True, content_settings=ContentSettings(content_encoding="gzip")
    )
    plain = blobs.drop(NAME)
    assert plain is not None
    assert b"".join(blobs.read_drop(plain)) == b"plain"


# What is no file's fault


def test_what_would_be_the_same_for_another_file_is_the_environment(azurite: Azurite, settings: Settings) -> None:
    provision(azurite.connection_string, settings)
    nowhere = replace(settings, storage=settings.storage and settings.storage.replace("AccountKey=", "AccountKey=AAAA"))
    with pytest.raises(HttpResponseError) as raised:
        App(nowhere).blobs.drop(NAME)
    assert is_environmental(raised.value)
    assert is_environmental(OSError(28, "No space left on device"))
    assert is_environmental(MemoryError())
    assert is_environmental(ResourceExistsError("409"))
    assert not is_environmental(ValueError("ours"))
    assert not is_environmental(ExceptionGroup("some", [OSError(), KeyError()]))


# The input blob of a batch that runs


def test_the_input_blob_of_a_running_batch_is_never_written_again(
    blobs: Blobs, service: BlobServiceClient, settings: Settings
) -> None:
    """An instance that was overtaken wrote the same bytes again, and the service failed the batch: input_modified."""
    dropped(blobs, b'{"custom_id": "a", "body": {}}\n')
    part = a_part(source=InputRange(container=settings.input_container, name=NAME))
    url = input_blob_of(blobs, part, settings)
    place = (settings.work_container, f"{part.work_path}.jsonl")
    assert url == blobs.url(*place)
    version = blobs.version(*place)
    assert input_blob_of(blobs, part, settings) == url
    assert blobs.version(*place) == version
    with pytest.raises(BlobChangedError):  # nor by one that had looked before the other wrote
        blobs.write(*place, [b"late\n"], over=None)
    assert blobs.version(*place) == version
    assert service.get_blob_client(*place).exists()
