"""The life of a batch: validating, in_progress, finalizing, completed, and every other way it may end.

Each batch that has not ended is one asyncio task, which sleeps on the service clock. To end a batch from outside, its
task is cancelled and another takes over: answers are written as they come, so nothing is lost that was executed.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec

from devkit.azure_openai.batch import TERMINAL, Batch, NewBatch
from devkit.azure_openai.blobs import BlobStorage
from devkit.azure_openai.clock import ServiceClock
from devkit.azure_openai.errors import ApiError, not_found
from devkit.azure_openai.execution import Execution
from devkit.azure_openai.files import FileStore
from devkit.azure_openai.hosting import BlobHosting, FileHosting, Hosting
from devkit.azure_openai.lines import Finding, Inspection, first_deployment, inspect
from devkit.azure_openai.model import unexecuted_line
from devkit.azure_openai.options import Options, Status
from devkit.azure_openai.quota import Quota
from devkit.azure_openai.scripts import BatchScript, Scripts

_EXPIRED = "This request could not be executed before the completion window expired."
_CANCELLED = "This request was not executed because the batch was cancelled."

log = logging.getLogger(__name__)


class Batches:
    """Every batch there is, in the order of creation."""

    def __init__(self, folder: Path, options: Options, clock: ServiceClock, files: FileStore, quota: Quota) -> None:
        self._folder = folder
        self._options = options
        self._clock = clock
        self._storage = BlobStorage(options)
        self._in_files = FileHosting(options, files)
        self._in_blobs = BlobHosting(self._storage)
        self._quota = quota
        self._scripts = Scripts()
        self._batches: dict[str, Batch] = {}
        self.execution = Execution(options, clock, self._scripts)

    # --- what the API does -------------------------------------------------------------------------------------------

    async def create(self, request: NewBatch) -> tuple[Batch, dict[str, str]]:
        """The new batch, and the headers that tell of its deployment's quota; raises HTTP 400."""
        request.check(self._options)
        batch = Batch(id=f"batch_{uuid.uuid4()}", request=request, folder=self._folder, created_at=time.time())
        await self._hosting(batch).accept(batch)
        if self._quota.any_limit():
            await self._admit_at_create(batch)
        if batch.input.exists():
            batch.deployment = batch.deployment or first_deployment(batch.input)
        self._batches[batch.id] = batch
        batch.task = asyncio.create_task(self._live(batch))
        return batch, self._quota.headers(batch.deployment, batch.tokens) if batch.deployment else {}

    def get(self, batch_id: str) -> Batch:
        """The batch of that id; raises HTTP 404 if there is none."""
        if batch_id not in self._batches:
            raise not_found("batch", batch_id)
        return self._batches[batch_id]

    def all(self) -> list[Batch]:
        """Every batch, newest first."""
        return list(reversed(self._batches.values()))

    def listed(self) -> list[Batch]:
        """Every batch that is in the list already, newest first."""
        listed_until = time.time() - self._options.list_delay
        return [batch for batch in reversed(self._batches.values()) if batch.created_at <= listed_until]

    async def cancel(self, batch_id: str) -> Batch:
        """The batch, now cancelling; raises HTTP 400 if it has ended. To cancel it again changes nothing."""
        batch = self.get(batch_id)
        if batch.status == "cancelling":
            return batch
        await self._until_written(batch)
        if batch.ended:
            raise ApiError(400, "invalid_request", f"A batch that is {batch.status} cannot be cancelled.")
        batch.move("cancelling")
        self._take_over(batch, partial(self._cancel, batch))
        return batch

    # --- what the control surface does -------------------------------------------------------------------------------

    async def end(self, batch_id: str, status: Status, code: str) -> Batch:
        """The batch, ended so at once, even while the clock is held; `code` is for one that shall have failed."""
        batch = self.get(batch_id)
        await self._until_written(batch)
        if batch.ended or status not in TERMINAL:
            raise ApiError(400, "invalid_request", f"A batch that is {batch.status} cannot be made {status}.")
        self._take_over(batch, partial(self._end_now, batch, status, code))
        if batch.task:
            await batch.task
        return batch

    async def clear(self) -> None:
        """Forget every batch, and what was counted."""
        tasks = [batch.task for batch in self._batches.values() if batch.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for batch in self._batches.values():
            self._leave(batch)
        self._batches.clear()
        self._scripts.clear()
        await self.execution.clear()
        await self._storage.close()

    # --- creation ----------------------------------------------------------------------------------------------------

    def _hosting(self, batch: Batch) -> Hosting:
        return self._in_blobs if batch.request.input_blob else self._in_files

    async def _admit_at_create(self, batch: Batch) -> None:
        """Enqueue the batch's tokens if create is when that is done; raises HTTP 400 `token_limit_exceeded`."""
        if await self._hosting(batch).fetch(batch) or self._options.refuse != "create":
            return  # with no input to be had, the batch is created, and then fails
        await self._inspect(batch)
        if refusal := self._admit(batch):
            batch.input.unlink()
            raise ApiError(400, "token_limit_exceeded", refusal)

    async def _inspect(self, batch: Batch) -> Inspection:
        """The inspection of the input, made once; in a thread, for a big file takes seconds."""
        if batch.inspection is None:
            endpoint = batch.request.endpoint or ""
            batch.inspection = await asyncio.to_thread(inspect, batch.input, endpoint, self._options)
            batch.deployment = batch.inspection.deployment
        return batch.inspection

    def _admit(self, batch: Batch) -> str | None:
        """Enqueue the batch's tokens, unless that is done; returns the sentence of a refusal, or None."""
        if batch.tokens or batch.inspection is None or batch.deployment is None:
            return None
        refusal = self._quota.admit(batch.deployment, batch.inspection.tokens)
        batch.tokens = 0 if refusal else batch.inspection.tokens
        return refusal

    # --- life --------------------------------------------------------------------------------------------------------

    def _take_over(self, batch: Batch, go_on: Callable[[], Awaitable[None]]) -> None:
        """Stop the task of the batch, and go on with another."""
        earlier = batch.task
        if earlier:
            earlier.cancel()  # here and now: it may be about to end the batch in its own way

        async def when_stopped() -> None:
            if earlier:
                await asyncio.wait([earlier])
            await go_on()

        batch.task = asyncio.create_task(when_stopped())

    async def _until_written(self, batch: Batch) -> None:
        """Return when the results are written of a batch that is about to end: nobody can end it otherwise any more."""
        if batch.ending and batch.task:
            await asyncio.wait([batch.task])

    async def _live(self, batch: Batch) -> None:
        try:
            await self._clock.sleep(self._options.validating_seconds)
            if await self._passes(batch):
                await self._go_through(batch)
        except Exception:
            log.exception("batch %s", batch.id)
            self._fail(batch, [Finding(code="internal_error", message="The emulator has a defect, see its log.")])

    async def _passes(self, batch: Batch) -> bool:
        """Whether the batch may run; if not, it has failed."""
        findings = await self._validate(batch)
        if findings:
            self._fail(batch, findings)
        return not findings

    async def _go_through(self, batch: Batch) -> None:
        script = self._scripts.for_batch((await self._inspect(batch)).batch_scripts)
        findings = [_scripted(script)] if script else []
        if script and script.status == "failed" and not script.late:
            self._fail(batch, findings)
            return
        batch.move("in_progress")
        if not await self._executes(batch, halfway=script is not None):
            return
        if script:
            await self._end(batch, script.status, findings)
            return
        batch.move("finalizing")
        await self._clock.sleep(self._options.finalizing_seconds)
        await self._end(batch, "completed")

    async def _cancel(self, batch: Batch) -> None:
        await self._clock.sleep(self._options.cancelling_seconds)
        await self._end(batch, "cancelled")

    async def _end_now(self, batch: Batch, status: Status, code: str) -> None:
        if status in ("completed", "expired") and not await self._passes(batch):
            return
        if status == "completed" and not await self._executes(batch, paced=False):
            return
        await self._end(batch, status, [Finding(code=code, message="The batch was made to fail.")])

    async def _validate(self, batch: Batch) -> list[Finding]:
        """What is wrong with the batch; nothing if it may run, and then its tokens are enqueued."""
        if batch.request.completion_window != "24h":
            # Any other value is taken, and then the job fails; source: how-to, section on creating the batch.
            message = "The completion window must be 24h."
            return [Finding(code="invalid_request", message=message, param="completion_window")]
        if problem := await self._hosting(batch).fetch(batch):
            return [problem]
        inspection = await self._inspect(batch)
        if inspection.findings:
            return inspection.findings
        batch.total = len(inspection.offsets)
        refusal = self._admit(batch)
        return [Finding(code="token_limit_exceeded", message=refusal)] if refusal else []

    async def _executes(self, batch: Batch, *, halfway: bool = False, paced: bool = True) -> bool:
        """Whether the lines are executed; if not, the input was changed meanwhile, and the batch has failed."""
        await self.execution.run(batch, await self._inspect(batch), halfway=halfway, paced=paced)
        problem = await self._hosting(batch).changed(batch)
        if problem:
            self._fail(batch, [problem])
        return problem is None

    # --- the end -----------------------------------------------------------------------------------------------------

    def _fail(self, batch: Batch, findings: list[Finding]) -> None:
        """The batch failed, and shows no results: no line was executed, or its input was changed."""
        batch.errors = findings
        batch.move("failed")
        self._leave(batch)

    async def _end(self, batch: Batch, status: Status, findings: list[Finding] | None = None) -> None:
        """The batch ends with what was executed; `findings` are for one that failed."""
        batch.ending = True
        if status == "expired":
            self._write_unexecuted(batch, "batch_expired", _EXPIRED)
        if status == "cancelled" and self._options.unfinished_when_cancelled == "error_file":
            self._write_unexecuted(batch, "batch_cancelled", _CANCELLED)
        if problem := await self._hosting(batch).publish(batch):
            status, findings = "failed", [problem]
        if status == "failed":
            batch.errors = findings or []
        batch.move(status)
        self._leave(batch)

    def _write_unexecuted(self, batch: Batch, code: str, message: str) -> None:
        if batch.inspection is None:
            return
        done = batch.executed or bytearray(len(batch.inspection.offsets))
        with batch.error_output.open("ab") as errors:
            for _, line in batch.inspection.lines(index for index, is_done in enumerate(done) if not is_done):
                errors.write(msgspec.json.encode(unexecuted_line(line.custom_id, code, message)) + b"\n")

    def _leave(self, batch: Batch) -> None:
        """Give back what a batch holds until it ends."""
        if batch.deployment and batch.tokens:
            self._quota.release(batch.deployment, batch.tokens)
        batch.tokens, batch.inspection, batch.executed = 0, None, bytearray()
        for path in (batch.input, batch.output, batch.error_output):
            path.unlink(missing_ok=True)


def _scripted(script: BatchScript) -> Finding:
    return Finding(code=script.code, message="The batch failed, as one of its lines asked for.")
