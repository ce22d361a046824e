"""The codes of findings, a finding, and the findings of a drop."""

from collections.abc import Iterator
from enum import StrEnum
from typing import IO

import msgspec

REPORTED_FINDINGS = 100
"""The number of findings in the report; the errors blob holds all of them."""

DROP_GONE = "drop_gone"
"""Our own code: the version of the drop was overwritten or deleted before all of it was read."""

INPUT_GONE = "input_gone"
"""Our own code: the copy of the lines, in the archive or the work container, was deleted while the job was running."""

INVALID_GZIP = "invalid_gzip"
"""Our own code: the drop is gzip, and damaged, truncated or too large when it is unpacked."""

NOT_PROCESSED = "not_processed"
"""Our own code: the app could not do its work, though no problem of the file is known."""

TOO_MANY_FINDINGS = "too_many_findings"
"""Our own code: the last of MAX_FINDINGS findings and one; the lines after it were not checked."""

TOO_MANY_DEPLOYMENTS = "too_many_deployments"
"""Our own code: the drop names more than MAX_DEPLOYMENTS deployments."""


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

    `line` is the physical line of the drop, from 1. `message` says what to change. The only text of the drop in it are
    names (custom_id, model, url, keys), cut to 100 characters. `custom_id` is cut too, and None if it is not valid.
    """

    line: int
    code: str
    message: str
    custom_id: str | None = None


class Findings:
    """The findings of a drop: all of them on disk, the first ones and their number in memory."""

    def __init__(self, spool: IO[bytes]) -> None:
        self.count = 0
        self.first: list[Finding] = []
        self._spool = spool

    def add(self, finding: Finding) -> None:
        """Add one."""
        self.count += 1
        if len(self.first) < REPORTED_FINDINGS:
            self.first.append(finding)
        self._spool.write(msgspec.json.encode(finding) + b"\n")

    def replace_by(self, finding: Finding) -> None:
        """Drop the findings so far and keep only this one."""
        self._spool.seek(0)
        self._spool.truncate()
        self.count, self.first = 0, []
        self.add(finding)

    def lines(self) -> Iterator[bytes]:
        """Yield every finding as a line of the errors blob."""
        self._spool.seek(0)
        yield from self._spool
