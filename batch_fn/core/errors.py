"""Errors that a user can act on."""

from batch_fn.storage.rows import Finished


class JobFinishedError(Exception):
    """The job has all its results already: there is nothing to cancel."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} has a result for each of its requests already, so it cannot be cancelled.")


class NoSuchJobError(Exception):
    """No job has that id: none is in hand, and none is in the history."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id}. Look its id up in the list of jobs.")


class ReportGoneError(Exception):
    """Somebody deleted the report of a finished job."""

    def __init__(self, finished: Finished) -> None:
        super().__init__(f"The report {finished.report} of job {finished.job_id} is gone: somebody deleted it.")


class JobInHandError(Exception):
    """The job is not finished yet: its failed lines are not known."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} is still in hand. Retry it when it is finished, or cancel it first.")


class NothingToRetryError(Exception):
    """The job has no failed line that could be sent again."""
