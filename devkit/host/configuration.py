"""The host's configuration: host.json, as in Azure, and options of its own, for quick tests and fault injection."""

import json
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class HostOptions:
    """The local host's own options. Times are in seconds."""

    port: int = 0  # of 127.0.0.1; 0: a free one
    log: str = ""  # a file for the log of host and app; left out: stderr
    with_parent: bool = False  # end when stdin closes: no host survives the process that started it
    drain_seconds: float = 10.0  # how long a stop waits for running invocations

    scan_seconds: float = 2.0  # between two listings of a container (LogsAndContainerScan)
    max_poll_seconds: float = 2.0  # caps maxPollingInterval: a minute is for production
    poison_retry_seconds: int = 600  # between two runs of a message that fails on a queue ending in -poison
    receive_visibility_seconds: int = 600  # how long a killed host's messages stay hidden; renewed at half
    lock_seconds: int = 0  # a timer's lock, 15 to 60; 0: host.json's listenerLockPeriod
    break_locks: bool = False  # take a timer's lock at start, instead of waiting for a killed host's to expire

    events: bool = False  # play Event Grid: watch the containers, post an event for each new blob
    event_seconds: float = 0.5  # between two looks at a container
    event_copies: int = 1  # how often each event is delivered
    event_delay_seconds: float = 0.0  # how late
    lose_events: bool = False  # deliver none
    webhook: str = ""  # a URL that is sent an event for each new blob of `webhook_container`, in the host's own account
    webhook_container: str = "batch-reports"

    function_key: str = ""  # left out, here and below: the stored key, or a new one
    master_key: str = ""
    blobs_extension_key: str = ""


class ConfigurationError(Exception):
    """The app or its settings cannot be hosted; the message names what to change."""


def read_timespan(text: str) -> timedelta:
    """Return the duration of a .NET TimeSpan, `[d.]hh:mm:ss[.fff]`."""
    days, _, clock = text.rpartition(".") if "." in text.partition(":")[0] else ("0", "", text)
    try:
        hours, minutes, seconds = clock.split(":")
        return timedelta(days=int(days), hours=int(hours), minutes=int(minutes), seconds=float(seconds))
    except ValueError:
        raise ConfigurationError(f"{text!r} is not a time span such as 00:05:00") from None


@dataclass(frozen=True)
class HostJson:
    """The parts of host.json that this host acts on, the real defaults filled in. Times are in seconds."""

    function_timeout: float | None  # None: unbounded
    route_prefix: str
    blob_concurrency: int  # blobs of all functions at a time
    poison_blob_threshold: int
    queue_batch_size: int
    queue_new_batch_threshold: int
    queue_max_dequeue_count: int
    queue_visibility: int
    queue_max_poll: float
    queue_base64: bool
    lock_period: int
    lock_poll: float


def read_host_json(path: Path) -> HostJson:
    """Return the configuration of a host.json; ConfigurationError if it cannot be used."""
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigurationError(f"{path} is missing: an app needs at least {{'version': '2.0'}} there") from None
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON: {error}") from None
    extensions: dict[str, dict[str, Any]] = document.get("extensions", {})
    blobs, queues = extensions.get("blobs", {}), extensions.get("queues", {})
    singleton: dict[str, str] = document.get("singleton", {})
    cores = os.cpu_count() or 1
    batch_size = min(32, int(queues.get("batchSize", 16)))
    timeout = str(document.get("functionTimeout", "00:30:00"))
    return HostJson(
        function_timeout=None if timeout == "-1" else read_timespan(timeout).total_seconds(),
        route_prefix=extensions.get("http", {}).get("routePrefix", "api").strip("/"),
        blob_concurrency=int(blobs.get("maxDegreeOfParallelism", 8 * cores)),
        poison_blob_threshold=int(blobs.get("poisonBlobThreshold", 5)),
        queue_batch_size=batch_size,
        queue_new_batch_threshold=int(queues.get("newBatchThreshold", batch_size // 2 * cores)),
        queue_max_dequeue_count=int(queues.get("maxDequeueCount", 5)),
        queue_visibility=int(read_timespan(queues.get("visibilityTimeout", "00:00:00")).total_seconds()),
        queue_max_poll=read_timespan(queues.get("maxPollingInterval", "00:01:00")).total_seconds(),
        queue_base64=str(queues.get("messageEncoding", "base64")).lower() == "base64",
        lock_period=int(read_timespan(singleton.get("listenerLockPeriod", "00:01:00")).total_seconds()),
        lock_poll=read_timespan(singleton.get("listenerLockRecoveryPollingInterval", "00:01:00")).total_seconds(),
    )
