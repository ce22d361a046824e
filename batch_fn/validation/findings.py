"""Every finding code, a finding, and the findings of a drop."""

from collections.abc import Iterator
from enum import StrEnum
from typing import IO

import msgspec

DROP_GONE = "drop_gone"
"""Our own code: the version of the drop was overwritten or deleted before all of it was read."""

INPUT_GONE = "input_gone"
"""Our own code: the copy of the lines, in the archive or the work container, was deleted while the job was running."""

REPORTED_FINDINGS = 100
"""The report holds the first findings; the errors blob holds all of them."""

INVALID_GZIP = "invalid_gzip"
"""Our own code: the drop is gzip, and damaged, truncated or too large when it is unpacked."""

NOT_PROCESSED = "not_processed"
"""Our own code: the app could not do its work, though nothing is known to be wrong with the file."""


class Code(StrEnum):
    """Why a line or a drop was rejected: the service's own codes ("Error codes" in Azure's how-to for batch)."""

    INVALID_JSON_LINE = "invalid_json_line"
    TOO_MANY_TASKS = "too_many_tasks"
    URL_MISMATCH = "url_mismatch"
    DUPLICATE_CUSTOM_ID = "duplicate_custom_id"
    EMPTY_FILE = "empty_file"
    MODEL_MISMATCH = "model_mismatch"
    INVALID_REQUEST = "invalid_request"


class Finding(msgspec.Struct, frozen=True):
    """One reason why a drop was rejected.

    `line` is the physical line of the drop, from 1. `message` says what to change. Of the drop's own text it holds only
    names (custom_id, model, url, keys), cut to 100 characters. `custom_id` is cut as well, and None if it is not valid.
    """

    line: int
    code: str
    message: str
    custom_id: str | None = None


class Findings:
    """All findings of a drop on disk, the first of them and their number in memory."""

    def __init__(self, spool: IO[bytes]) -> None:
        self.count = 0
        self.first: list[Finding] = []
        self._spool = spool

    def add(self, finding: Finding) -> None:
        """Keep one more."""
        self.count += 1
        if len(self.first) < REPORTED_FINDINGS:
            self.first.append(finding)
        self._spool.write(msgspec.json.encode(finding) + b"\n")

    def replace_by(self, finding: Finding) -> None:
        """Forget those found so far: this one says it all."""
        self._spool.seek(0)
        self._spool.truncate()
        self.count, self.first = 0, []
        self.add(finding)

    def lines(self) -> Iterator[bytes]:
        """Yield every finding as a line of the errors blob."""
        self._spool.seek(0)
        yield from self._spool
