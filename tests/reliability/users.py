"""Users who cancel and retry jobs by the HTTP API, and ask again until they are answered, whatever breaks meanwhile."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from azure.core.exceptions import AzureError

from batch_fn.storage.rows import JOB_ROW
from devkit.stack import Stack
from tests.reliability.checks import Place, as_it_stands, stands, work_rows
from tests.reliability.drops import Cancel, Dropped, Former

WISHES: list[tuple[str, ...]] = [(), ("retry",), ("cancel", "retry"), (), ("cancel",), ("retry", "cancel"), ()]
"""What a user may wish for a job, one after the other."""

PATIENCE = 60.0
"""Seconds after which a user believes that there is no answer."""


@dataclass(frozen=True)
class Wish:
    """What a user wants of a job, and how many seconds after it was dropped or the wish before was answered."""

    what: str
    after: float

    def __str__(self) -> str:
        return f"{self.what} after {self.after:.1f} s"


def wishes_for(chance: random.Random, whats: Sequence[str]) -> tuple[Wish, ...]:
    """Return wishes for those, at any time while a job may be in hand."""
    return tuple(Wish(what, chance.uniform(0.0, 6.0)) for what in whats)


@dataclass
class _Open:
    """A wish that has no answer yet."""

    at: float
    dropped: Dropped
    wishes: Sequence[Wish]
    """This one, and those that come after it."""
    former: Former | None = None
    """What the job had come to when its retry was asked for first."""


class Users:
    """All of them, on one stack."""

    def __init__(self, stack: Stack, place: Place, storage_is_up: threading.Lock) -> None:
        self._stack, self._place, self._storage_is_up = stack, place, storage_is_up
        self._open: list[_Open] = []
        self._retried: list[Dropped] = []
        self.answers: Counter[str] = Counter()
        """How often a wish was answered so."""
        self.failures: list[str] = []

    def wish(self, dropped: Dropped, wishes: Sequence[Wish]) -> None:
        """Note what will be wished for that job."""
        if wishes:
            self._open.append(_Open(time.monotonic() + wishes[0].after, dropped, wishes))

    def go_round(self) -> bool:
        """Ask whatever it is time for, once, and look at the reports. Return whether every wish was answered."""
        for each in list(self._open):
            if each.at > time.monotonic():
                continue
            try:
                answer = self._cancel(each.dropped) if each.wishes[0].what == "cancel" else self._retry(each)
            except (OSError, HTTPException, AzureError):  # who should have answered is dead, or what he needs is away
                continue
            if answer:
                self.answers[answer] += 1
                self._open.remove(each)
                self.wish(each.dropped, each.wishes[1:])
        with self._storage_is_up:
            lost = [dropped for dropped in self._retried if not stands(self._place, dropped)]
        self.failures += [f"{dropped.path} was retried, and has no report meanwhile" for dropped in lost]
        return not self._open

    def _cancel(self, dropped: Dropped) -> str:
        status, problem = self._ask(dropped, "cancel")
        if status not in {HTTPStatus.OK, HTTPStatus.ACCEPTED}:
            return "too late to cancel" if problem == "job-finished" else ""
        with self._storage_is_up:
            rows = [row for row in work_rows(self._place, dropped.job_id) if row["RowKey"] != JOB_ROW]
        sending = frozenset(row["RowKey"] for row in rows if row["state"] == "claimed" or row.get("create_intent_at"))
        dropped.cancel = Cancel(frozenset(batch["id"] for batch in self._place.service.batches()), sending)
        return "cancelled"

    def _retry(self, wish: _Open) -> str:
        """Ask for a retry once the job has a report; where the answer to the first asking was lost, a new one is it."""
        dropped = wish.dropped
        with self._storage_is_up:
            if self._place.user.report(dropped.path) is None:
                return ""
            now = as_it_stands(self._place, dropped)
        former = wish.former = wish.former or now
        if not former.report["counts"]["failed"]:
            return "nothing to retry"
        if now.report == former.report:
            status, problem = self._ask(dropped, "retry")
            if problem == "nothing-to-retry":
                self.failures.append(f"{dropped.path} has failed lines, and is not retried")
            if status != HTTPStatus.ACCEPTED:
                return "refused" if problem == "nothing-to-retry" else ""
        dropped.former.append(former)
        dropped.cancel = None
        self._retried.append(dropped)
        return "retried"

    def _ask(self, dropped: Dropped, what: str) -> tuple[int, str]:
        """Return the status of the answer, and what kind of problem it names."""
        host = self._stack.host
        url, key = f"{host.url}/api/jobs/{dropped.job_id}/{what}", host.keys["function"]
        request = Request(url, method="POST", headers={"x-functions-key": key})
        try:
            with urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, ""
        except HTTPError as error:
            conflict = error.code == HTTPStatus.CONFLICT
            return error.code, json.load(error)["type"].removeprefix("urn:batch_fn:") if conflict else ""
