"""One small job, and the process dies at every single call that it makes to storage or service.

`make crash`, or `python -m tests.reliability.crash [--every N] [--only K:before|K:after] [--jobs N] [--list]`.

For every k the app lives once until its k-th call, and dies before that call is sent; and once more, to die when it
has been answered but before the app sees the answer. Then it lives again, with messages delivered again, until all is
quiet; and then every promise must have been kept.
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
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import azurefunctions.extensions.bindings.blob  # noqa: F401 - imported once, by the parent of all lives
import openai  # noqa: F401 - likewise
from azure.storage.queue import QueueClient

import batch_fn.collection
import batch_fn.intake
import batch_fn.submission  # noqa: F401 - likewise
from batch_fn.settings import Settings
from devkit.azure_openai.process import AzureOpenAI
from devkit.azurite import Azurite
from devkit.stack import provision
from tests.reliability.checks import Place, broken_promises, look
from tests.reliability.driver import KILLED, Death, Life, live
from tests.reliability.drops import Drop, Dropped, good, unlucky, wrong

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
}

MOST_COMPLAINTS = 12
"""How many are told of one outcome."""


def small_job() -> Drop:
    """Return two parts: a line of the first fails for good, one of the second goes into a second attempt."""
    return Drop("monday/small.jsonl", (good(), wrong(), good(), unlucky(), good()))


@dataclass(frozen=True)
class Outcome:
    """What came of one experiment."""

    death: Death | None
    calls: list[str]
    """Of the first life; an upload that asks storage for its content has begun before that call, and ends after it."""
    complaints: list[str]
    seconds: float

    @property
    def what(self) -> str:
        """When and where the app died: `41:before tables PUT work`."""
        if self.death is None:
            return "nothing went wrong"
        return f"{self.death} {self.calls[self.death.call - 1]}" if self.death.call <= len(self.calls) else "no death"


class Laboratory:
    """A storage and a service of which each experiment gets a fresh piece."""

    def __init__(self, connection_string: str) -> None:
        self._connection_string = connection_string
        self._service = AzureOpenAI(token_limit=1_000_000)  # with a limit, so that there is a quota to keep track of
        with _stderr_thrown_away():  # the emulator tells of each connection that a death cuts off
            self._service.start()
        self._numbers = itertools.count(1)

    def experiment(self, death: Death | None) -> Outcome:
        """Let the small job be done, by an app that dies once and lives again."""
        started = time.monotonic()
        place, environment = self._fresh_place()
        drop = small_job()
        dropped = Dropped(drop, place.user.drop(drop.name, drop.content))
        first = live(place, environment, drop.name, event=True, death=death)
        complaints = [f"in the first life: {error}" for error in first.errors]
        if death is not None:
            complaints += _wrong_death(first, death)
            _give_back(place, first)
            # Of each two neighbouring deaths, one loses the drop's event for good: then the tick must find the drop.
            second = live(place, environment, drop.name, event=death.when == "before")
            complaints += [f"in the second life: {error}" for error in second.errors]
            complaints += [] if second.quiet else ["it never became quiet"]
        complaints += broken_promises(look(place), [dropped])
        return Outcome(death, first.calls, complaints, time.monotonic() - started)

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


def _experiment(death: Death | None) -> Outcome:
    return _laboratory.experiment(death)


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

    def undisturbed(self) -> Outcome:
        """Return how it goes when nothing goes wrong."""
        return self._pool.submit(_experiment, None).result()

    def deaths(self, deaths: Iterable[Death]) -> Iterator[Outcome]:
        """Yield what came of each death, in order."""
        return self._pool.map(_experiment, deaths)


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
    title = f"Calls to storage and service for one small job: {counted.total()}"
    return "\n".join([title, *rows])


def main() -> int:
    """Try every death; return 1 if any broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.crash", description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try every Nth call only")
    parser.add_argument(
        "--only", action="append", metavar="K:WHEN", help="try that death, K:before or K:after; may be repeated"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (2)")
    parser.add_argument("--list", action="store_true", help="show the calls of a life without a fault, in order")
    arguments = parser.parse_args()
    started = time.monotonic()
    with Laboratories(arguments.jobs) as laboratories:
        calm = laboratories.undisturbed()
        _say("\n".join(f"{number:5}  {call}" for number, call in enumerate(calm.calls, 1)) if arguments.list else "")
        _say(table(calm.calls))
        if calm.complaints:
            _say(_story(calm))
        if arguments.list or calm.complaints:
            return _end([calm], started)
        deaths = every_death(len(calm.calls), every=arguments.every)
        if arguments.only:
            deaths = [death for death in deaths if str(death) in arguments.only]
        outcomes = []
        for outcome in laboratories.deaths(deaths):
            outcomes.append(outcome)
            if len(outcomes) % 20 == 0:
                _say(f"{len(outcomes)} of {len(deaths)} deaths, {time.monotonic() - started:.0f} s")
            if outcome.complaints:
                _say(_story(outcome))
        return _end(outcomes, started)


def _story(outcome: Outcome) -> str:
    told = [textwrap.indent(complaint.strip(), "  ") for complaint in outcome.complaints[:MOST_COMPLAINTS]]
    more = [f"  and {len(outcome.complaints) - len(told)} more"] if len(outcome.complaints) > len(told) else []
    return "\n".join([f"Broken: {outcome.what}", *told, *more])


def _end(outcomes: list[Outcome], started: float) -> int:
    failed = [outcome for outcome in outcomes if outcome.complaints]
    _say(f"{len(outcomes)} points tried, {len(outcomes) - len(failed)} passed, {time.monotonic() - started:.0f} s")
    for outcome in failed:
        _say(f"failed: --only {outcome.what}")
    return 1 if failed else 0


def _say(text: str) -> None:
    if text:
        print(text, flush=True)  # noqa: T201 - this is a program for the terminal


if __name__ == "__main__":
    sys.exit(main())
