"""What a batch service answers, and its errors, one class for each way to react. Pure."""

from datetime import datetime, timedelta
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

CLOCK_SKEW = timedelta(minutes=10)
"""How far the service's clock may be off ours when we look for a batch by its time."""

OUTCOME_UNKNOWN = "outcome_unknown"
"""Our own code: the lines may have been sent, and the service did not tell the outcome."""

SERVICE_UNREACHABLE = "service_unreachable"
"""Our own code: the lines were not sent, because the service refused every request for too long."""

VANISHED = "vanished"
"""Our own status: the service has shown twice that it does not have the batch, so its lines are sent again."""

UNREACHABLE = "unreachable"
"""Our own status: the service could not be asked for the batch for too long, so its lines end unanswered."""


class ServiceError(msgspec.Struct, frozen=True):
    """One entry of a failed batch's `errors.data`, or why a batch could not be created."""

    code: str
    message: str
    line: int | None = None
    """1-based line of the uploaded file."""
    final: bool = False
    """Whether the lines must not be sent again, whatever the code says."""


class ServiceBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as the service describes it, in the documented words (see azure_openai/wire.py)."""

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
    """0 where the service gives no counts."""
    completed: int = 0
    failed: int = 0
    errors: tuple[ServiceError, ...] = ()
    metadata: dict[str, str] = {}
    created_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def terminal(self) -> bool:
        """Whether the service is done with it. Source: how-to, "Track batch job progress"."""
        return self.status in {"completed", "failed", "expired", "cancelled"}

    @property
    def running(self) -> bool:
        """Whether the service may run more lines of it, and was not asked to stop."""
        return not self.terminal and self.status != "cancelling"

    @property
    def anonymous(self) -> bool:
        """Whether nothing is told of whose it is: neither its metadata nor its input."""
        return not (self.metadata or self.input_file_id or self.input_blob)

    @property
    def lacks_results(self) -> bool:
        """Whether it has ended without naming results that it must or may have: they may be named later."""
        output, errors = self.output_file_id or self.output_blob, self.error_file_id or self.error_blob
        if (self.completed and not output) or (self.failed and not errors):
            return True
        if output or errors:
            return False
        if self.status == "failed":  # before any line was run, which its errors then say
            return not self.errors and not self.total
        return self.status == "completed" or (self.terminal and not self.total)

    @property
    def refused(self) -> bool:
        """Whether it failed for a reason that may pass, before any line of it was run."""
        return self.refused_for_quota or self.refused_for_access

    def _failed_unrun(self, code: str) -> bool:
        return self.status == "failed" and not self.completed and any(error.code == code for error in self.errors)

    @property
    def refused_for_quota(self) -> bool:
        """Whether it failed only because the deployment's enqueued tokens had no room: no line of it was run."""
        return self._failed_unrun(TOKEN_LIMIT)

    @property
    def refused_for_access(self) -> bool:
        """Whether it failed because the service may not read its input blob: the role may not be there yet."""
        return self._failed_unrun(NO_PERMISSIONS)


def failed_for_good(errors: tuple[ServiceError, ...]) -> bool:
    """Return whether the lines must not be sent again: they would meet the same errors, or may have been run."""
    return any(error.final or error.code in PERMANENT_FAILURES for error in errors)


def blames_no_line(errors: tuple[ServiceError, ...]) -> bool:
    """Return whether a part ended because of the service alone: to send its lines one by one would not help."""
    return any(error.code in {OUTCOME_UNKNOWN, SERVICE_UNREACHABLE} for error in errors)


class ServiceCallError(Exception):
    """A call to the service did not succeed; each subclass says what may be done next."""


class TransientServiceError(ServiceCallError):
    """The service did not do what was asked, and may do it later: 429, 5xx, no connection, an unreadable answer."""

    def __init__(self, sentence: str, *, retry_after: float | None = None, outcome_unknown: bool = False) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after
        """Seconds, where the service named them."""
        self.outcome_unknown = outcome_unknown
        """It may have been done all the same."""


class EnvironmentServiceError(TransientServiceError):
    """A refusal that any file would get: 401, 403, or 404 and 405 of a route. A user has to correct something."""


class CreateOutcomeUnknownError(ServiceCallError):
    """A create got no answer, or none that tells whether a batch was made: look for it before creating again."""


class PermanentServiceError(ServiceCallError):
    """The service refuses this very request."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.error = error


class TokenLimitError(ServiceCallError):
    """The deployment's enqueued tokens have no room for this batch now."""


class FileQuotaError(ServiceCallError):
    """The resource holds as many files as it may; delete some, or wait for some to expire."""


class NotFoundError(ServiceCallError):
    """The service answers 404 for one id. Alone, that does not prove that it does not have the thing."""


class Enqueued(NamedTuple):
    """What a create tells of a deployment's quota; None for what it does not tell.

    Source: REST specification 2025-04-01-preview, response headers of create.
    """

    tokens: int | None
    limit: int | None
