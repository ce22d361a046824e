"""Jobs and parts, their states, and the transitions between them. Pure.

A *drop* is one version of a blob in the inbox; it becomes one *job*. The job's accepted lines go into *parts*, each
small enough for one service *batch*. Lines without a result, and lines with an error that may pass, go into the same
part's next *attempt*.
"""

from datetime import datetime
from enum import StrEnum

import msgspec

from batch_fn.core.batches import ServiceError
from batch_fn.core.names import part_key, result_path, work_folder
from batch_fn.core.troubles import Trouble
from batch_fn.core.waits import Refusals, Wait


class JobState(StrEnum):
    """The state of an active job; a finished job has an `Outcome` instead, and no row in the work table."""

    #: The drop was seen; it is being read and validated.
    DROPPED = "dropped"
    #: Every line is valid and in a part; the parts are being processed.
    ACCEPTED = "accepted"
    #: Every part is settled; output, errors and report are being written.
    FINISHING = "finishing"
    #: It was finished; its failed lines are being extracted for another attempt.
    RETRYING = "retrying"


class Outcome(StrEnum):
    """How a job ended: the `status` of its report."""

    #: Every line was answered.
    SUCCEEDED = "succeeded"
    #: Some lines were answered, some were not.
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    #: No line was answered.
    FAILED = "failed"
    #: The drop has findings; nothing was sent.
    REJECTED = "rejected"
    #: A user cancelled it; answers received until then are kept.
    CANCELLED = "cancelled"


class PartState(StrEnum):
    """The state of one attempt of a part."""

    #: No instance works on it; it may be claimed.
    WAITING = "waiting"
    #: One instance uploads and creates; no other may until `due`.
    CLAIMED = "claimed"
    #: It is in a bundle, whose own part goes to the service.
    BUNDLED = "bundled"
    #: The service has it as a batch.
    OPEN = "open"
    #: Its batch has ended; its results wait to be collected.
    ENDED = "ended"
    #: Each of its lines is in its results, or in the next attempt.
    SETTLED = "settled"


TRANSITIONS: dict[PartState, frozenset[PartState]] = {
    PartState.WAITING: frozenset(
        {PartState.WAITING, PartState.CLAIMED, PartState.BUNDLED, PartState.ENDED, PartState.SETTLED}
    ),
    PartState.BUNDLED: frozenset({PartState.BUNDLED, PartState.WAITING, PartState.SETTLED}),
    PartState.CLAIMED: frozenset(
        {PartState.CLAIMED, PartState.WAITING, PartState.OPEN, PartState.ENDED, PartState.SETTLED}
    ),
    PartState.OPEN: frozenset({PartState.OPEN, PartState.WAITING, PartState.ENDED}),
    PartState.ENDED: frozenset({PartState.ENDED, PartState.SETTLED}),
    PartState.SETTLED: frozenset(),
}
"""The allowed transitions. A part refused for quota waits again; a part that was split is settled."""


class InvalidTransitionError(Exception):
    """A part was moved to a state that its own does not allow: an error of this app, not of the input."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens, as stated in the answered lines."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
        )


class Estimate(msgspec.Struct, frozen=True):
    """The expected size of a job's input, computed at acceptance. The length of the answers is not known."""

    prompt_tokens: int
    cost: float | None
    """At the prices of that time; None where a deployment has no price."""


class InputRange(msgspec.Struct, frozen=True, kw_only=True):
    """Where the lines of a part are: a byte range of the drop, or picked lines in a blob of their own."""

    container: str
    name: str
    offset: int = 0
    length: int | None = None
    """In bytes from `offset`; None: to the end of the blob."""
    first_line: int = 1
    """The drop's line number at `offset`, for a byte range."""
    picked: bool = False
    """Each line of the blob starts with its line number in the drop and a tab."""
    fill: bool = False
    """The part's deployment has to be inserted as each line's model."""
    whole: bool = False
    """The blob has no other lines."""
    verbatim: bool = False
    """The bytes can be sent as they are: no blank line, no carriage return, nothing to insert."""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A part in a bundle."""

    job_id: str
    part: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """An active job: one row of the work table."""

    job_id: str
    state: JobState = JobState.DROPPED
    due: datetime | None = None
    """When the tick checks it, if nothing else has changed it by then."""

    container: str
    name: str
    etag: str
    bytes: int
    dropped_at: datetime

    gzip: bool = False
    """The dropped bytes are gzip: the archive has them, and beside them the lines, unpacked."""
    requests: int = 0
    poisoned: int = 0
    """How often its drop's message ended on the poison queue through an error of the app on this file."""
    poisoned_at: datetime | None = None
    """When that was counted last."""
    wait: Wait | None = None
    """Why it is not accepted yet, after a step failed."""
    waiting_since: datetime | None = None
    """Since when it waits for its environment: storage, the service, an identity or disk space."""
    parts_left: int = 0
    """Parts whose current attempt is not settled."""
    accepted_at: datetime | None = None
    estimate: Estimate | None = None
    """For the accepted lines; after a retry, for those that are sent again."""
    finished_at: datetime | None = None
    cancelled: bool = False
    """A user asked to cancel it."""
    cancel_asked_at: datetime | None = None
    retried_at: datetime | None = None
    """When a user asked for another attempt of its failed lines, to the second."""
    attempts_before: int = 0
    """The highest attempt before the retry; 0 for a job that was not retried."""

    bundle: bool = False
    """It is a bundle, not a drop (see bundling.py)."""
    members: tuple[Member, ...] = ()
    """The parts in the bundle, once that is decided."""

    @property
    def path(self) -> str:
        """Name of each of the job's blobs, without extension."""
        return result_path(self.name, self.job_id)

    @property
    def work_folder(self) -> str:
        """The folder of its blobs in the work container."""
        return work_folder(self.job_id, self.attempts_before)


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of one part of a job: the content of one service batch. One row of the work table."""

    job_id: str
    number: int
    attempt: int = 1
    attempts_before: int = 0
    """The highest attempt before its job was retried, as in the job's row."""
    state: PartState = PartState.WAITING
    due: datetime | None = None
    """When the tick checks it; for a claimed part, when the claim ends."""

    deployment: str
    url: str
    source: InputRange
    requests: int
    bytes: int = 0
    """Size of its upload."""
    estimated_tokens: int

    bundles: bool = False
    """It is small enough to share a batch, and has not been sent yet."""
    bundle: str = ""
    """Id of its bundle."""
    waiting_since: datetime
    """Since when it waits to be sent: the oldest goes first."""
    not_before: datetime | None = None
    """A waiting part is not sent before; an ended one that could not be settled is not tried again before."""
    wait: Wait | None = None
    """Why it waits, or waited last."""
    admitted_at: datetime | None = None
    """When the tick found room for it: the room is reserved while it waits for its message."""
    refusals: Refusals | None = None
    poisoned: int = 0
    """How often its message ended on the poison queue through an error of the app on this part."""
    poisoned_at: datetime | None = None
    """When that was counted last."""
    claims: int = 0
    """How often it was claimed; from the second time on, look for what an earlier claim left at the service."""
    file_id: str = ""
    """Its file at the service, if it was uploaded."""
    input_blob: str = ""
    """URL of the blob from which the service reads it, if it was not uploaded."""
    output_folder: str = ""
    """URL of the folder that the service then writes its results to."""
    endpoint: str = ""
    """The resource that it was last sent to, as the setting AZURE_OPENAI_ENDPOINT named it."""
    create_intent_at: datetime | None = None
    """Set before a create is sent and cleared when the service said no: in between, a batch may exist."""
    create_intent_found_at: datetime | None = None
    """When that was first found without a batch: a batch of it may come to light for SETTLE_SECONDS more."""
    create_absent_at: datetime | None = None
    """When a complete list first lacked a batch for that, after those seconds."""
    trouble_since: datetime | None = None
    """Since when the service does not answer for this part, or refuses what every file would be refused."""
    trouble_tries: int = 0
    """How often that was met since then."""
    refused_since: datetime | None = None
    """Since when the service refuses this very part, for a reason that may pass."""
    refused: tuple[str, ...] = ()
    """Batches that the service refused for quota; none of their lines ran."""

    leftovers: tuple[str, ...] = ()
    """Files of refused batches, to be deleted with the others."""

    batch_id: str = ""
    batch_status: str = ""
    completed: int = 0
    failed_so_far: int = 0
    """What the service counts while it works."""
    total: int = 0
    """Requests that the service counted at the end; 0 where it did not."""
    created_at: datetime | None = None
    ended_at: datetime | None = None
    output_file_id: str = ""
    error_file_id: str = ""
    output_blob: str = ""
    error_blob: str = ""
    """URLs, instead of the file ids; the service names them even if it wrote no such blob."""
    errors: tuple[ServiceError, ...] = ()
    not_found_since: datetime | None = None
    """When the service first showed that it does not have the batch."""
    end_seen_at: datetime | None = None
    """When the batch was first seen to have ended; results that it does not name are waited for from then on."""

    collect_trouble: Trouble | None = None
    """Why it could not be settled yet, once it has ended."""
    results_left: bool = False
    """Results of it could not be fetched. There is no copy of them, so they stay where they are."""
    input_gone: str = ""
    """How its lines were settled after the blob with them was deleted: see core/report.py; empty if it was there."""
    succeeded: int = 0
    failed: int = 0
    """The final results of this attempt, once it is settled."""
    usage: Usage = Usage()
    results: str = ""
    """Name of the blob, in the work container, that keeps this attempt's results; empty if none was made final."""
    unmatched: str = ""
    """Name of the blob, in the work container, that keeps result lines of no known request; empty if there are none."""

    @property
    def key(self) -> str:
        """The part's name within its job."""
        return part_key(self.number, self.attempt)

    @property
    def file_name(self) -> str:
        """Name of its file at the service, by which an upload whose answer was lost is found again."""
        return f"{self.job_id}-{self.key}.jsonl"

    @property
    def work_path(self) -> str:
        """Path of its blobs in the work container, without extension."""
        return f"{work_folder(self.job_id, self.attempts_before)}/{self.key}"

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata that identifies its batch."""
        return {"job": self.job_id, "part": str(self.number), "attempt": str(self.attempt)}

    def was_sent_to(self, endpoint: str) -> bool:
        """Return whether that is the resource it was sent to: no other can tell what became of its batch."""
        return not self.endpoint or _resource(self.endpoint) == _resource(endpoint)

    def with_state(self, to: PartState, due: datetime | None, **changes: object) -> "Part":
        """Return the part in state `to`, to be checked by the tick at `due`.

        Raises:
            InvalidTransitionError: if its state does not allow `to`.
        """
        if to not in TRANSITIONS[self.state]:
            raise InvalidTransitionError(f"part {self.key} of job {self.job_id} may not go from {self.state} to {to}")
        return msgspec.structs.replace(self, state=to, due=due, **changes)


def _resource(endpoint: str) -> str:
    return endpoint.rstrip("/").lower()


CANCELLED = "cancelled"
"""Our own code: the part was not sent, because its job was cancelled."""


def estimated_tokens(characters: int) -> int:
    """Return the service's estimate for lines whose bodies have that many characters."""
    return characters // 4
