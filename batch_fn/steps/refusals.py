"""The service does not take a part: whose fault that is decides whether it waits, and for how long.

A refusal that every file would get is the environment's (see trouble.py). A refusal of this very file is final where
its code says that it would be met again. With an unknown code the create is tried again for REFUSAL_SECONDS; a
bundle is dissolved at once, since one bad member is to harm no other.
"""

import re
from datetime import timedelta
from typing import Any

from batch_fn.app import App
from batch_fn.core.batches import (
    CreateOutcomeUnknownError,
    EnvironmentServiceError,
    FileQuotaError,
    PermanentServiceError,
    ServiceCallError,
    TokenLimitError,
    failed_for_good,
)
from batch_fn.core.jobs import Part, Wait
from batch_fn.core.names import FILE_NAME
from batch_fn.runtime import clock, log
from batch_fn.steps import lost_create, part_moves, quota
from batch_fn.steps.trouble import backoff, wait_out
from batch_fn.storage.rows import Stored

REFUSAL_SECONDS = 4 * 3600

FILE_GONE = "file_gone"

SAYS_PENDING = re.compile(r"\bfiles?\b.*\b(pending|processed)\b", re.IGNORECASE | re.DOTALL)
"""Source: reference, "Files": a create refused while its file is pending; the code of that is not documented."""


def meet(app: App, stored: Stored[Part], error: ServiceCallError, *, created: bool, bundle: bool) -> None:
    """Do with a claimed part what the service's refusal calls for. `created`: it is the answer to the part's create.

    Raises:
        ConflictError: if the part has changed since it was read.
    """
    # A create that was answered with a no made nothing; the mark of an earlier one stays until that is settled.
    unmarked: dict[str, Any] = dict(part_moves.NO_CREATE) if created else {}
    if created and isinstance(error, PermanentServiceError | EnvironmentServiceError):
        why = _trouble_with_file(app, stored.row, error)
        if why is not None:
            file_id = "" if why.reason == FILE_GONE else stored.row.file_id
            wait_out(app, stored, why, file_id=file_id, **unmarked)
            return
    match error:
        case CreateOutcomeUnknownError():
            lost_create.begin(app, stored, error)
        case TokenLimitError():
            until = quota.record_refusal(app, stored.row)
            why = Wait(reason="token_limit", message=str(error))
            part_moves.wait(app, stored, until, why, admitted_at=None, trouble_since=None, **unmarked)
        case FileQuotaError():
            why = Wait(reason="file_quota", message=str(error))
            if _delete_finished_files(app):
                part_moves.wait(app, stored, clock.now(), why, **unmarked)
            else:
                wait_out(app, stored, why, **unmarked)
        case PermanentServiceError():
            _refused(app, stored, error, bundle=bundle, **unmarked)
        case _:
            wait_out(app, stored, Wait(reason="service", message=str(error)), error, **unmarked)


def _trouble_with_file(app: App, part: Part, error: ServiceCallError) -> Wait | None:
    """Return why to wait where the uploaded file, which is pending or gone, may be why a create was refused."""
    if part.input_blob:
        return None
    try:
        if SAYS_PENDING.search(str(error)) or app.openai.file_is_pending(part.file_id):
            return Wait(reason="file_pending", message=str(error))
        if app.openai.lacks_file(part.file_id):
            return Wait(reason=FILE_GONE, message=str(error))
    except ServiceCallError:
        return Wait(reason="service", message=str(error))
    return None


def _refused(app: App, stored: Stored[Part], error: PermanentServiceError, *, bundle: bool, **changes: object) -> None:
    since = stored.row.refused_since or clock.now()
    long_enough = clock.now() - since >= timedelta(seconds=REFUSAL_SECONDS)
    if bundle or long_enough or failed_for_good((error.error,)):
        part_moves.end_unsent(app, stored, error.error)
        return
    why = Wait(reason="refused", message=str(error))
    until = clock.after(backoff(app, since))
    part_moves.wait(app, stored, until, why, refused_since=since, trouble_since=None, **changes)


def _delete_finished_files(app: App) -> bool:
    """Delete what finished jobs of ours have left at the service. Return whether that made room."""
    made_room = False
    try:
        for file_id, name in list(app.openai.files()):
            ours = re.fullmatch(FILE_NAME, name)
            finished = app.tables.finished(ours["job_id"]) if ours else None
            if ours and finished is not None and int(ours["attempt"]) <= finished.attempts:
                app.openai.delete_file(file_id)
                made_room = True
    except ServiceCallError as error:
        log.warning("files_not_deleted", trouble=error)
    return made_room
