"""The pipeline as a state machine: what users, the host, the service, time and bad luck may do, in any order.

Each rule runs a real step of the app (intake, submission, polling, collection, poison) on the fakes. After each rule
nothing may be broken; and when the bad luck ends, everything has to come to its end by itself.
"""

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import NamedTuple, Self
from unittest import mock

from azure.core.exceptions import AzureError
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batch_fn.app import App
from batch_fn.core.batches import TransientServiceError
from batch_fn.core.errors import JobActiveError, JobFinishedError, NothingToRetryError
from batch_fn.core.jobs import Job
from batch_fn.core.report import to_iso
from batch_fn.runtime import clock
from batch_fn.steps import polling, submission
from batch_fn.steps.cancelling import cancel
from batch_fn.steps.collection import collect
from batch_fn.steps.intake import ingest
from batch_fn.steps.poison import poisoned_message
from batch_fn.steps.polling import tick
from batch_fn.steps.resume import resume
from batch_fn.steps.retrying import InconsistentResultsError, retry
from batch_fn.steps.submission import submit
from batch_fn.storage.queues import parse_message
from batch_fn.storage.rows import ConflictError
from tests.model.fakes import TRANSACTION_LIMIT, new_process
from tests.model.faults import Death, Fate, Strand, Turn
from tests.model.world import (
    ON_BLOBS,
    SETTINGS,
    STALL,
    UNKNOWN_DEPLOYMENT,
    Answer,
    Batch,
    End,
    Line,
    QueuedMessage,
    Weather,
    World,
)

type Step = Callable[[App], None]


def _request(custom_id: str, model: str | None = "gpt") -> bytes:
    body = {"messages": [{"role": "user", "content": f"Say {custom_id} of #."}]} | ({"model": model} if model else {})
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode()


DROPS: dict[str, bytes] = {
    "one line": _request("a"),
    "two lines": b"\n".join([_request("a"), _request("b")]),
    "two parts": b"\n".join(map(_request, "abcd")),
    "four parts": b"\n".join(map(_request, "abcdefghij")),
    "untidy": b"\r\n\n".join([_request("a"), _request("b"), b""]),
    "two parts, untidy": b"\r\n\n".join([*map(_request, "abcd"), b""]),
    "to be filled in": _request("a", None),
    "another deployment": _request("a", "other"),
    "mixed": b"\n".join([_request("a"), _request("b", "other"), _request("c"), _request("d", "other")]),
    "unknown deployment": _request("a", UNKNOWN_DEPLOYMENT),
    "a bad line": b"\n".join([_request("a"), b'{"custom_id": ']),
    "empty": b"",
}
METADATA = {"to be filled in": {"deployment": "gpt"}}
NAMES = ("monday.jsonl", "sales/tuesday.jsonl", "wednesday.jsonl")

type Luck = tuple[Fate, int] | None
"""None, or what happens at the n-th call of a step where it makes a difference."""


class Delivery(StrEnum):
    """What the host does with a message."""

    ONCE = "delivered"
    TWICE = "delivered, and will be again"
    LOST = "lost"
    POISONED = "given up after five tries, and handed to the poison function"


names = st.sampled_from(NAMES)
kinds = st.sampled_from(["one line", "two lines", *DROPS])
"""The small ones more often: they ride together."""
ends = st.sampled_from(End)
times = st.sampled_from([0, 61, 101, 310])


def lucks(calls: int) -> st.SearchStrategy[Luck]:
    """Bad luck, two times out of three, at one of the first calls."""
    bad = st.tuples(st.sampled_from(Fate), st.integers(0, calls))
    return st.one_of(bad, bad, st.none())


ROUNDS = 80
"""How many rounds of undisturbed work may pass until everything has come to its end."""


class Pipeline(RuleBasedStateMachine):
    """The app between its users, its host and the service."""

    settings = SETTINGS

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.settings)
        self.strands: list[tuple[Strand, Turn]] = []
        self.checked: set[str] = set()
        """The ETag of each report that was found whole."""
        self.reports: dict[tuple[str, str], str] = {}
        """The job id of each version's report."""
        self.cancelled: set[tuple[str, datetime | None]] = set()
        """The jobs that were cancelled, and when they had been retried before."""
        self.retried: dict[str, datetime] = {}
        """Each job that somebody was told is retried: its last retry began then, or later."""
        self._patches = contextlib.ExitStack()
        self._patches.enter_context(mock.patch.object(clock, "now", lambda: self.world.now))
        self._patches.enter_context(mock.patch.object(polling, "ThreadPoolExecutor", OneAfterTheOther))
        self._patches.enter_context(mock.patch.object(submission, "TRANSACTION_LIMIT", TRANSACTION_LIMIT))
        self._patches.enter_context(mock.patch("secrets.token_hex", lambda _: f"{self.world.count():010x}"))
        # A million warnings of bad luck help nobody.
        self._patches.enter_context(mock.patch.object(logging.getLogger("batch_fn"), "disabled", True))

    # What users do

    @initialize(kinds=st.lists(kinds, min_size=1, max_size=3))
    def the_first_files_are_dropped(self, kinds: list[str]) -> None:
        for name, kind in zip(NAMES, kinds, strict=False):
            self.a_user_drops_a_file(name, kind)

    @rule(name=names, kind=kinds)
    def a_user_drops_a_file(self, name: str, kind: str) -> None:
        self.world.drop(name, DROPS[kind], METADATA.get(kind, {}))

    @precondition(lambda self: self.world.inbox())
    @rule(pick=st.integers(0, 2))
    def a_user_deletes_a_file(self, pick: int) -> None:
        name = _pick(list(self.world.inbox()), pick)
        del self.world.blobs[SETTINGS.input_container, name]

    @precondition(lambda self: self.world.begun)
    @rule(pick=st.integers(0, 3), luck=lucks(8))
    def a_user_cancels_a_job(self, pick: int, luck: Luck) -> None:
        job_id = _pick(list(self.world.begun), pick)

        def step(app: App) -> None:
            with contextlib.suppress(JobFinishedError):
                answer = cancel(app, job_id)
                if isinstance(answer, Job):
                    self.cancelled.add((job_id, answer.retried_at))

        self._run(step, _turn(luck))

    @precondition(lambda self: self.world.history)
    @rule(pick=st.integers(0, 3), luck=lucks(8))
    def a_user_retries_a_job(self, pick: int, luck: Luck) -> None:
        job_id = _pick(list(self.world.history), pick)
        self.world.retried.add(job_id)

        def step(app: App) -> None:
            asked_at = self.world.now
            with contextlib.suppress(JobActiveError, NothingToRetryError):
                retried_at = retry(app, job_id).retried_at
                assert retried_at is not None
                # Another's that was asked for later may have been done already, and is as good.
                began = min(asked_at, retried_at)
                self.retried[job_id] = max(began, self.retried.get(job_id, began))

        self._run(step, _turn(luck))

    # What the host does

    @rule(name=names, luck=lucks(6))
    def the_event_of_a_drop_comes(self, name: str, luck: Luck) -> None:
        self._run(_event(name), _turn(luck))

    @precondition(lambda self: self.world.messages)
    @rule(pick=st.integers(0, 4), how=st.sampled_from(Delivery), luck=lucks(10))
    def a_message_comes(self, pick: int, how: Delivery, luck: Luck) -> None:
        if not self._visible():
            self.time_passes(SETTINGS.bundle_seconds)
        message, turn = _pick(self._visible(), pick), _turn(luck)
        match how:
            case Delivery.ONCE:
                self._deliver(message, turn)
            case Delivery.TWICE:
                self._run(_errand(message), turn)
            case Delivery.LOST:
                self.world.messages.remove(message)
            case Delivery.POISONED:
                self.world.messages.remove(message)
                self.world.poisoned.add(parse_message(message.body).job_id)
                self._run(lambda app: poisoned_message(app, message.body), turn)

    @rule(luck=lucks(10))
    def the_timer_ticks(self, luck: Luck) -> None:
        self._run(tick, _turn(luck))

    @rule(seconds=times, ends=st.none() | ends, luck=lucks(24))
    def all_goes_on_for_a_while(self, seconds: int, ends: End | None, luck: Luck) -> None:
        """What mostly happens: a batch ends, the timer ticks, and every event and every message comes."""
        turn = _turn(luck)
        self.time_passes(seconds)
        if ends and self.world.open_batches():
            self.world.end(self.world.open_batches()[0], ends)
        self._run(tick, turn)
        for name in self.world.inbox():
            self._run(_event(name), turn)
        for message in self._visible():
            self._deliver(message, turn)

    @precondition(lambda self: self.strands)
    @rule(pick=st.integers(0, 1), dies=st.booleans())
    def a_process_that_was_held_up_goes_on(self, pick: int, dies: bool) -> None:
        self._go_on(_pick(self.strands, pick)[0], dies=dies)

    # What the service does

    @precondition(lambda self: self.world.open_batches())
    @rule(pick=st.integers(0, 2), does=st.sampled_from(Answer) | ends)
    def the_service_works(self, pick: int, does: Answer | End) -> None:
        batch = _pick(self.world.open_batches(), pick)
        if isinstance(does, Answer):
            self.world.run_line(batch, does)
        else:
            self.world.end(batch, does)

    @precondition(lambda self: self.world.unread_files())
    @rule(pick=st.integers(0, 2))
    def an_input_file_expires(self, pick: int) -> None:
        del self.world.files[_pick(self.world.unread_files(), pick)]

    @rule(weather=st.sampled_from(Weather) | st.integers(20, 120))
    def the_weather_changes(self, weather: Weather | int) -> None:
        """A mood of the service begins or ends, or it has, or has no more, a limit of so many tokens."""
        if isinstance(weather, Weather):
            self.world.weather ^= {weather}
        else:
            self.world.token_limit = None if self.world.token_limit else weather

    # Time

    @rule(seconds=times)
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)
        for strand, _ in list(self.strands):
            if self.world.now - strand.held_since > STALL:
                self._go_on(strand, dies=True)

    # What must hold

    @invariant()
    def no_rule_is_broken(self) -> None:
        for path in self._new_reports():
            try:
                self._check_report(path)
            except AssertionError as error:
                self.world.breaks(f"the report {path}: {error}")
        assert not self.world.broken, "; ".join(self.world.broken)

    def teardown(self) -> None:
        try:
            if not self.world.broken:
                self.everything_comes_to_its_end()
        finally:
            for strand, _ in list(self.strands):
                self._go_on(strand, dies=True)
            self._patches.close()

    def everything_comes_to_its_end(self) -> None:
        """The bad luck is over: after a while nothing is in hand any more, and nothing was lost."""
        world = self.world
        world.weather.clear()
        world.token_limit = None
        for strand, _ in list(self.strands):
            self._go_on(strand, dies=False)
        for _ in range(ROUNDS):
            for message in self._visible():
                self._deliver(message, Turn())
            for batch in world.open_batches():
                world.end(batch, End.COMPLETED)
            self._run(tick, Turn())
            self.no_rule_is_broken()
            if not (world.rows or world.messages or world.inbox()):
                break
            world.now += timedelta(seconds=310)
        assert not world.rows, f"still in hand: {list(world.rows.values())}"
        assert not world.inbox(), f"still in the inbox: {list(world.inbox())}"
        for job_id in world.begun:
            assert world.job_reported(job_id), f"{job_id} has no report"
            assert job_id in world.history, f"{job_id} is not in the history"
            assert job_id in world.completed, f"nobody was told of {job_id}"
        for job_id, retried_at in self.cancelled:
            finished = world.history[job_id]
            path = world.begun[job_id].path
            report = json.loads(world.blobs[SETTINGS.reports_container, f"{path}.json"].content)
            if report["times"]["retried"] == to_iso(retried_at) and job_id not in world.poisoned:
                assert finished.status in {"cancelled", "rejected"}, f"{job_id} was cancelled, and is {finished.status}"
        for job_id, retried_at in self.retried.items():
            path = world.begun[job_id].path
            report = json.loads(world.blobs[SETTINGS.reports_container, f"{path}.json"].content)
            if job_id not in world.poisoned:
                again = report["times"]["retried"] or ""
                assert again >= str(to_iso(retried_at)), f"{job_id} was retried, and has no new report"
        assert not world.files, f"left at the service: {[file.name for file in world.files.values()]}"
        left = [name for container, name in world.blobs if container == SETTINGS.work_container]
        assert not left, f"left in the work container: {left}"

    # How it is done

    def _run(self, step: Step, turn: Turn) -> bool:
        """Run a step in a process of its own. Return whether it came to its end."""
        ended = False

        def process() -> None:
            nonlocal ended
            try:
                step(new_process(self.world))
                ended = True
            except Death:
                pass
            except Exception as error:
                if not (turn.disturbed and _may_be_raised(error)):
                    self.world.breaks(f"a step failed: {error!r}")
                    if not turn.disturbed:
                        raise

        self.world.turn = turn
        if turn.fate is not Fate.STALLS or turn.disturbed:
            process()
            return ended
        strand = turn.strand = Strand(process)
        strand.start()
        if strand.held_at is not None:
            strand.held_since = self.world.now
            self.strands.append((strand, turn))
        return ended

    def _go_on(self, strand: Strand, *, dies: bool) -> None:
        turn = next(turn for each, turn in self.strands if each is strand)
        self.strands.remove((strand, turn))
        self.world.turn = turn
        if dies:
            strand.die()
        else:
            strand.go_on()

    def _deliver(self, message: QueuedMessage, turn: Turn) -> None:
        """Deliver a message; it leaves the queue when its step has come to its end."""
        if self._run(_errand(message), turn):
            self.world.messages.remove(message)

    def _visible(self) -> list[QueuedMessage]:
        """Return the messages that the host may deliver by now."""
        return [message for message in self.world.messages if message.visible_at <= self.world.now]

    def _new_reports(self) -> Iterator[str]:
        for (container, name), blob in list(self.world.blobs.items()):
            if container == SETTINGS.reports_container and blob.etag not in self.checked:
                self.checked.add(blob.etag)
                yield name.removesuffix(".json")

    def _check_report(self, path: str) -> None:
        """A report is there: so is all that it speaks of, whole, and it adds up."""
        world = self.world
        report = json.loads(world.blobs[SETTINGS.reports_container, f"{path}.json"].content)
        job_id, status, counts = report["job_id"], report["status"], report["counts"]
        version = (report["input"]["name"], report["input"]["etag"])
        assert self.reports.setdefault(version, job_id) == job_id, f"{version} has two reports"
        jobs = [job for job in world.begun.values() if (job.name, job.etag) == version]
        assert len(jobs) == 1, f"{version} has more than one job"
        output = _lines(world, SETTINGS.output_container, path, report["outputs"]["output"])
        # The errors of before a retry may be there a little longer.
        late = report["times"]["retried"] and report["outputs"]["errors"] is None and world.job_in_hand(job_id)
        errors = [] if late else _lines(world, SETTINGS.errors_container, path, report["outputs"]["errors"])
        drop = next(number for number, each in world.dropped.items() if each == version)
        batches = [b for b in world.batches.values() if any(line.drop == drop for line in b.lines.values())]
        if status == "rejected":
            assert not batches, f"{job_id} was rejected, and submitted"
            assert not output and len(errors) == report["finding_count"] > 0
            return
        custom_ids = [json.loads(line)["custom_id"] for line in world.versions[version].splitlines() if line.strip()]
        succeeded, failed = _custom_ids(output), _custom_ids(errors)
        assert Counter(succeeded) + Counter(failed) == Counter(custom_ids), f"{job_id} does not add up"
        assert succeeded == [each for each in custom_ids if each in succeeded], f"{job_id} is out of order"
        assert failed == [each for each in custom_ids if each in failed], f"{job_id} is out of order"
        assert counts == {"requests": len(custom_ids), "succeeded": len(succeeded), "failed": len(failed)}
        answered = _answered(batches, drop)
        assert set(map(_canonical, output)) == set(answered.values()), f"{job_id} has not what the service answered"
        alone = {answer for batch in batches if not batch.bundle for answer in map(batch.answer, batch.answers)}
        assert all(line in alone for line in output if not _rode(line, world)), f"{job_id} has other words for it"
        assert world.blobs[SETTINGS.archive_container, f"{path}.jsonl"].content == world.versions[version]
        if report["times"]["cancelled"]:
            assert status == "cancelled"
            return
        expected = "succeeded" if not failed else "partially_succeeded" if succeeded else "failed"
        assert status == expected


class PipelineOnBlobs(Pipeline):
    """The same with SUBMIT_MODE=blob: the service reads and writes blobs, and knows of no metadata."""

    settings = ON_BLOBS


class OneAfterTheOther:
    """In the place of a pool of threads: a run must be the same each time."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit[T, R](self, work: Callable[[T], R], item: T) -> "Done[R]":
        return Done(work(item))


class Done[R](NamedTuple):
    """What a pool gives for work, when that is done."""

    value: R

    def result(self) -> R:
        return self.value


def _event(name: str) -> Step:
    """Return the step that the event of a drop calls for."""

    def step(app: App) -> None:
        ingest(app, name)

    return step


def _errand(message: QueuedMessage) -> Step:
    """Return the step that a message calls for."""
    errand = parse_message(message.body)
    match message.queue:
        case "drop":
            return partial(resume, message=errand)
        case "submit":
            return partial(submit, job_id=errand.job_id, key=errand.part)
        case _:
            return partial(collect, job_id=errand.job_id)


def _turn(luck: Luck) -> Turn:
    return Turn(*luck) if luck else Turn()


def _pick[T](choices: list[T], number: int) -> T:
    return choices[number % len(choices)]


def _may_be_raised(error: Exception) -> bool:
    """Return whether a step that met bad luck may let that error out, for the host to try again."""
    if isinstance(error, ExceptionGroup):
        return all(map(_may_be_raised, error.exceptions))
    return isinstance(error, AzureError | TransientServiceError | ConflictError | InconsistentResultsError)


def _lines(world: World, container: str, path: str, place: str | None) -> list[bytes]:
    """Return the lines of a blob of results, which is there if, and only if, the report names it."""
    blob = world.blobs.get((container, f"{path}.jsonl"))
    assert place == (f"{container}/{path}.jsonl" if blob else None), f"{container}/{path} is not as the report says"
    return blob.content.splitlines(keepends=True) if blob else []


def _custom_ids(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["custom_id"] for line in lines]


def _canonical(line: bytes) -> str:
    return json.dumps(json.loads(line))


def _rode(line: bytes, world: World) -> bool:
    """Return whether that answer was given to a line in a bundle, under another custom_id."""
    return bool(world.batches[json.loads(line)["response"]["body"]["batch"]].bundle)


def _answered(batches: list[Batch], drop: str) -> dict[Line, str]:
    """Return what the service answered to the lines of a drop, and has not forgotten."""
    return {
        line: json.dumps(json.loads(batch.answer(sent)) | {"custom_id": line.custom_id})
        for batch in batches
        for line, sent in batch.answered.items()
        if line.drop == drop and not batch.gone
    }
