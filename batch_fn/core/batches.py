"""What any batch service answers, and its errors, told apart by what may be done next. Pure."""

from datetime import datetime
from typing import NamedTuple

import msgspec

BATCH_STATUSES = frozenset(
    {"validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"}
)
"""Source: how-to, "Track batch job progress"."""

TOKEN_LIMIT = "token_limit_exceeded"  # noqa: S105 - the service's word, no secret

NO_PERMISSIONS = "input_no_permissions"

REQUEST_TOO_LARGE = "request_too_large"
"""Our own code: a single request needs more tokens than its deployment accepts at all."""

PERMANENT_FAILURES = frozenset(
    {
        "invalid_json_line",
        "too_many_tasks",
        "url_mismatch",
        "model_not_found",
        "duplicate_custom_id",
        "empty_file",
        "empty_batch",
        "model_mismatch",
        "invalid_request",
    }
)
"""Codes of a failed batch that the same lines would meet again. Source: how-to, "Error codes"."""


class ServiceError(msgspec.Struct, frozen=True):
    """One entry of a failed batch's `errors.data`, or why a batch could not be created."""

    code: str
    message: str
    line: int | None = None
    """1-based line of the uploaded file."""


class ServiceBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as the service describes it, made plain (see openai_batches.py)."""

    id: str
    status: str
    """In lower case, as documented; an unknown one counts as still running."""
    input_file_id: str = ""
    output_file_id: str = ""
    error_file_id: str = ""
    input_blob: str = ""
    output_blob: str = ""
    error_blob: str = ""
    endpoint: str = ""
    total: int = 0
    completed: int = 0
    failed: int = 0
    errors: tuple[ServiceError, ...] = ()
    metadata: dict[str, str] = {}
    created_at: datetime
    finished_at: datetime | None = None

    @property
    def terminal(self) -> bool:
        """Whether the service is done with it. Source: how-to, "Track batch job progress"."""
        return self.status in {"completed", "failed", "expired", "cancelled"}

    @property
    def lacks_output_file(self) -> bool:
        """Whether lines were answered, and where the answers are is not said."""
        return self.completed > 0 and not self.output_file_id and not self.output_blob

    @property
    def refused_for_quota(self) -> bool:
        """Whether it failed only because the deployment's enqueued tokens had no room: no line of it was run."""
        return self.status == "failed" and any(error.code == TOKEN_LIMIT for error in self.errors)

    @property
    def refused_for_access(self) -> bool:
        """Whether it failed because the service may not read its input blob: the role may not be there yet."""
        return self.status == "failed" and any(error.code == NO_PERMISSIONS for error in self.errors)


def failed_for_good(errors: tuple[ServiceError, ...]) -> bool:
    """Return whether sending the same lines again would meet the same errors."""
    return any(error.code in PERMANENT_FAILURES or error.code == REQUEST_TOO_LARGE for error in errors)


class TransientServiceError(Exception):
    """The service did not do what was asked, and may do it later: 429, 5xx, no connection, no access yet."""

    def __init__(self, sentence: str, *, retry_after: float | None = None, outcome_unknown: bool = False) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after
        """Seconds, where the service named them."""
        self.outcome_unknown = outcome_unknown
        """It may have been done all the same."""


class CreateOutcomeUnknownError(Exception):
    """A create got no answer, or none that tells whether a batch was made: look for it before creating again."""


class PermanentServiceError(Exception):
    """The service will never take this: the request itself is wrong."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.error = error


class TokenLimitError(Exception):
    """The deployment's enqueued tokens have no room for this batch now."""


class FileQuotaError(Exception):
    """The resource holds as many files as it may; delete some, or wait for some to expire."""


class NotFoundError(Exception):
    """The service does not know a file any more."""


class Enqueued(NamedTuple):
    """What a create tells of a deployment's quota; None for what it does not tell.

    Source: REST specification 2025-04-01-preview, response headers of create.
    """

    tokens: int | None
    limit: int | None
