"""The service's JSON and the SDK's errors, translated into ours."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from batch_fn.core.batches import (
    PERMANENT_FAILURES,
    TOKEN_LIMIT,
    Enqueued,
    EnvironmentServiceError,
    FileQuotaError,
    NotFoundError,
    PermanentServiceError,
    ServiceBatch,
    ServiceError,
    TokenLimitError,
    TransientServiceError,
)

MESSAGE_CHARACTERS = 500
KEPT_ERRORS = 20
MAX_DIGITS = 18
"""A longer number is no number of ours."""

MAX_RETRY_AFTER_SECONDS = 3_600.0
"""A longer Retry-After is cut: the next try costs one call, and the work may wait for nothing."""

REFUSED_WITH_404 = PERMANENT_FAILURES | {"DeploymentNotFound"}
"""Codes that make a 404 a refusal of this request; any other 404 says that the route is wrong."""

CHECK_ENDPOINT = "check AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_API_VERSION"


class UnreadableBatchError(ValueError):
    """What should describe a batch does not even name its id."""


def read_batch(body: object) -> ServiceBatch:
    """Return a batch as the service's JSON describes it, in the documented words.

    Seen: `Completed` and `InProgress` for the documented lower case, "canceled", ISO times with seven fractional
    digits for unix integers, "" for a missing file id, null counts, and errors' lines as strings. A field that is
    missing, null or of another type counts as not told.

    Raises:
        UnreadableBatchError: if there is no id.
    """
    if not isinstance(body, dict) or not _text(body.get("id")):
        raise UnreadableBatchError("The service describes a batch without an id.")
    total, completed, failed = _counts(body.get("request_counts"))
    metadata = body.get("metadata")
    ended = (_time(body.get(name)) for name in ("completed_at", "failed_at", "expired_at", "cancelled_at"))
    return ServiceBatch(
        id=body["id"],
        status=_status(_text(body.get("status"))),
        input_file_id=_text(body.get("input_file_id")),
        output_file_id=_text(body.get("output_file_id")),
        error_file_id=_text(body.get("error_file_id")),
        input_blob=_text(body.get("input_blob")),
        output_blob=_text(body.get("output_blob")),
        error_blob=_text(body.get("error_blob")),
        endpoint=_text(body.get("endpoint")),
        total=total,
        completed=completed,
        failed=failed,
        errors=_errors(body.get("errors")),
        metadata={name: value for name, value in metadata.items() if isinstance(name, str) and isinstance(value, str)}
        if isinstance(metadata, dict)
        else {},
        created_at=_time(body.get("created_at")),
        finished_at=next((time for time in ended if time is not None), None),
    )


def _text(given: object) -> str:
    return given if isinstance(given, str) else ""


def _counts(given: object) -> tuple[int, int, int]:
    """Return total, completed and failed, 0 for each that is not told.

    Where completed is not told, none is: beside a total it would say that no request was answered.
    """
    counts = given if isinstance(given, dict) else {}
    total, completed, failed = (_number(counts.get(name)) for name in ("total", "completed", "failed"))
    return (0, 0, 0) if completed is None else (total or 0, completed, failed or 0)


def _number(given: object) -> int | None:
    """Return a whole number of at least 0, given as one or as its digits; None for anything else."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given if 0 <= given < 10**MAX_DIGITS else None
    digits = _text(given)
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= MAX_DIGITS else None


def _status(given: str) -> str:
    status = given.lower()
    return {"canceled": "cancelled", "canceling": "cancelling", "inprogress": "in_progress"}.get(status, status)


def _time(given: object) -> datetime | None:
    """Return the time, given as unix seconds or in ISO 8601; None for 0, and for what is no time."""
    try:
        if isinstance(given, int | float) and not isinstance(given, bool):
            return datetime.fromtimestamp(given, UTC) if given else None
        time = datetime.fromisoformat(_text(given))
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _errors(given: object) -> tuple[ServiceError, ...]:
    entries = given.get("data") if isinstance(given, dict) and "data" in given else given
    entries = entries if isinstance(entries, list) else [entries]
    return tuple(_error(entry) for entry in entries[:KEPT_ERRORS] if entry)


def _error(entry: object) -> ServiceError:
    told: dict[str, Any] = entry if isinstance(entry, dict) else {"message": entry}
    return ServiceError(
        code=str(told.get("code") or "unknown")[:MESSAGE_CHARACTERS],
        message=str(told.get("message") or "")[:MESSAGE_CHARACTERS],
        line=_number(told.get("line")) or None,
    )


def read_enqueued(headers: Mapping[str, str]) -> Enqueued:
    """Return what the headers of a create say of the quota."""
    return Enqueued(
        _number(headers.get("deployment-enqueued-tokens")), _number(headers.get("deployment-maximum-enqueued-tokens"))
    )


@contextlib.contextmanager
def translate_sdk_errors(*, by_id: bool = False) -> Iterator[None]:
    """Turn the SDK's errors into ours, told apart by what may be done next.

    Only where the call is for one thing `by_id` may a 404 mean that the thing is not there; else the route is not.
    """
    import httpx2
    from openai import APIConnectionError, APIStatusError, OpenAIError

    try:
        yield
    except APIConnectionError as error:
        reached = not isinstance(error.__cause__, httpx2.ConnectError)
        raise TransientServiceError(f"no answer from the service: {error}", outcome_unknown=reached) from error
    except httpx2.HTTPError as error:  # while a body was streamed
        raise TransientServiceError(f"the connection to the service broke: {error}", outcome_unknown=True) from error
    except APIStatusError as error:
        raise _status_error(error.status_code, error.response.headers, error.body, by_id=by_id) from error
    except OpenAIError as error:  # no credential, for instance
        raise TransientServiceError(str(error)) from error


def _status_error(status: int, headers: Mapping[str, str], body: object, *, by_id: bool) -> Exception:
    said = body if isinstance(body, dict) else {}
    error = _error({"code": said.get("code") or status, "message": said.get("message")})
    if error.code == TOKEN_LIMIT:
        return TokenLimitError(error.message)
    if error.code == "quotaExceeded":
        return FileQuotaError(error.message)
    code = "" if error.code == str(status) else f" {error.code}"
    sentence = f"HTTP {status}{code}: {error.message}"
    if status == 404 and by_id:
        return NotFoundError(sentence)
    if status == 405 or (status == 404 and error.code not in REFUSED_WITH_404):
        return EnvironmentServiceError(f"no such endpoint; {CHECK_ENDPOINT}: {sentence}")
    if status in {401, 403}:
        return EnvironmentServiceError(sentence, retry_after=_retry_after(headers))
    outcome_unknown = status < 400 or status == 408 or status >= 500
    if outcome_unknown or status in {409, 425, 429}:
        return TransientServiceError(sentence, retry_after=_retry_after(headers), outcome_unknown=outcome_unknown)
    return PermanentServiceError(error)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the service asks us to wait; None for a date, since our own wait serves."""
    for name, each in (("retry-after-ms", 1_000), ("retry-after", 1)):
        try:
            seconds = float(headers[name]) / each
        except (KeyError, ValueError):
            continue
        if not math.isnan(seconds) and seconds > 0:
            return min(seconds, MAX_RETRY_AFTER_SECONDS)
    return None
