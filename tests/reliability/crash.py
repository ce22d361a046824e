"""One small job, and the process dies at every single call that it makes to storage or service.

`make crash`, or `python -m tests.reliability.crash [--story NAME] [--every N] [--only K:before|K:after] [--jobs N]
[--list]`.

For every k the app lives once until its k-th call, and dies before that call is sent; and once more, to die when it
has been answered but before the app sees the answer. Then it lives again, with messages delivered again, until all is
quiet; and then every promise must have been kept. There is a story of a job that nobody touches, and some of one that a
user cancels or retries; a user who got no answer asks again.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import azurefunctions.extensions.bindings.blob  # noqa: F401 - imported once, by the parent of all lives
import openai  # noqa: F401 - likewise
from azure.storage.queue import QueueClient

import batch_fn.steps.cancelling
import batch_fn.steps.collection
import batch_fn.steps.intake
import batch_fn.steps.retrying
import batch_fn.steps.submission  # noqa: F401 - likewise
from batch_fn.settings import Settings
from devkit.azure_openai.process import AzureOpenAI
from devkit.azurite import Azurite
from devkit.stack import provision
from tests.reliability.checks import Place, as_it_stands, broken_promises, look, stands
from tests.reliability.driver import KILLED, Answer, Ask, Death, Life, live
from tests.reliability.drops import Cancel, Drop, Dropped, good, mended, unlucky, wrong

NAMES = {
    "INPUT_CONTAINER": "-input",
    "OUTPUT_CONTAINER": "-output",
    "ERRORS_CONTAINER": "-errors",
    "REPORTS_CONTAINER": "-reports",
    "ARCHIVE_CONTAINER": "-archive",
    "WORK_CONTAINER": "-work",
    "DROP_QUEUE": "-drop",
    "SUBMIT_QUEUE": "-submit",
    "COLLECT_QUEUE": "-collect",
    "COMPLETED_QUEUE": "-completed",
    "JOBS_TABLE": "jobs",
    "WORK_TABLE": "work",
    "DEPLOYMENTS_TABLE": "deployments",
}
"""Each experiment has a storage of its own, by these endings of its names."""

SETTINGS = {
    "MAX_PART_REQUESTS": "3",
    # A dead claim ends, a part's message is sent again, and a lost create is believed lost, in this order.
    "CLAIM_SECONDS": "15",
    "RESEND_SECONDS": "25",
    "SETTLE_SECONDS": "35",
    "DOCTOR_SECONDS": "0",
}

MOST_COMPLAINTS = 12
"""How many are told of one outcome."""


def small_job() -> Drop:
    """Return two parts: a line of the first fails for good, one of the second goes into a second attempt."""
    return Drop("monday/small.jsonl", (good(), wrong(), good(), unlucky(), good()))


def refused_at_first() -> Drop:
    """Return two parts, each with a line that fails for good, and succeeds when it is retried."""
    return Drop("monday/refused.jsonl", (good(), mended(), good(), mended(), good()))


@dataclass(frozen=True)
class Story:
    """What is dropped, and what a user asks."""

    drop: Callable[[], Drop] = small_job
    ask: Ask | None = None
    after_death: bool = False
    """The user asks only when the app lives again."""


STORIES = {
    "untouched": Story(),
    "cancelled-unsent": Story(ask=Ask("cancel", frozenset({"waiting"}))),
    "cancelled-open": Story(ask=Ask("cancel", frozenset({"open"}))),
    "cancelled-half-settled": Story(ask=Ask("cancel", frozenset({"settled", "open"}))),
    "cancelled-after-death": Story(ask=Ask("cancel"), after_death=True),
    "retried": Story(refused_at_first, Ask("retry")),
}


@dataclass(frozen=True)
class Outcome:
    """What came of one experiment."""

    story: str
    death: Death | None
    calls: list[str]
    """Of the first life, from what the user asked on; an upload that asks storage for its content has begun before that
    call, and ends after it."""
    complaints: list[str]
    seconds: float

    @property
    def what(self) -> str:
        """When and where the app died: `--story untouched --only 41:before tables PUT work`."""
        if self.death is None:
            return f"--story {self.story}, nothing went wrong"
        where = self.calls[self.death.call - 1] if self.death.call <= len(self.calls) else "no death"
        return f"--story {self.story} --only {self.death} {where}"


class Laboratory:
    """A storage and a service of which each experiment gets a fresh piece."""

    def __init__(self, connection_string: str) -> None:
        self._connection_string = connection_string
        self._service = AzureOpenAI(token_limit=1_000_000)  # with a limit, so that there is a quota to keep track of
        with _stderr_thrown_away():  # the emulator tells of each connection that a death cuts off
            self._service.start()
        self._numbers = itertools.count(1)

    def experiment(self, name: str, death: Death | None) -> Outcome:
        """Let a story be lived through, by an app that dies once and lives again."""
        started = time.monotonic()
        story = STORIES[name]
        place, environment = self._fresh_place()
        drop = story.drop()
        dropped = Dropped(drop, place.user.drop(drop.name, drop.content))
        complaints: list[str] = []

        def lived(when: str, *, event: bool, ask: Ask | None = None, death: Death | None = None) -> Life:
            life = live(place, environment, dropped, event=event, ask=ask, death=death)
            complaints.extend(f"in the {when} life: {error}" for error in life.errors)
            if death is None and not life.quiet:
                complaints.append(f"in the {when} life it never became quiet")
            if life.answer:
                complaints.extend(_take_answer(dropped, story, life.answer))
            return life

        if story.ask and story.ask.what == "retry":
            lived("former", event=True)
            dropped.former = [as_it_stands(place, dropped)]
        first = lived("first", event=not dropped.former, ask=None if story.after_death else story.ask, death=death)
        if death is not None:
            complaints += _wrong_death(first, death)
            if dropped.former and not stands(place, dropped):
                complaints.append("the former report is gone, and there is no new one")
            _give_back(place, first)
            ask = Ask(story.ask.what) if story.ask and not first.answer else None
            # Of each two neighbouring deaths, one loses the drop's event for good: then the tick must find the drop.
            lived("second", event=death.when == "before", ask=ask)
        complaints += broken_promises(look(place), [dropped])
        return Outcome(name, death, first.calls, complaints, time.monotonic() - started)

    def _fresh_place(self) -> tuple[Place, dict[str, str]]:
        self._service.reset()
        self._service.hold()
        prefix = f"r{os.getpid()}x{next(self._numbers)}"
        environment = {
            "BatchStorage": self._connection_string,
            "AZURE_OPENAI_ENDPOINT": self._service.url,
            "AZURE_OPENAI_API_KEY": self._service.api_key,
            **SETTINGS,
            **{setting: prefix + ending for setting, ending in NAMES.items()},
        }
        settings = Settings.read(environment)
        provision(self._connection_string, settings)
        return Place(self._connection_string, settings, self._service), environment


@contextlib.contextmanager
def _stderr_thrown_away() -> Iterator[None]:
    """What is started in here has no stderr to speak of."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _take_answer(dropped: Dropped, story: Story, answer: Answer) -> list[str]:
    """Note what the user may count on from now on. Return what is wrong with the answer."""
    if answer.status in {HTTPStatus.OK, HTTPStatus.ACCEPTED}:
        if story.ask and story.ask.what == "cancel":
            dropped.cancel = Cancel(answer.batches)
        return []
    late = story.after_death and answer.status == HTTPStatus.CONFLICT
    return [] if late else [f"the user was answered {answer.status}"]


def _wrong_death(life: Life, death: Death) -> list[str]:
    """A death that did not come as planned proves nothing."""
    if life.exit_code != KILLED or len(life.calls) < death.call:
        return [f"it should have died at call {death.call}, but ended with {life.exit_code} after {len(life.calls)}"]
    return []


def _give_back(place: Place, life: Life) -> None:
    """Show the message again that the dead had in hand, without the wait for its visibility to run out."""
    if life.held:
        queue, message, receipt = life.held
        client = QueueClient.from_connection_string(place.connection_string, queue)
        client.update_message(message, receipt, visibility_timeout=0)


_laboratory: Laboratory


def _open_laboratory(connection_string: str) -> None:
    global _laboratory
    _laboratory = Laboratory(connection_string)


def _experiment(story: str, death: Death | None) -> Outcome:
    return _laboratory.experiment(story, death)


class Laboratories:
    """As many processes as there are jobs to do at a time, each with a service of its own; the storage is shared."""

    def __init__(self, jobs: int) -> None:
        self._azurite = Azurite()
        self._jobs = jobs

    def __enter__(self) -> "Laboratories":
        self._azurite.start()
        self._pool = ProcessPoolExecutor(
            self._jobs,
            # Not forked from here: here are threads, and there must be none where drivers are forked.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_open_laboratory,
            initargs=(self._azurite.connection_string,),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._azurite.__exit__(None, None, None)

    def undisturbed(self, story: str) -> Outcome:
        """Return how it goes when nothing goes wrong."""
        return self._pool.submit(_experiment, story, None).result()

    def deaths(self, story: str, deaths: Iterable[Death]) -> Iterator[Outcome]:
        """Yield what came of each death, in order."""
        return self._pool.map(partial(_experiment, story), deaths)


def every_death(calls: int, *, every: int = 1) -> list[Death]:
    """Return each death in a life of that many calls, or those of every so manieth call."""
    return [death for call in range(1, calls + 1, every) for death in (Death(call, "before"), Death(call, "after"))]


def spread(calls: int, count: int) -> list[Death]:
    """Return that many deaths, spread evenly over a life of that many calls; every second one comes after its call."""
    numbers = [1 + round(n * (calls - 1) / (count - 1)) for n in range(count)]
    return [Death(call, "after" if n % 2 else "before") for n, call in enumerate(numbers)]


def table(calls: Iterable[str]) -> str:
    """Return the calls by kind, the most frequent first."""
    counted = Counter(calls)
    rows = [f"{count:5}  {call}" for call, count in sorted(counted.items(), key=lambda row: (-row[1], row[0]))]
    return "\n".join([f"{counted.total():5}  calls to storage and service", *rows])


def main() -> int:
    """Try every death; return 1 if any broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.crash", description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try every Nth call only")
    parser.add_argument(
        "--only", action="append", metavar="K:WHEN", help="try that death, K:before or K:after; may be repeated"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (2)")
    parser.add_argument("--list", action="store_true", help="show the calls of a life without a fault, in order")
    parser.add_argument("--story", choices=STORIES, action="append", help="try that story; may be repeated")
    arguments = parser.parse_args()
    started = time.monotonic()
    outcomes = []
    with Laboratories(arguments.jobs) as laboratories:
        for story in arguments.story or STORIES:
            calm = laboratories.undisturbed(story)
            _say(f"{story}: {len(calm.calls)} calls to storage and service")
            if arguments.list:
                _say("\n".join(f"{number:5}  {call}" for number, call in enumerate(calm.calls, 1)))
                _say(table(calm.calls))
            deaths = every_death(len(calm.calls), every=arguments.every)
            if arguments.only:
                deaths = [death for death in deaths if str(death) in arguments.only]
            if arguments.list or calm.complaints:
                deaths = []
            for outcome in itertools.chain([calm], laboratories.deaths(story, deaths)):
                outcomes.append(outcome)
                if outcome.complaints:
                    _say(_story(outcome))
            _say(f"{len(outcomes)} points tried so far, {time.monotonic() - started:.0f} s")
    return _end(outcomes, started)


def _story(outcome: Outcome) -> str:
    told = [textwrap.indent(complaint.strip(), "  ") for complaint in outcome.complaints[:MOST_COMPLAINTS]]
    more = [f"  and {len(outcome.complaints) - len(told)} more"] if len(outcome.complaints) > len(told) else []
    return "\n".join([f"Broken: {outcome.what}", *told, *more])


def _end(outcomes: list[Outcome], started: float) -> int:
    failed = [outcome for outcome in outcomes if outcome.complaints]
    _say(f"{len(outcomes)} points tried, {len(outcomes) - len(failed)} passed, {time.monotonic() - started:.0f} s")
    for outcome in failed:
        _say(f"failed: {outcome.what}")
    return 1 if failed else 0


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is a program for the terminal


if __name__ == "__main__":
    sys.exit(main())
