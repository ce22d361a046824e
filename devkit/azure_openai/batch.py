"""What a batch is: what it was created with, and how far it has come."""

import asyncio
import time
from pathlib import Path

import msgspec

from devkit.azure_openai.blobs import check_url
from devkit.azure_openai.errors import invalid
from devkit.azure_openai.files import Expiry
from devkit.azure_openai.lines import Finding, Inspection
from devkit.azure_openai.options import Options, Status

TERMINAL: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})


class OutputFolder(msgspec.Struct):
    """Where results shall be written: the URL of a container, or of a folder in it."""

    url: str


class NewBatch(msgspec.Struct, kw_only=True):
    """The body of create. With `input_blob` it is hosted in blobs, else in files."""

    input_file_id: str | None = None
    endpoint: str | None = None
    completion_window: str | None = None
    metadata: dict[str, str] | None = None
    output_expires_after: Expiry | None = None
    input_blob: str | None = None
    output_folder: OutputFolder | None = None

    @property
    def output_url(self) -> str:
        """The URL of the output folder, with no slash at its end; empty without one."""
        return self.output_folder.url.rstrip("/") if self.output_folder else ""

    def check(self, options: Options) -> None:
        """Raise HTTP 400 for the first member that is missing or out of its range."""
        if self.input_blob:
            self._check_blobs(self.input_blob)
        elif self.output_folder:
            raise invalid("Must come with input_blob.", "output_folder")
        elif not self.input_file_id:
            raise invalid("Required, unless there is input_blob.", "input_file_id")
        if self.endpoint not in options.endpoints:
            raise invalid(f"Must be one of {', '.join(options.endpoints)}.", "endpoint")
        if not self.completion_window:
            raise invalid("Required.", "completion_window")
        metadata = self.metadata or {}
        # 16 pairs, keys of 64 and values of 512 characters; source: reference, section Create.
        if len(metadata) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in metadata.items()):
            raise invalid("At most 16 pairs, keys of 64 characters, values of 512 characters.", "metadata")
        if self.output_expires_after:
            self.output_expires_after.check("output_expires_after")

    def _check_blobs(self, input_blob: str) -> None:
        if self.input_file_id:
            raise invalid("Must be null if there is input_blob.", "input_file_id")
        if not self.output_folder:
            raise invalid("Required if there is input_blob.", "output_folder")
        if self.metadata:
            # Source: reference, section Create. Nothing is said of an empty object, which so is taken.
            raise invalid("Not supported if there is input_blob.", "metadata")
        check_url(input_blob, "input_blob")
        check_url(self.output_folder.url, "output_folder.url")


class Batch(msgspec.Struct, kw_only=True, eq=False):
    """One batch. `created_at` and `times` are real time, in seconds since 1970."""

    id: str
    request: NewBatch
    folder: Path
    created_at: float
    status: Status = "validating"
    times: dict[str, float] = {}
    errors: list[Finding] = []
    deployment: str | None = None
    tokens: int = 0  # as admitted to the quota; 0 before that, and from the end on
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    input_etag: str | None = None  # of the input blob, as it was when the batch was created
    output_blob: str = ""
    error_blob: str = ""
    inspection: Inspection | None = None  # None before validation, and from the end on
    executed: bytearray = msgspec.field(default_factory=bytearray)  # 1 at the index of a line that was
    task: asyncio.Task[None] | None = None
    ending: bool = False  # its end is decided, and its results are being written

    @property
    def input(self) -> Path:
        """The batch's own link to its input file, which so may be deleted while it runs; or its copy of a blob."""
        return self.folder / f"{self.id}.input"

    @property
    def output(self) -> Path:
        """Answers that are a success, before they become a file of the store, or a blob."""
        return self.folder / f"{self.id}.output"

    @property
    def error_output(self) -> Path:
        """Everything that belongs into the error file, before it becomes a file of the store, or a blob."""
        return self.folder / f"{self.id}.errors"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in TERMINAL

    def move(self, status: Status) -> None:
        """Change the status, and note when."""
        self.status = status
        self.times[f"{status}_at"] = time.time()
