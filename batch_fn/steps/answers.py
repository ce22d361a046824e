"""The results of one ended batch: on disk line by line, in memory only the location of each and what it means."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, NamedTuple

from batch_fn.app import App
from batch_fn.core.batches import NotFoundError, ServiceCallError
from batch_fn.core.jobs import Part, Usage
from batch_fn.core.results import Result, Verdict, read_result
from batch_fn.runtime import clock, log
from batch_fn.steps import trouble
from batch_fn.steps.bundling import member_and_line
from batch_fn.validation.compact_map import CompactMap
from batch_fn.validation.lines import Line, lines

MAX_RESULT_BYTES = 256 * 1024 * 1024
"""A result line is held in memory; one longer than this is kept, and not read."""

WITH_RESULTS = frozenset({"completed", "expired", "cancelled"})
"""How a batch ends that has run lines. One that failed was refused as a whole."""

STRAY = -1
"""The owner of a result line that names no request that was sent, or one that has another answer already."""


class ResultsNotReadyError(Exception):
    """Results that must be there are not; they are asked for again at `until`."""

    def __init__(self, result: str, until: datetime) -> None:
        super().__init__(f"The service does not give {result}.")
        self.until = until


class Location(NamedTuple):
    """The location of a result line on disk, and what the line means."""

    file: int
    offset: int
    length: int
    verdict: Verdict

    @property
    def key(self) -> int:
        """The location alone, as one number."""
        return location_key(self.file, self.offset)


def location_key(file: int, offset: int) -> int:
    """Return one number for the location of a line."""
    return offset << _FILE_BITS | file


_FILE_BITS, _VERDICT_BITS, _LENGTH_BITS = 1, 2, 32
_LOCATION_BYTES = 10  # with an offset of 45 bits
_VERDICTS = list(Verdict)


def pack_location(place: Location) -> int:
    """Return the location as one number, as it is held in memory."""
    small = (place.length << _VERDICT_BITS | _VERDICTS.index(place.verdict)) << _FILE_BITS | place.file
    return place.offset << (_LENGTH_BITS + _VERDICT_BITS + _FILE_BITS) | small


def unpack_location(number: int) -> Location:
    """Return the location that `pack_location` turned into this number."""
    file = number & ((1 << _FILE_BITS) - 1)
    number >>= _FILE_BITS
    verdict = _VERDICTS[number & ((1 << _VERDICT_BITS) - 1)]
    number >>= _VERDICT_BITS
    return Location(file, number >> _LENGTH_BITS, number & ((1 << _LENGTH_BITS) - 1), verdict)


class Unplaced(NamedTuple):
    """A result line that belongs to none of the requests that were looked up."""

    file: int
    offset: int
    length: int
    paid: bool
    """It is, or may be, the answer to a request."""


class BatchResults:
    """What the service answered to one part, by custom_id. Needs a folder to put the result files in.

    `members` is the number of parts whose lines the batch has, if it is a bundle's. `give_up`: results that cannot be
    fetched are not waited for any more.
    """

    def __init__(self, app: App, part: Part, folder: Path, *, members: int = 0, give_up: bool = False) -> None:
        self._app, self._part, self._members, self._give_up = app, part, members, give_up
        self._paths = [folder / "output", folder / "errors"]
        self._files: list[IO[bytes]] = []
        self._locations = CompactMap(_LOCATION_BYTES, part.requests)
        self._missing: list[int] = []
        self._counts = Counter[Verdict]()
        self._owners = Counter[int]()
        self.usage = Usage()
        """Of all the answers."""
        self.lost = ""
        """Why lines without a result may have been answered all the same, and must not be sent again."""
        self.left: list[str] = []
        """The files and blobs with results that were given up. There is no copy of them: they must not be deleted."""

    def __enter__(self) -> "BatchResults":
        try:
            for number, path in enumerate(self._paths):
                path.touch()
                self._fetch(number, path)
                self._files.append(path.open("rb"))
                self._index(number)
            self._check_whole()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def __bool__(self) -> bool:
        """Whether there is any result, or may have been."""
        return bool(self._owners) or bool(self.lost)

    def place(self, custom_id: str) -> Location | None:
        """Return the location of the result of a request, None if there is none."""
        number = self._locations.get(custom_id.encode(errors="surrogatepass"))
        return None if number is None else unpack_location(number)

    def forget_places(self) -> None:
        """Free what is held for `place`; `file`, `read` and `unplaced` go on."""
        self._locations = CompactMap(_LOCATION_BYTES, 0)

    def file(self, number: int) -> IO[bytes]:
        """Return the output (0) or error file (1)."""
        return self._files[number]

    def read(self, place: Location | Unplaced) -> bytes:
        """Return the service's own line."""
        return os.pread(self.file(place.file).fileno(), place.length, place.offset)

    def count_of(self, owner: int) -> int:
        """Return how many result lines are of that owner."""
        return self._owners[owner]

    def results(self) -> Iterator[tuple[Location, str]]:
        """Yield the location and custom_id of each result that counts, in the service's order."""
        for number in range(len(self._files)):
            for line, result in self._read_file(number):
                place = self.place(result.custom_id) if result else None
                if result is not None and place is not None and place.key == location_key(number, line.offset):
                    yield place, result.custom_id

    def unplaced(self, owners: Collection[int], used: Collection[int]) -> Iterator[Unplaced]:
        """Yield the result lines of these owners that belong to none of their requests.

        `used` holds the key of each location that belongs to one. A second answer to such a request is yielded: it was
        paid for, and may be another's.
        """
        for number in range(len(self._files)):
            for line, result in self._read_file(number):
                key = location_key(number, line.offset)
                answered = result is not None and result.verdict is Verdict.SUCCEEDED
                place = self.place(result.custom_id) if result else None
                second = answered and place is not None and place.key != key
                if key in used or (STRAY if second else self._owner(result)) not in owners:
                    continue
                if answered or place is None or place.key not in used:
                    yield Unplaced(number, line.offset, line.length, answered or (result is None and number == 0))

    def _fetch(self, number: int, to: Path) -> None:
        """Bring one result file here, if the service names it."""
        part = self._part
        file_id, url = (part.output_file_id, part.error_file_id)[number], (part.output_blob, part.error_blob)[number]
        try:
            if file_id:
                self._app.openai.download(file_id, to)
            elif url and not self._copy(url, to):
                self._missing.append(number)
        except NotFoundError:
            self._missing.append(number)
            if self._give_up:  # nobody asks a list any more whether it is gone
                self.left.append(file_id)
        except (ServiceCallError, OSError) as error:
            if not self._give_up:
                raise
            self.left.append(file_id or url)
            log.warning("result_given_up", job_id=part.job_id, part=part.key, result=file_id or url, error=error)

    def _copy(self, url: str, to: Path) -> bool:
        """Bring a result blob here, and return whether there is one: the service names one even where it wrote none."""
        chunks = self._app.blobs.read_url(url)
        if chunks is not None:
            with to.open("wb") as file:
                file.writelines(chunks)
        return chunks is not None

    def _check_whole(self) -> None:
        """Check the results against the service's counts; where it counts nothing, against the requests.

        Raises:
            ResultsNotReadyError: if some are missing, and that is not proven yet.
        """
        part, counts = self._part, self._counts
        counted = part.total or part.completed or part.failed_so_far
        if counted:
            output_short = part.completed > counts[Verdict.SUCCEEDED]
            errors_short = part.failed_so_far > counts[Verdict.FAILED] + counts[Verdict.RETRY]
            short = part.batch_status == "completed" and part.completed + part.failed_so_far < part.requests
        else:
            named = any((part.output_file_id, part.error_file_id)[number] for number in self._missing)
            unanswered = self._owners.total() < part.requests
            output_short = unanswered and (named or part.batch_status in WITH_RESULTS)
            errors_short = short = False
        if output_short or errors_short or short:
            self._confirm(([0] if output_short else []) + ([1] if errors_short else []))
            log.warning("results_short", job_id=part.job_id, part=part.key, batch=part.batch_id)
        if output_short:
            self.lost = "results of its batch are gone from the service"
        if self._give_up:
            left = f", and are left in {' and '.join(self.left)}" if self.left else ""
            self.lost = f"the results of its batch could not be fetched{left}"

    def _confirm(self, short: list[int]) -> None:
        """Return if it is proven that results are missing: they were for SETTLE_SECONDS, and a missing file is gone.

        Raises:
            ResultsNotReadyError
        """
        if self._give_up:
            return
        part, now, settings = self._part, clock.now(), self._app.settings
        since = part.collect_trouble.missing_since if part.collect_trouble else None
        settled = (since or now) + timedelta(seconds=settings.settle_seconds)
        if since is None or now < settled:
            raise ResultsNotReadyError(f"all results of batch {part.batch_id}", settled)
        for number in self._missing:
            if number in short and not self._is_gone(number):
                later = now + (
                    part.collect_trouble.pause(settings.trouble_seconds) if part.collect_trouble else timedelta()
                )
                raise ResultsNotReadyError(f"a result file of batch {part.batch_id} that it lists", later)

    def _is_gone(self, number: int) -> bool:
        """Return whether a complete list, too, lacks a result that answered 404. Raises: TransientServiceError."""
        part = self._part
        file_id = (part.output_file_id, part.error_file_id)[number]
        if file_id:
            if not part.was_sent_to(self._app.settings.openai_endpoint):
                raise trouble.elsewhere(self._app, part)
            return self._app.openai.lacks_file(file_id)
        return not self._app.blobs.lists_url((part.output_blob, part.error_blob)[number])

    def _index(self, number: int) -> None:
        """Note the location of each result. Where a request has two, the one that succeeded counts."""
        for line, result in self._read_file(number):
            earlier = self.place(result.custom_id) if result else None
            # A second answer to one request may be another's.
            second = earlier is not None and earlier.verdict is Verdict.SUCCEEDED is (result and result.verdict)
            self._owners[STRAY if second else self._owner(result)] += 1
            if result is None:
                log.warning("result_unreadable", job_id=self._part.job_id, part=self._part.key, line=line.number)
                continue
            self._counts[result.verdict] += 1
            self.usage += result.usage
            if earlier is None or earlier.verdict is not Verdict.SUCCEEDED:
                place = Location(number, line.offset, line.length, result.verdict)
                self._locations.put(result.custom_id.encode(errors="surrogatepass"), pack_location(place))

    def _owner(self, result: Result | None) -> int:
        """Return which member of a bundle a result is of; 0 where the batch is of one part."""
        if result is None:
            return STRAY
        if not self._members:
            return 0
        named = member_and_line(result.custom_id)
        return named[0] if named is not None and named[0] < self._members else STRAY

    def _read_file(self, number: int) -> Iterator[tuple[Line, Result | None]]:
        self._files[number].seek(0)
        for line in lines(_chunks(self._files[number]), MAX_RESULT_BYTES):
            yield line, read_result(line.raw)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(64 * 1024):  # of this size the C library has one at hand
        yield chunk
