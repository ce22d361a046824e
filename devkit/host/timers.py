"""The timer trigger: a lock, a status blob, and one run at a time.

Kept: one host runs a timer, the one with the lease on `locks/{hostId}/Host.Functions.<name>.Listener`; the others ask
again every minute. The status blob `timers/{hostId}/Host.Functions.<name>/status` is written when the timer is first
seen and after each run, failed or not. After a run that outlasted the interval one catch-up run follows at once, with
IsPastDue false; IsPastDue is true only for a run at the start that the last host missed. Timers more often than once
a minute have no status, so no past due.
"""

import asyncio
import contextlib
import json
import logging
from datetime import UTC, datetime

from azure.core.exceptions import AzureError, HttpResponseError
from azure.storage.blob.aio import BlobClient, BlobLeaseClient

from devkit.host.bindings import Function
from devkit.host.context import HostContext
from devkit.host.messages import Json
from devkit.host.schedules import more_often_than_once_a_minute, read_schedule
from devkit.host.storage import HOST_CONTAINER, read_json, write_json

log = logging.getLogger("host")

NEVER = datetime.min.replace(tzinfo=UTC)  # how a status says that there was no run yet


class Lock:
    """A lease on a blob: of all hosts, one has it. `seconds` is its length, `poll` the time between two attempts."""

    def __init__(self, blob: BlobClient, seconds: int, poll: float) -> None:
        self._blob = blob
        self._seconds = seconds
        self._poll = poll
        self._lease: BlobLeaseClient | None = None

    async def break_it(self) -> None:
        """Break the lease, whichever host has it."""
        with contextlib.suppress(AzureError):
            await BlobLeaseClient(self._blob).break_lease(lease_break_period=0)

    async def acquire(self) -> BlobLeaseClient:
        """Return the lease once it is ours."""
        with contextlib.suppress(AzureError):
            await self._blob.upload_blob(b"", overwrite=False)
        while True:
            try:
                self._lease = await self._blob.acquire_lease(self._seconds)
            except AzureError:
                await asyncio.sleep(self._poll)
            else:
                return self._lease

    async def hold(self, lease: BlobLeaseClient) -> None:
        """Renew the lease at half its time; return when it is lost."""
        wait = self._seconds / 2
        while True:
            await asyncio.sleep(wait)
            try:
                await lease.renew()
                wait = self._seconds / 2
            except HttpResponseError as error:
                log.warning("Lost the lock %s: %s", self._blob.blob_name, error.reason)
                self._lease = None
                return
            except AzureError:  # no answer at all: the lease may well be ours still
                wait = 1

    async def release(self) -> None:
        """Give the lease back, if it is ours."""
        if self._lease:
            with contextlib.suppress(AzureError):
                await self._lease.release()


class Timer:
    """Runs one timer-triggered function on its schedule."""

    def __init__(self, function: Function, host: HostContext) -> None:
        self._function = function
        self._schedule = read_schedule(function.trigger["schedule"])
        often = more_often_than_once_a_minute(self._schedule, datetime.now(UTC))
        self._has_monitor = function.trigger.get("useMonitor", True) and not often
        container = host.storage.blobs().get_container_client(HOST_CONTAINER)
        self._status = container.get_blob_client(f"timers/{host.host_id}/{function.full_name}/status")
        self._lock = Lock(
            container.get_blob_client(f"locks/{host.host_id}/{function.full_name}.Listener"),
            host.options.lock_seconds or host.host_json.lock_period,
            host.options.lock_seconds or host.host_json.lock_poll,
        )
        self._break_lock = host.options.break_locks
        self._invoke = host.invoke
        self._running: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Take the lock and keep the schedule, until cancelled."""
        if self._break_lock:
            await self._lock.break_it()
        while True:
            if self._running:  # a run from before the lock was lost: one at a time
                await asyncio.wait([self._running])
            lease = await self._lock.acquire()
            listening = asyncio.create_task(self._listen())
            try:
                await self._lock.hold(lease)
            finally:
                listening.cancel()

    async def drain(self, seconds: float) -> None:
        """Wait this long for a run that is under way, then give the lock back. `run` is cancelled before."""
        if self._running:
            await asyncio.wait([self._running], timeout=seconds)
        await self._lock.release()

    async def _listen(self) -> None:
        """Run the function whenever it is due, until cancelled."""
        due = await self._first_run()
        while True:
            # A sleep may end a little early by the wall clock: then sleep on.
            while (wait := (due - datetime.now(UTC)).total_seconds()) > 0:
                await asyncio.sleep(wait)
            due = await self._run_once(past_due=False)

    async def _first_run(self) -> datetime:
        """Do what the start of a listener asks for (a missed run, runOnStartup); return when the next run is due."""
        now = datetime.now(UTC)
        if self._has_monitor:
            status = await self._read_status()
            due = self._recorded_due(status, now)
            if due < now:
                return await self._run_once(past_due=True)
            if status is None or status["Next"] != due.isoformat():
                await self._write_status(NEVER, due, now)
        if self._function.trigger.get("runOnStartup"):
            return await self._run_once(past_due=False)
        return self._schedule.next_after(now)

    def _recorded_due(self, status: Json | None, now: datetime) -> datetime:
        """Return when the next run was due by the status; as of now if there is none, or it had another schedule."""
        if status is None:
            return self._schedule.next_after(now)
        last, updated = datetime.fromisoformat(status["Last"]), datetime.fromisoformat(status["LastUpdated"])
        due = datetime.fromisoformat(status["Next"])
        same_schedule = due == self._schedule.next_after(updated if last == NEVER else last)
        return due if same_schedule else self._schedule.next_after(now)

    async def _run_once(self, *, past_due: bool) -> datetime:
        """Run the function to its end, even if the listener is cancelled; return when the next run is due."""
        started = datetime.now(UTC)
        due = self._schedule.next_after(started)
        self._running = asyncio.create_task(self._invoke_and_record(started, due, past_due=past_due))
        await asyncio.shield(self._running)
        return due

    async def _invoke_and_record(self, started: datetime, due: datetime, *, past_due: bool) -> None:
        status = await self._read_status() if self._has_monitor else None
        reason = f"Timer fired at {started.isoformat()}"
        await self._invoke(self._function, timer_value(status, past_due=past_due), {}, reason)
        if self._has_monitor:
            await self._write_status(started, due, datetime.now(UTC))

    async def _read_status(self) -> Json | None:
        """Return the recorded status, None without one; ask again until the storage answers."""
        while True:
            try:
                return await read_json(self._status)
            except AzureError as error:
                log.warning("Could not read the status of the timer %s: %s", self._function.name, error)
                await asyncio.sleep(1)

    async def _write_status(self, last: datetime, due: datetime, updated: datetime) -> None:
        status = {"Last": last.isoformat(), "Next": due.isoformat(), "LastUpdated": updated.isoformat()}
        try:
            await write_json(self._status, status)
        except AzureError as error:
            log.warning("Could not write the status of the timer %s: %s", self._function.name, error)


def timer_value(status: Json | None, *, past_due: bool) -> Json:
    """Return what a timer function is given: its status before this run, None for a timer without one."""
    value = {"Schedule": {"AdjustForDST": True}, "ScheduleStatus": status, "IsPastDue": past_due}
    return {"json": json.dumps(value)}
