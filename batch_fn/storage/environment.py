"""Error classification: what the environment causes, and what only this one file can have caused."""

from http import HTTPStatus

from batch_fn.core.batches import (
    CreateOutcomeUnknownError,
    FileQuotaError,
    TokenLimitError,
    TransientServiceError,
)
from batch_fn.storage.blob_streams import BlobChangedError, error_code, says_blob_is_missing
from batch_fn.storage.rows import ConflictError

REQUEST_IS_WRONG = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.LENGTH_REQUIRED,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.REQUEST_URI_TOO_LONG,
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    }
)
"""Statuses that blame the request itself: another file's request may be fine."""

ARCHIVED = "BlobArchived"


def is_environmental(error: BaseException) -> bool:
    """Return whether another file would meet the same error: storage, the service, an identity, memory or the disk.

    Another instance at the same work counts as environment, too: nothing is wrong with the file.
    """
    from azure.core.exceptions import AzureError, HttpResponseError

    if isinstance(error, BaseExceptionGroup):
        return all(map(is_environmental, error.exceptions))
    if isinstance(error, HttpResponseError):
        return not (_blames_the_request(error) or says_blob_is_missing(error))
    return isinstance(
        error,
        AzureError
        | TransientServiceError
        | CreateOutcomeUnknownError
        | TokenLimitError
        | FileQuotaError
        | OSError
        | MemoryError
        | ConflictError
        | BlobChangedError,
    )


def describe(error: BaseException) -> str:
    """Return a sentence about an error that may be shown to users: no address, no key, no content."""
    from azure.core.exceptions import AzureError, HttpResponseError

    kind = type(error).__name__
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        code = error_code(error)
        if code == ARCHIVED:
            return "The blob is in the archive tier and cannot be read. Move it to the hot, cool or cold tier."
        return f"Azure Storage answered {' '.join(filter(None, (str(error.status_code), code)))}."
    if isinstance(error, AzureError):
        return f"Azure Storage or its sign-in does not answer ({kind})."
    if isinstance(error, OSError) and error.strerror:
        return f"The operating system reports: {error.strerror}."
    return f"The app failed with {kind}."


def _blames_the_request(error: BaseException) -> bool:
    return getattr(error, "status_code", None) in REQUEST_IS_WRONG and "authentication" not in error_code(error).lower()
