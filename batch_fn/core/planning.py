"""Accepted lines -> parts, and the lines of a part that go again -> its next attempt. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType

import msgspec

from batch_fn.core.jobs import InputRange, Part, PartState, estimated_tokens
from batch_fn.validation.lines import lines
from batch_fn.validation.requests import Request, RequestRun, body_characters

FILLED_BYTES = len('"model":"",')
"""The most that filling in a deployment adds to a line, besides its name."""


class Limits(msgspec.Struct, frozen=True):
    """The most that one part may hold."""

    bytes: int
    requests: int
    tokens: int | None = None
    """By our estimate; None: no limit."""


class Planner:
    """Divides accepted lines, in the drop's order, into parts: each of one deployment and url, each within the limits.

    A part whose lines follow one another is a byte range of the blob `name`, of `size` bytes. A part with lines of
    other parts in between is `interleaved`: its lines must be picked into a blob of their own. If `most` is given there
    are at most that many parts, and the last one takes all remaining lines, even over the limits.
    """

    def __init__(
        self, limits: Limits, *, container: str, name: str, size: int, picked: bool = False, most: int | None = None
    ) -> None:
        self._limits, self._most = limits, most
        self._container, self._name, self._size, self._picked = container, name, size, picked
        self._ranges: list[_Range] = []
        self._open: dict[tuple[str, str], int] = {}
        self._last: int | None = None

    def add(self, lines: Request | RequestRun) -> int:
        """Add lines. Return the index of the part that the last one is in."""
        filling = FILLED_BYTES + len(lines.deployment.encode()) if lines.filled else 0
        size = lines.length + 1 + lines.requests * filling
        group = (lines.deployment, lines.url)
        index = self._open.get(group)
        last = len(self._ranges) == self._most
        room = index is not None and (last or self._ranges[index].has_room(lines, size, self._limits))
        if isinstance(lines, RequestRun) and not room:
            return [self.add(each) for each in lines.each()][-1]
        if index is None or not room:
            index = self._open[group] = len(self._ranges)
            self._ranges.append(_Range(lines))
        elif index != self._last:
            self._ranges[index].interleaved = True
        self._ranges[index].take(lines, size)
        self._last = index
        return index

    @property
    def groups(self) -> int:
        """The number of pairs of deployment and url: of the parts that are not full yet."""
        return len(self._open)

    @property
    def interleaved(self) -> frozenset[int]:
        """The indexes of the parts that have lines of other parts in between."""
        return frozenset(index for index, each in enumerate(self._ranges) if each.interleaved)

    def parts(
        self,
        job_id: str,
        *,
        now: datetime,
        due: datetime,
        first_number: int = 1,
        attempt: int = 1,
        attempts_before: int = 0,
        picks: Mapping[int, InputRange] = MappingProxyType({}),
    ) -> list[Part]:
        """Return the parts, waiting since `now`; the tick checks them from `due` on.

        `picks` has the blob of picked lines of each interleaved part, by index. Whether the deployment is filled in
        is known here alone: one line without a model is enough, wherever in the part it is.
        """
        return [
            Part(
                job_id=job_id,
                number=first_number + index,
                attempt=attempt,
                attempts_before=attempts_before,
                due=due,
                waiting_since=now,
                deployment=each.deployment,
                url=each.url,
                source=self._source(each, picks.get(index)),
                requests=each.requests,
                bytes=each.size,
                estimated_tokens=estimated_tokens(each.characters),
            )
            for index, each in enumerate(self._ranges)
        ]

    def _source(self, each: "_Range", pick: InputRange | None) -> InputRange:
        if pick is not None:
            return msgspec.structs.replace(pick, picked=True, fill=each.fill)
        return InputRange(
            container=self._container,
            name=self._name,
            offset=each.start,
            length=each.end - each.start,
            first_line=each.first_line,
            picked=self._picked,
            fill=each.fill,
            whole=not each.start and each.end <= self._size <= each.end + 1,  # with or without a last line feed
            verbatim=each.verbatim and not self._picked,
        )


class _Range:
    """The lines of one part."""

    def __init__(self, first: Request | RequestRun) -> None:
        self.start = self.end = first.offset
        self.first_line = first.line
        self.deployment, self.url = first.deployment, first.url
        self.requests = self.characters = self.size = 0
        self.fill, self.verbatim, self.interleaved = False, True, False

    def has_room(self, lines: Request | RequestRun, size: int, limits: Limits) -> bool:
        tokens = estimated_tokens(self.characters + lines.characters)
        return (
            self.size + size <= limits.bytes
            and self.requests + lines.requests <= limits.requests
            and (limits.tokens is None or tokens <= limits.tokens)
        )

    def take(self, lines: Request | RequestRun, size: int) -> None:
        # Only one line feed between two lines can be sent as it is, no blank line and no carriage return.
        follows_on = lines.offset == self.end + 1 or not self.requests
        self.verbatim = self.verbatim and follows_on and not lines.filled
        self.fill = self.fill or lines.filled
        self.end = lines.offset + lines.length
        self.requests += lines.requests
        self.characters += lines.characters
        self.size += size


def split(
    part: Part,
    chunks: Iterable[bytes],
    limits: Limits,
    *,
    first_number: int,
    most: int,
    due: datetime,
) -> list[Part]:
    """Return smaller parts for the lines of a part, whose bytes are `chunks`; they wait since the part does.

    There are at most `most`; the last one may have to be split again.
    """
    source = part.source
    planner = Planner(limits, container=source.container, name=source.name, size=0, picked=source.picked, most=most)
    for line in lines(chunks):
        raw = line.raw.partition(b"\t")[2] if source.picked else line.raw
        planner.add(
            Request(
                line=source.first_line + line.number - 1,
                offset=source.offset + line.offset,
                length=line.length,
                custom_id="",
                url=part.url,
                deployment=part.deployment,
                characters=body_characters(raw),
                filled=source.fill,
            )
        )
    return planner.parts(
        part.job_id,
        now=part.waiting_since,
        due=due,
        first_number=first_number,
        attempt=part.attempt,
        attempts_before=part.attempts_before,
    )


def next_attempt(
    part: Part,
    *,
    source: InputRange,
    requests: int,
    size: int,
    characters: int,
    now: datetime,
    due: datetime,
    bundles: bool,
) -> Part:
    """Return the part's next attempt, waiting, with the lines picked into `source`."""
    return Part(
        job_id=part.job_id,
        number=part.number,
        attempt=part.attempt + 1,
        attempts_before=part.attempts_before,
        state=PartState.WAITING,
        due=due,
        waiting_since=now,
        deployment=part.deployment,
        url=part.url,
        source=source,
        requests=requests,
        bytes=size,
        estimated_tokens=estimated_tokens(characters),
        bundles=bundles,
    )
