"""A finished job's failed lines go again, as a new attempt; its report and blobs stand until the new ones are durable."""

from batch_fn.app import App
from batch_fn.jobs import Job


class JobInHandError(Exception):
    """The job is not finished yet: its failed lines are not known."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} is still in hand. Retry it when it is finished, or cancel it first.")


class NothingToRetryError(Exception):
    """The job has no failed line that could be sent again."""


def retry(app: App, job_id: str) -> Job:
    """Enter a new attempt for the failed lines of a finished job; one that is under way already is returned as it is.

    Raises:
        NoSuchJobError: if there is no job of that id.
        JobInHandError: if it is not finished.
        NothingToRetryError: if no line of it failed, it was rejected, or its archive or errors blob is gone.
    """
    raise NotImplementedError
