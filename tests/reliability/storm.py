"""Hundreds of jobs of every kind, while all around them fails: the service, the storage, the workers and the hosts.

Users cancel and retry some of them meanwhile.

`make storm`, or `python -m tests.reliability.storm [--seed N] [--jobs N] [--minutes N]`.

What is dropped and what goes wrong, and when, is a plan that is made of the seed alone, so a seed replays it; how it
falls out on the way is the machine's. When the storm is over and all is quiet, every promise must have been kept.
"""

import argparse
import contextlib
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from azure.core.exceptions import AzureError

from devkit.host.process import FunctionsHost, HostError
from devkit.stack import PROJECT, Stack
from tests.reliability.checks import Place, broken_promises, look, work_left
from tests.reliability.drops import (
    Drop,
    Dropped,
    Line,
    ends_its_batch,
    good,
    hopeless,
    left_out,
    mended,
    unlucky,
    wrong,
)
from tests.reliability.users import WISHES, Users, Wish, wishes_for

SETTINGS = {
    "MAX_PART_REQUESTS": "10",
    # As in production: who is slow is given up on late, and a lost create is believed lost only when it must be seen.
    "RESEND_SECONDS": "10",
    "CLAIM_SECONDS": "12",
    "SETTLE_SECONDS": "10",
    "QUOTA_BACKOFF_SECONDS": "1",
}
SERVICE: dict[str, object] = {"speed": 100, "token_limit": 10_000, "list_delay": 1.0}
HOST: dict[str, str | float | bool] = {
    "receive_visibility_seconds": 5,
    "lock_seconds": 15,
    "break_locks": True,
    "event_seconds": 0.3,
    "max_poll_seconds": 0.5,
}
CALM = 0.85
"""The last part of the time is for what is still under way."""
QUIET_SECONDS = 600
"""So long after the storm all must be done."""
STEADY_SECONDS = 4
"""And so long nothing may change then."""


# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trouble:
    """Something that goes wrong."""

    at: float
    """Seconds from the start."""
    what: str
    """The name of a method of `_Chaos`."""
    seconds: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:6.1f}  {self.what}{lasting} {self.options or ''}".rstrip()


@dataclass(frozen=True)
class Plan:
    """All that a storm does."""

    seed: int
    seconds: float
    drops: Sequence[tuple[float, Drop, tuple[Wish, ...]]]
    """With the second at which each is dropped, and what a user wishes for it then."""
    troubles: Sequence[Trouble]
    host: dict[str, str | float | bool]
    """Options of the host that is there from the start."""


def make_plan(seed: int, jobs: int, seconds: float) -> Plan:
    """Return the storm of that seed."""
    chance = random.Random(seed)
    drops = [(chance.uniform(0, seconds * CALM), drop) for drop in _drops(chance, jobs)]
    troubles = _troubles(chance, seconds * CALM)
    host = HOST | _event_trouble(chance)
    wished = [WISHES[number] if number < len(WISHES) else chance.choice(WISHES) for number in range(jobs)]
    each = [(at, drop, wishes_for(chance, whats)) for (at, drop), whats in zip(drops, wished, strict=True)]
    return Plan(seed, seconds, sorted(each, key=lambda each: each[0]), troubles, host)


def _drops(chance: random.Random, jobs: int) -> list[Drop]:
    """Return files of every kind; some have the name of another, and are its next version."""
    kinds = [_plain, _with_bad_lines, _with_bad_lines, _whose_batch_ends, _in_parts, _in_parts, _spoiled]
    drops: list[Drop] = []
    for number in range(jobs):
        kind = kinds[number] if number < len(kinds) else chance.choice(kinds)  # of each kind one at least
        again = bool(drops) and chance.random() < 0.1
        name = chance.choice(drops).name if again else f"{kind.__name__.strip('_')}/{number:03d}.jsonl"
        lines = kind(chance)
        chance.shuffle(lines)
        drops.append(Drop(name, tuple(lines), spoiled=kind is _spoiled))
    return drops


def _plain(chance: random.Random) -> list[Line]:
    return [good() for _ in range(chance.randint(1, 9))]


def _with_bad_lines(chance: random.Random) -> list[Line]:
    bad: list[Callable[[], Line]] = [
        wrong,
        mended,
        hopeless,
        left_out,
        unlucky,
        lambda: unlucky(429),
        lambda: unlucky(503, times=2),
    ]
    return [*_plain(chance), *(chance.choice(bad)() for _ in range(chance.randint(1, 4)))]


def _whose_batch_ends(chance: random.Random) -> list[Line]:
    how = chance.choice(["expired", "cancelled", "failed-late", "failed token_limit_exceeded"])
    return [*_plain(chance), ends_its_batch(how)]


def _in_parts(chance: random.Random) -> list[Line]:
    bad = [wrong, mended, left_out, unlucky]
    return [*(good() for _ in range(chance.randint(10, 40))), *(chance.choice(bad)() for _ in range(3))]


def _spoiled(chance: random.Random) -> list[Line]:
    return _plain(chance)


def _troubles(chance: random.Random, seconds: float) -> list[Trouble]:
    """Return a trouble every few seconds: most often of the service, sometimes of all that is here."""
    kinds = {
        _service_fault: 10,
        _simple("kill_worker"): 3,
        _simple("restart_host", 0.0, 3.0): 1,
        _simple("stop_storage", 0.5, 4.0): 1,
        _second_host: 2,
    }
    first = list(kinds)  # each kind comes once, however short the storm
    chance.shuffle(first)
    troubles: list[Trouble] = []
    at = 0.0
    while (at := at + chance.uniform(0.5, 3.0)) < seconds:
        kind = first.pop() if first else chance.choices(list(kinds), list(kinds.values()))[0]
        troubles += kind(chance, at)
    return sorted(troubles, key=lambda trouble: trouble.at)


def _simple(what: str, least: float = 0.0, most: float = 0.0) -> Callable[[random.Random, float], list[Trouble]]:
    return lambda chance, at: [Trouble(at, what, chance.uniform(least, most))]


def _service_fault(chance: random.Random, at: float) -> list[Trouble]:
    """The service answers with an error, cuts the connection before or after it has done as asked, or is slow."""
    fault: dict[str, Any] = {
        "kind": chance.choice(["status", "status", "drop_before", "drop_after", "delay"]),
        "method": chance.choice(["", "GET", "POST", "POST", "DELETE"]),
        "path": chance.choice(["^/openai/", "^/openai/.*files", "^/openai/.*batches", "^/openai/.*content"]),
        "times": chance.randint(1, 8),
        "probability": chance.choice([0.3, 1.0]),
    }
    if fault["kind"] == "status":
        fault["status"] = chance.choice([429, 500, 503])
        fault["headers"] = {"Retry-After": "1"} if chance.random() < 0.5 else {}
    if fault["kind"] == "delay":
        fault["seconds"] = chance.uniform(0.2, 2.0)
    return [Trouble(at, "fail_service", options=fault)]


def _second_host(chance: random.Random, at: float) -> list[Trouble]:
    """Another host works on the same storage for a while, with ticks and events of its own."""
    going = "kill_second_host" if chance.random() < 0.5 else "stop_second_host"
    leave = at + chance.uniform(4.0, 15.0)
    return [Trouble(at, "start_second_host", options=_event_trouble(chance)), Trouble(leave, going)]


def _event_trouble(chance: random.Random) -> dict[str, str | float | bool]:
    """Events come more than once, late, or not at all."""
    return {
        "event_copies": chance.choice([1, 2, 3]),
        "event_delay_seconds": chance.choice([0.0, 0.0, 2.0]),
        "lose_events": chance.random() < 0.2,
    }


# --- the storm -------------------------------------------------------------------------------------------------------


class _Chaos:
    """Does what the plan says to the stack, one trouble after the other."""

    def __init__(self, stack: Stack, storage_is_up: threading.Lock, log: Path) -> None:
        self._stack = stack
        self._storage_is_up = storage_is_up
        self._log = log
        self._second: FunctionsHost | None = None

    def do(self, trouble: Trouble) -> None:
        getattr(self, trouble.what)(trouble)

    def fail_service(self, trouble: Trouble) -> None:
        self._stack.service.fault(**trouble.options)

    def kill_worker(self, _: Trouble) -> None:
        with contextlib.suppress(OSError):  # there is none right now
            self._stack.host.kill_worker()

    def restart_host(self, trouble: Trouble) -> None:
        self._stack.host.kill()
        time.sleep(trouble.seconds)
        self._stack.host.start()

    def stop_storage(self, trouble: Trouble) -> None:
        with self._storage_is_up:
            self._stack.azurite.stop()
            time.sleep(trouble.seconds)
            self._stack.azurite.start()

    def start_second_host(self, trouble: Trouble) -> None:
        if self._second is None:
            environment = self._stack.environment | {"AzureFunctionsWebHost__hostid": "second"}
            options = HOST | trouble.options | {"log": str(self._log.with_name(f"second-{self._log.name}"))}
            self._second = FunctionsHost(PROJECT, environment, **options)
            with contextlib.suppress(HostError):
                self._second.start()

    def stop_second_host(self, _: Trouble) -> None:
        if self._second:
            self._second.__exit__(None, None, None)
            self._second = None

    def kill_second_host(self, trouble: Trouble) -> None:
        if self._second:
            self._second.kill()
            self.stop_second_host(trouble)

    def clear_up(self) -> None:
        """End every trouble that still lasts."""
        self.stop_second_host(Trouble(0, ""))
        self._stack.service.clear_faults()


class Storm:
    """One plan, on one stack."""

    def __init__(self, plan: Plan, log: Path, say: Callable[[str], None]) -> None:
        self._plan, self._log, self._say = plan, log, say
        self._storage_is_up = threading.Lock()
        self._dropped: list[Dropped] = []
        self._failures: list[str] = []

    def run(self) -> list[str]:
        """Let it rage, and wait for the quiet after it. Return each promise that is broken, in a sentence."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with Stack(SETTINGS, service=SERVICE, host=self._plan.host | {"log": str(self._log)}) as stack:
            place = Place(stack.azurite.connection_string, stack.settings, stack.service)
            self._rage(stack, place)
            self._wait_for_quiet(place)
            return self._failures + broken_promises(look(place), self._dropped)

    def _rage(self, stack: Stack, place: Place) -> None:
        started = time.monotonic()
        chaos = _Chaos(stack, self._storage_is_up, self._log)
        users = Users(stack, place, self._storage_is_up)
        dropping = threading.Thread(target=self._drop_all, args=(place, users, started))
        asking = threading.Thread(target=self._ask_all, args=(users, dropping), daemon=True)
        dropping.start()
        asking.start()
        for trouble in self._plan.troubles:
            _sleep_until(started + trouble.at)
            try:
                chaos.do(trouble)
            except Exception as error:  # noqa: BLE001 - a devkit that fails is to be told, and the storm goes on
                self._failures.append(f"the devkit failed at {trouble}: {type(error).__name__}: {error}")
        dropping.join()
        chaos.clear_up()
        self._say(f"{len(self._dropped)} dropped in {time.monotonic() - started:.0f} s; the storm is over")
        asking.join(QUIET_SECONDS)
        self._say(", ".join(f"{count} {answer}" for answer, count in users.answers.items()))
        self._failures += users.failures
        if asking.is_alive():
            self._failures.append(f"a wish was not answered {QUIET_SECONDS} s after the storm")

    def _drop_all(self, place: Place, users: Users, started: float) -> None:
        """Drop every file in its time. A user does not drop while the storage is away."""
        versions = Counter(drop.name for _, drop, _ in self._plan.drops)
        for at, drop, wishes in self._plan.drops:
            _sleep_until(started + at)
            versions[drop.name] -= 1
            with self._storage_is_up:
                path = place.user.drop(drop.name, drop.content)
            dropped = Dropped(drop, path, overwritten=versions[drop.name] > 0)
            self._dropped.append(dropped)
            if not dropped.overwritten:
                users.wish(dropped, wishes)

    def _ask_all(self, users: Users, dropping: threading.Thread) -> None:
        """Ask until every wish was answered."""
        try:
            while not users.go_round() or dropping.is_alive():
                time.sleep(0.5)
        except Exception as error:  # noqa: BLE001 - it is to be told
            self._failures.append(f"the users failed: {type(error).__name__}: {error}")

    def _wait_for_quiet(self, place: Place) -> None:
        """Return when nothing is left to do for a while; note what is, if that takes too long."""
        started = time.monotonic()
        steady_since: float | None = None
        while time.monotonic() < started + QUIET_SECONDS:
            if self._is_quiet(place):
                steady_since = steady_since or time.monotonic()
                if time.monotonic() > steady_since + STEADY_SECONDS:
                    self._say(f"quiet after {time.monotonic() - started:.0f} s")
                    return
            else:
                steady_since = None
            time.sleep(0.5)
        self._failures.append(f"it was not quiet {QUIET_SECONDS} s after the storm")

    def _is_quiet(self, place: Place) -> bool:
        try:
            if any(work_left(place)):
                return False
            user = place.user
            return all(each.overwritten or user.report(each.path) is not None for each in self._dropped)
        except AzureError:
            return False


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


# --- the program -----------------------------------------------------------------------------------------------------


def main() -> int:
    """Let a storm rage; return 1 if any promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.storm", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), metavar="N")
    parser.add_argument("--jobs", type=int, default=200, metavar="N", help="how many files are dropped (200)")
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="how long the storm rages (5)")
    parser.add_argument("--plan", action="store_true", help="show what would happen, and do nothing")
    arguments = parser.parse_args()
    plan = make_plan(arguments.seed, arguments.jobs, arguments.minutes * 60)
    _say(f"Storm --seed {plan.seed} --jobs {arguments.jobs} --minutes {arguments.minutes:g}")
    if arguments.plan:
        drops = (f"{at:6.1f}  drop {drop.name} {', '.join(map(str, wishes))}" for at, drop, wishes in plan.drops)
        _say("\n".join([*map(str, plan.troubles), *drops]))
        return 0
    _say("".join(f"  {count:3} {what}\n" for what, count in Counter(each.what for each in plan.troubles).items()))
    log = PROJECT / "out" / "storm" / f"{plan.seed}.log"
    broken = Storm(plan, log, _say).run()
    _say("\n".join(broken))
    _say(f"{arguments.jobs} jobs, {len(broken)} broken promises. The log is {log.relative_to(PROJECT)}.")
    return 1 if broken else 0


def _say(text: str) -> None:
    if text:
        print(text, flush=True)  # noqa: T201 - this is a program for the terminal


if __name__ == "__main__":
    sys.exit(main())
