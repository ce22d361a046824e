"""Every setting: its environment variable, its default and its meaning.

`Settings.read()` is called once, at start. A missing or invalid setting stops the app with an error that names it,
instead of failing a job later.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Self

DAY = 86_400


PLACE_SETTINGS = frozenset(
    {
        "storage",
        "storage_blob_uri",
        "storage_queue_uri",
        "storage_table_uri",
        "input_container",
        "output_container",
        "errors_container",
        "reports_container",
        "archive_container",
        "work_container",
        "drop_queue",
        "submit_queue",
        "collect_queue",
        "completed_queue",
        "doctor_queue",
        "jobs_table",
        "deployments_table",
        "work_table",
    }
)
"""Fields of `Settings` that say where state is kept: they never change while there is an unfinished job. Any other
setting may change at any time."""


class SettingError(Exception):
    """A setting is missing or invalid; the sentence names it and states what it takes."""


def parse_text(value: str) -> str:
    """any text"""
    return value.strip()


def parse_int(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return a parser of integers within these bounds; its docstring states what the setting takes."""

    def parse(value: str) -> int:
        number = int(value)
        if number < minimum or (maximum is not None and number > maximum):
            raise ValueError
        return number

    parse.__doc__ = f"a whole number of at least {minimum}" + (f" and at most {maximum}" if maximum is not None else "")
    return parse


def parse_bool(value: str) -> bool:
    """true or false"""
    return {"true": True, "1": True, "false": False, "0": False}[value.strip().lower()]


def parse_list(value: str) -> frozenset[str]:
    """a comma-separated list"""
    words = frozenset(word.strip() for word in value.split(",") if word.strip())
    if not words:
        raise ValueError
    return words


def parse_limits(value: str) -> Mapping[str, int]:
    """a comma-separated list of name=tokens"""
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if not all(name.strip() for name, _, _ in pairs):
        raise ValueError
    return MappingProxyType({name.strip(): parse_int(1)(tokens) for name, _, tokens in pairs})


def parse_prices(value: str) -> Mapping[str, tuple[float, float]]:
    """a comma-separated list of name=prompt/completion, the prices of a million tokens"""
    prices = dict[str, tuple[float, float]]()
    for pair in value.split(","):
        if pair.strip():
            name, _, both = pair.rpartition("=")
            prompt, completion = (float(each) for each in both.split("/"))
            if not name.strip() or not all(0 <= each < math.inf for each in (prompt, completion)):
                raise ValueError
            prices[name.strip()] = (prompt, completion)
    return MappingProxyType(prices)


def parse_choice(*choices: str) -> Callable[[str], str]:
    """Return a parser that accepts one of these words; its docstring lists them."""

    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError
        return value

    parse.__doc__ = "one of " + ", ".join(choices)
    return parse


def _setting[T](name: str, default: T, parse: Callable[[str], T]) -> T:
    """Return a field of `Settings` that is read from the environment variable `name`."""
    return field(default=default, metadata={"name": name, "parse": parse})


def _secret(name: str) -> str | None:
    return field(default=None, repr=False, metadata={"name": name, "parse": parse_text})


def parse_setting[T](name: str, parse: Callable[[str], T], given: str) -> T:
    """Return the value of a setting. Raises: SettingError."""
    try:
        return parse(given)
    except (ValueError, KeyError):
        raise SettingError(f"The setting {name} is {given!r}; it takes {parse.__doc__}.") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The app's settings. Sizes are in bytes, times in seconds."""

    # Connections
    storage: str | None = _secret("BatchStorage")
    """Connection string of the storage account; not set if the service URIs and a managed identity are used."""
    storage_blob_uri: str = _setting("BatchStorage__blobServiceUri", "", parse_text)
    storage_queue_uri: str = _setting("BatchStorage__queueServiceUri", "", parse_text)
    storage_table_uri: str = _setting("BatchStorage__tableServiceUri", "", parse_text)
    storage_client_id: str = _setting("BatchStorage__clientId", "", parse_text)
    """Client id of a user-assigned managed identity; empty for the system-assigned one."""
    openai_endpoint: str = _setting("AZURE_OPENAI_ENDPOINT", "", parse_text)
    """`https://<resource>.openai.azure.com`; a resource without a custom sub-domain does not work with batch."""
    openai_api_key: str | None = _secret("AZURE_OPENAI_API_KEY")
    """Not set: Microsoft Entra ID through DefaultAzureCredential."""
    openai_api_version: str = _setting("AZURE_OPENAI_API_VERSION", "v1", parse_text)
    """`v1`, or a dated version such as `2024-10-21`, which uses the dated routes."""
    openai_resource_id: str = _setting("AZURE_OPENAI_RESOURCE_ID", "", parse_text)
    """Azure resource id of the resource; the doctor then sees SKU, model and retirement of each deployment."""
    resource_manager: str = _setting("AZURE_RESOURCE_MANAGER", "https://management.azure.com", parse_text)
    """Address of Azure Resource Manager; another one in sovereign clouds."""

    # Names
    input_container: str = _setting("INPUT_CONTAINER", "batch-input", parse_text)
    output_container: str = _setting("OUTPUT_CONTAINER", "batch-output", parse_text)
    errors_container: str = _setting("ERRORS_CONTAINER", "batch-errors", parse_text)
    reports_container: str = _setting("REPORTS_CONTAINER", "batch-reports", parse_text)
    archive_container: str = _setting("ARCHIVE_CONTAINER", "batch-archive", parse_text)
    work_container: str = _setting("WORK_CONTAINER", "batch-work", parse_text)
    """Internal: picked lines and the results of parts, deleted when their job is done."""
    drop_queue: str = _setting("DROP_QUEUE", "batch-drop", parse_text)
    """Drops that the tick found: their event was lost, or their processing did not finish."""
    submit_queue: str = _setting("SUBMIT_QUEUE", "batch-submit", parse_text)
    collect_queue: str = _setting("COLLECT_QUEUE", "batch-collect", parse_text)
    completed_queue: str = _setting("COMPLETED_QUEUE", "batch-completed", parse_text)
    """One message for each finished job, for consumers to read."""
    doctor_queue: str = _setting("DOCTOR_QUEUE", "batch-doctor", parse_text)
    """One message for each examination that the API was asked for."""
    jobs_table: str = _setting("JOBS_TABLE", "BatchJobs", parse_text)
    """One row for each finished job, for ever: the history, which also detects repeated events."""
    deployments_table: str = _setting("DEPLOYMENTS_TABLE", "BatchDeployments", parse_text)
    """One row for each deployment, with what is known of its token quota."""
    work_table: str = _setting("WORK_TABLE", "BatchWork", parse_text)
    """Active jobs: a partition for each, with its own row and those of its parts."""

    # Triggers
    trigger_source: str = _setting("DROP_SOURCE", "EventGrid", parse_choice("EventGrid", "LogsAndContainerScan"))
    """How the host detects a drop. Flex Consumption supports EventGrid only; `func start` on Azurite needs the scan."""
    tick_schedule: str = _setting("TICK_SCHEDULE", "0 * * * * *", parse_text)
    """NCRONTAB of six fields. The service advises 60 seconds or more between polls."""

    tick_seconds: int = _setting("TICK_SECONDS", 45, parse_int(1))
    """How long a tick may poll batches; the next tick polls the rest."""

    # Limits of a drop
    allowed_urls: frozenset[str] = _setting(
        "ALLOWED_URLS",
        frozenset({"/chat/completions", "/v1/chat/completions", "/responses", "/v1/responses"}),
        parse_list,
    )
    max_line_bytes: int = _setting("MAX_LINE_BYTES", 16 * 1024 * 1024, parse_int(1))
    """Checked when a drop is validated, and nowhere else."""
    max_drop_bytes: int = _setting("MAX_DROP_BYTES", 1024 * 1024 * 1024, parse_int(1))
    max_drop_requests: int = _setting("MAX_DROP_REQUESTS", 1_000_000, parse_int(1))
    max_findings: int = _setting("MAX_FINDINGS", 10_000, parse_int(1, 100_000))
    """After this many findings the rest of a drop is not read, and a last finding (too_many_findings) says so."""
    max_deployments: int = _setting("MAX_DEPLOYMENTS", 100, parse_int(1, 1_000))
    """The most deployments that one drop may name; more are a finding (too_many_deployments)."""

    empty_drop_seconds: int = _setting("EMPTY_DROP_SECONDS", 3600, parse_int(0))
    """How long a blob of zero bytes must be unchanged before it counts as a drop; its writer may not be done before."""

    mixed_files: str = _setting("MIXED_FILES", "split", parse_choice("split", "reject"))
    """A drop of several deployments or URLs: one part for each of them, or findings (model_mismatch, url_mismatch)."""

    # Limits of a part: a larger drop becomes several parts. Source of both limits: how-to, "Batch limits".
    max_part_bytes: int = _setting("MAX_PART_BYTES", 0, parse_int(0))
    """0: the service's limit, 200 MB for an upload and 1 GB for a blob."""
    max_part_requests: int = _setting("MAX_PART_REQUESTS", 100_000, parse_int(1))

    # How a part is sent
    submit_mode: str = _setting("SUBMIT_MODE", "upload", parse_choice("upload", "blob"))
    """`blob`: the service reads the input from blob storage and writes the results there; nothing is uploaded."""
    bundle_seconds: int = _setting("BUNDLE_SECONDS", 30, parse_int(0, 3600))
    """How long a small part waits for others of the same deployment and URL to share a batch; 0: not at all."""
    bundle_bytes: int = _setting("BUNDLE_BYTES", 1_000_000, parse_int(0))
    """Maximum size of a small part."""
    max_attempts: int = _setting("MAX_ATTEMPTS", 3, parse_int(1, 99))
    """Number of batches after which the failure of a line is final."""
    file_expiry_seconds: int = _setting("FILE_EXPIRY_SECONDS", 14 * DAY, parse_int(0, 30 * DAY))
    """Expiry set on each uploaded file (1,209,600 to 2,592,000 at the service), 0 for none. With it the service
    holds 10,000 files, without it 500."""
    delete_service_files: bool = _setting("DELETE_SERVICE_FILES", True, parse_bool)
    """Delete a job's files at the service once its results are durable here."""
    claim_seconds: int = _setting("CLAIM_SECONDS", 900, parse_int(1))
    """How long an instance may hold a part for upload and create; then another may take it over."""
    settle_seconds: int = _setting("SETTLE_SECONDS", 300, parse_int(0))
    """How long after a lost create its batch may still appear at the service; only then is it created again."""
    environment_wait_seconds: int = _setting("ENVIRONMENT_WAIT_SECONDS", 7 * DAY, parse_int(1))
    """How long work waits for storage, the service, an identity or disk space before it is given up, with a report."""
    token_limits: Mapping[str, int] = _setting("TOKEN_LIMITS", MappingProxyType({}), parse_limits)
    """Enqueued tokens that a deployment accepts, as `name=tokens, name=tokens`; default: what the service states."""
    patience_seconds: int = _setting("PATIENCE_SECONDS", 3600, parse_int(0))
    """How long younger parts that fit may overtake a part; then they wait behind it."""
    resend_seconds: int = _setting("RESEND_SECONDS", 600, parse_int(1))
    """How long a step may not have started before the tick sends its message again."""
    trouble_seconds: int = _setting("TROUBLE_SECONDS", 30, parse_int(1))
    """How long a part waits after the service was busy and named no time."""
    quota_backoff_seconds: int = _setting("QUOTA_BACKOFF_SECONDS", 300, parse_int(1))
    """First wait of a deployment after `token_limit_exceeded`; doubled with each refusal, up to sixteenfold."""

    # Reporting
    doctor_seconds: int = _setting("DOCTOR_SECONDS", 3600, parse_int(0))
    """How often the tick has the doctor look, without a change to anything; 0: never."""
    prices: Mapping[str, tuple[float, float]] = _setting("PRICES", MappingProxyType({}), parse_prices)
    """Cost of a million tokens of a deployment, as `name=prompt/completion, ...`; without it no cost is reported."""
    telemetry: str = _setting("TELEMETRY", "off", parse_choice("off", "otlp"))
    """`otlp`: spans and metrics go to OTEL_EXPORTER_OTLP_ENDPOINT; `off` costs nothing."""

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Return the settings from `environment`.

        Raises:
            SettingError: names the first setting that is missing or invalid.
        """
        values: dict[str, Any] = {}
        for each in fields(cls):
            name, parse = each.metadata["name"], each.metadata["parse"]
            given = environment.get(name, "").strip()
            if not given:
                continue
            values[each.name] = parse_setting(name, parse, given)
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        """Check what depends on more than one setting. Raises: SettingError."""
        uris = (self.storage_blob_uri, self.storage_queue_uri, self.storage_table_uri)
        if not self.storage and not all(uris):
            raise SettingError(
                "The setting BatchStorage is missing: set it to a connection string, or set all of "
                "BatchStorage__blobServiceUri, BatchStorage__queueServiceUri and BatchStorage__tableServiceUri "
                "to use a managed identity."
            )
        if not self.openai_endpoint.startswith(("https://", "http://")):
            raise SettingError(
                "The setting AZURE_OPENAI_ENDPOINT is missing or no URL: set it to https://<resource>.openai.azure.com."
            )
        if 0 < self.file_expiry_seconds < 14 * DAY:
            raise SettingError(
                f"The setting FILE_EXPIRY_SECONDS is {self.file_expiry_seconds}; the service takes 1209600 (14 days) "
                "to 2592000 (30 days), or 0 for no expiry."
            )
        if self.max_line_bytes > self.part_bytes:
            raise SettingError(
                "The setting MAX_LINE_BYTES is larger than MAX_PART_BYTES: no part could hold such a line."
            )

    @property
    def part_bytes(self) -> int:
        """Maximum size of a part."""
        return self.max_part_bytes or (1_000_000_000 if self.submit_mode == "blob" else 200_000_000)

    @property
    def containers(self) -> tuple[str, ...]:
        """The blob containers that the app uses."""
        return (
            self.input_container,
            self.output_container,
            self.errors_container,
            self.reports_container,
            self.archive_container,
            self.work_container,
        )

    @property
    def queues(self) -> tuple[str, ...]:
        """The storage queues that the app uses."""
        return (self.drop_queue, self.submit_queue, self.collect_queue, self.completed_queue, self.doctor_queue)

    @property
    def tables(self) -> tuple[str, ...]:
        """The storage tables that the app uses."""
        return (self.jobs_table, self.work_table, self.deployments_table)
