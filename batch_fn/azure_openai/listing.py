"""Lists of the service, read page by page; a list counts as complete only where the service has shown it whole."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from batch_fn.azure_openai.wire import UnreadableBatchError, read_batch
from batch_fn.core.batches import ServiceBatch, TransientServiceError
from batch_fn.runtime import log

PAGE = 100  # the most that one list call gives

MIN_PAGES = 2
"""Pages that are read before the time of their entries may end a list: one odd entry may stand ahead of ours."""

type Ask = Callable[[dict[str, Any]], object]
"""Asks for one page, with the query given, and returns the answer's JSON."""


class Page(NamedTuple):
    """One page of a list."""

    entries: list[Any]
    last: bool
    """Whether the service says that there are no more."""


def pages(ask: Ask, *, after: str = "", limit: int | None = None) -> Iterator[Page]:
    """Yield the pages of a list, one call for each page that is asked for.

    Raises:
        TransientServiceError: if an answer is no page, or the service does not get on with the list.
    """
    seen: set[str] = set()
    while True:
        answer = ask(({"limit": limit} if limit else {}) | ({"after": after} if after else {}))
        entries = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(answer, dict) or not isinstance(entries, list):
            raise TransientServiceError("the service answered a list with something else")
        more = answer.get("has_more")
        if not isinstance(more, bool):  # 2024-10-21 says nothing about it for files, and gives them all
            more = limit is not None and len(entries) >= limit
        ids = [each["id"] for each in entries if isinstance(each, dict) and isinstance(each.get("id"), str)]
        fresh = set(ids) - seen
        if more and not fresh:
            raise TransientServiceError("the service says that a list goes on, and does not go on with it")
        yield Page(entries, last=not more)
        if not more:
            return
        seen |= fresh
        after = ids[-1]


def read_batches(entries: Iterable[object]) -> list[ServiceBatch]:
    """Return the batches of a page. An entry that does not even have an id is skipped, and counted in the log."""
    readable, unreadable = list[ServiceBatch](), 0
    for entry in entries:
        try:
            readable.append(read_batch(entry))
        except UnreadableBatchError:
            unreadable += 1
    if unreadable:
        log.warning("list_entries_unreadable", entries=unreadable)
    return readable


def until_complete(read: Iterable[tuple[list[ServiceBatch], bool]], since: datetime | None) -> Iterator[ServiceBatch]:
    """Yield the batches of a list until all that were created at or after `since` must have been among them.

    That is when the service says that there are no more; or, in a list that was newest first so far, behind a page
    on which all are older. `read` gives pages, and whether each is the last.
    """
    newest_first, earliest = True, None
    for count, (batches, last) in enumerate(read, start=1):
        yield from batches
        times = [each.created_at for each in batches if each.created_at is not None]
        dated = [earliest, *times] if earliest is not None else times
        newest_first &= all(earlier >= later for earlier, later in itertools.pairwise(dated))
        earliest = times[-1] if times else earliest
        passed = since is not None and bool(times) and max(times) < since
        if last or (passed and newest_first and count >= MIN_PAGES):
            return
