"""The file store: contents on disk, what is known of them in memory."""

import math
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec

from devkit.azure_openai.clock import ServiceClock
from devkit.azure_openai.errors import ApiError, invalid, not_found
from devkit.azure_openai.options import Options

EXPIRY_RANGE = range(1_209_600, 2_592_000 + 1)
"""Seconds that a file may be kept, 14 to 30 days; source: reference, section Files."""


class Expiry(msgspec.Struct):
    """`expires_after` of a file, and `output_expires_after` of a batch."""

    seconds: int
    anchor: str

    def check(self, param: str) -> None:
        """Raise HTTP 400 if a member is out of its range."""
        if self.anchor != "created_at":
            raise invalid("The anchor must be 'created_at'.", f"{param}.anchor")
        if self.seconds not in EXPIRY_RANGE:
            message = f"Must be between {EXPIRY_RANGE.start} and {EXPIRY_RANGE.stop - 1} seconds, is {self.seconds}."
            raise invalid(message, f"{param}.seconds")


class StoredFile(msgspec.Struct, kw_only=True):
    """One file. `created_at` is real time; `processed_from` and `gone_from` are service time."""

    id: str
    filename: str
    purpose: str
    path: Path
    bytes: int
    created_at: int
    processed_from: float
    gone_from: float | None = None
    expires_at: int | None = None


class FileStore:
    """Keeps files in one folder, which it does not make and does not remove."""

    def __init__(self, folder: Path, options: Options, clock: ServiceClock) -> None:
        self._folder = folder
        self._options = options
        self._clock = clock
        self._files: dict[str, StoredFile] = {}
        self._soonest = math.inf  # when the next file vanishes, in service time

    def new_path(self) -> Path:
        """Where the content of a file to be can be written, before `add`."""
        return self._folder / uuid.uuid4().hex

    def check_quota(self, expiry: Expiry | None) -> None:
        """Raise HTTP 400 `quotaExceeded` if one more input file would be too many."""
        self._drop_expired()
        limit = self._options.max_expiring_files if expiry else self._options.max_files
        alike = sum(f.purpose == "batch" and (f.expires_at is not None) == bool(expiry) for f in self._files.values())
        if alike >= limit:
            kind = "with" if expiry else "without"
            message = f"The quota for files {kind} expiry is reached. The maximum is {limit}."
            raise ApiError(400, "quotaExceeded", message)

    def add(self, path: Path, filename: str, purpose: str, expiry: Expiry | None) -> StoredFile:
        """Take over the content at `path`, and return what is now known of it."""
        # The samples show 32 hex digits for an uploaded file, and a dashed uuid for one that the service wrote.
        name = uuid.uuid4().hex if purpose == "batch" else str(uuid.uuid4())
        now, created_at = self._clock.now(), int(time.time())
        file = StoredFile(
            id=f"file-{name}",
            filename=filename,
            purpose=purpose,
            path=path,
            bytes=path.stat().st_size,
            created_at=created_at,
            processed_from=now + self._options.file_processing_seconds if purpose == "batch" else now,
            gone_from=now + expiry.seconds if expiry else None,
            expires_at=created_at + expiry.seconds if expiry else None,
        )
        self._files[file.id] = file
        self._soonest = min(self._soonest, file.gone_from or math.inf)
        return file

    def get(self, file_id: str) -> StoredFile:
        """The file of that id; raises HTTP 404 if there is none, or no more."""
        self._drop_expired()
        if file_id not in self._files:
            raise not_found("file", file_id)
        return self._files[file_id]

    def all(self, purpose: str | None = None) -> list[StoredFile]:
        """Every file (of one purpose), newest first."""
        self._drop_expired()
        return [f for f in reversed(self._files.values()) if purpose in (None, f.purpose)]

    def delete(self, file_id: str) -> None:
        """Forget the file and its content; raises HTTP 404 if there is none."""
        self.get(file_id).path.unlink(missing_ok=True)
        del self._files[file_id]

    def clear(self) -> None:
        """Forget every file."""
        for file in self._files.values():
            file.path.unlink(missing_ok=True)
        self._files.clear()
        self._soonest = math.inf

    def shape(self, file: StoredFile) -> dict[str, Any]:
        """The file as the API shows it."""
        status = "processed" if self._clock.now() >= file.processed_from else "pending"
        shape = {
            "status": None if self._options.has("null_file_status") else status,
            "bytes": file.bytes,
            "purpose": file.purpose,
            "filename": file.filename,
            "id": file.id,
            "created_at": file.created_at,
            "object": "file",
        }
        return shape if file.expires_at is None else shape | {"expires_at": file.expires_at}

    def _drop_expired(self) -> None:
        # Time to live is counted in service time: nobody waits 14 days for a test.
        now = self._clock.now()
        if now < self._soonest:
            return
        for file in [f for f in self._files.values() if f.gone_from is not None and f.gone_from <= now]:
            file.path.unlink(missing_ok=True)
            del self._files[file.id]
        self._soonest = min((f.gone_from for f in self._files.values() if f.gone_from is not None), default=math.inf)
