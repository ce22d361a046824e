"""Every option of the emulator. All can be changed while it runs: `PATCH /control/options`."""

from typing import Any, Literal

import msgspec

type Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
type Quirk = Literal[
    "capitalised_status",  # "Validating", "In_progress", ... instead of lower case
    "iso_times",  # a batch's times as ISO strings with seven fractional digits, as the REST samples print them
    "empty_ids",  # "" in place of a file id that is null
    "null_counts",  # members of request_counts are null until the batch has ended, and for a failed batch
    "null_endpoint",  # a batch does not tell its endpoint
    "null_errors",  # a failed batch does not tell why
    "string_lines",  # errors.data[].line is a string
    "missing_error_file",  # no error file, instead of one of zero bytes, when nothing failed
    "null_file_status",  # a file's status is null, as the how-to's Python sample prints it
]


class Options(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Durations are service seconds where nothing else is said; sizes are bytes."""

    speed: float = 60.0
    """Service seconds that pass in one real second."""
    seed: int = 0
    """Decides the order of output lines, and the faults that come with a probability."""

    file_processing_seconds: float = 5.0
    """How long a file is `pending` before it is `processed`."""
    validating_seconds: float = 20.0
    in_progress_seconds: float = 60.0
    seconds_per_line: float = 0.05
    """Added to `in_progress_seconds` for each line of the batch."""
    finalizing_seconds: float = 20.0
    cancelling_seconds: float = 60.0
    """Documented: up to ten minutes."""

    max_file_bytes: int = 200 * 1024 * 1024
    max_files: int = 500
    """Input files without expiry; output files do not count."""
    max_expiring_files: int = 10_000
    """Input files with expiry."""
    max_blob_bytes: int = 1024 * 1024 * 1024
    """Of an input in blob storage."""
    max_lines: int = 100_000

    storage: str | None = None
    """Connection string of the storage account for which the resource's identity has its role; null: there is none."""
    no_blob_permission: bool = False
    """That role is not there yet: no blob can be reached."""

    endpoints: tuple[str, ...] = ("/chat/completions", "/v1/chat/completions", "/responses", "/v1/responses")
    """What a batch may be created for; how-to and reference do not agree on `/v1/embeddings`."""
    deployments: list[str] | None = None
    """The deployments there are; every name is one when this is null."""
    skus: dict[str, str] = {}
    """The SKU of a deployment, where it is not GlobalBatch: a batch for one of another SKU is refused."""
    models: dict[str, str] = {}
    """Model and version of a deployment, as `gpt-5.4-mini 2026-03-17`."""
    retirements: dict[str, str] = {}
    """The day on which a model retires, by the same words: `2027-03-18T00:00:00Z`."""
    management: bool = True
    """Whether Azure Resource Manager lets the identity read the account."""
    clock_skew: float = 0.0
    """Seconds by which the service's clock is ahead, in the header Date of its answers."""
    honours_expiry: bool = True
    """Whether `expires_after` of an upload is more than ignored."""
    token_limit: int | None = None
    """Enqueued tokens that a deployment may have, where `token_limits` does not name it; null: no limit."""
    token_limits: dict[str, int] = {}
    refuse: Literal["create", "later"] = "create"
    """Over the token limit: create answers 400 at once, or the batch is created and then fails."""
    enqueued_header: Literal["deployment", "file", "none"] = "deployment"
    """What `deployment-enqueued-tokens` counts: all that the deployment has enqueued, or only the new batch's file."""
    quota_headers: bool = True
    """Whether create tells the deployment's enqueued tokens and their limit, where it has one."""

    unfinished_when_cancelled: Literal["nowhere", "error_file"] = "nowhere"
    """Where lines go that a cancelled batch did not come to: nowhere, or into the error file as `batch_cancelled`."""
    list_delay: float = 0.0
    """Real seconds from the creation of a batch until it is in the list of batches."""

    forward: str | None = None
    """Base URL of an OpenAI-compatible endpoint that answers the lines, instead of the built-in model."""
    forward_concurrency: int = 8
    """Lines that are forwarded at the same time, over all batches."""

    quirks: tuple[Quirk, ...] | Literal["all"] = ()
    """Ways of the service that are seen, but not the ones of the reference."""

    def has(self, quirk: Quirk) -> bool:
        """Whether the quirk is switched on."""
        return self.quirks == "all" or quirk in self.quirks

    def change(self, changes: dict[str, Any]) -> None:
        """Set the named options, all or none; raises msgspec.ValidationError for a name or value that is not one."""
        changed = msgspec.convert(msgspec.to_builtins(self) | changes, Options)
        if changed.speed <= 0:
            raise msgspec.ValidationError("Expected `speed` > 0")
        for name in self.__struct_fields__:
            setattr(self, name, getattr(changed, name))
