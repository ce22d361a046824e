"""Errors that a user can act on: each states in a sentence what is wrong and what to do."""

from http import HTTPStatus
from typing import ClassVar


class UserError(Exception):
    """A user's request cannot be done. The API answers with a problem detail, the command line with the sentence.

    `status` is the HTTP status, `slug` the last part of the problem's type, `title` its title.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.CONFLICT
    slug: ClassVar[str]
    title: ClassVar[str]


class JobFinishedError(UserError):
    """The job has all its results already, so there is nothing to cancel."""

    slug, title = "job-finished", "The job is finished"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} has a result for each of its requests already, so it cannot be cancelled.")


class NoSuchJobError(UserError):
    """No active and no finished job has that id."""

    status, slug, title = HTTPStatus.NOT_FOUND, "job-not-found", "There is no such job"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id}. Look its id up in the list of jobs.")


class ReportGoneError(UserError):
    """The report of a finished job was deleted."""

    status, slug, title = HTTPStatus.GONE, "report-gone", "The report was deleted"

    def __init__(self, job_id: str, report: str) -> None:
        super().__init__(f"The report {report} of job {job_id} was deleted, so its detail cannot be shown.")


class JobActiveError(UserError):
    """The job is not finished yet, so its failed lines are not known."""

    slug, title = "job-active", "The job is still running"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} is still running. Retry it when it is finished, or cancel it first.")


class NothingToRetryError(UserError):
    """The job has no failed line that could be sent again."""

    slug, title = "nothing-to-retry", "There is nothing to retry"


class NoSuchExaminationError(UserError):
    """The doctor has no examination of that id, or another one has replaced it."""

    status, slug, title = HTTPStatus.NOT_FOUND, "examination-not-found", "There is no such examination"

    def __init__(self, examination_id: str) -> None:
        super().__init__(f"There is no examination {examination_id}, or a later one replaced it. Ask for one: POST.")


class BadQueryError(UserError):
    """A query parameter has an invalid value; the sentence names it."""

    status, slug, title = HTTPStatus.BAD_REQUEST, "bad-query", "The query is wrong"
