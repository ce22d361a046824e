"""The results of one ended batch: on disk line by line, in memory only where each one lies and what it means."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, NamedTuple

from batch_fn.app import App
from batch_fn.core.batches import NotFoundError
from batch_fn.core.jobs import Part, Usage
from batch_fn.core.results import Verdict, read_result
from batch_fn.runtime import clock, log
from batch_fn.validation.compact_map import CompactMap
from batch_fn.validation.lines import lines

MAX_RESULT_BYTES = 256 * 1024 * 1024
"""A result line is held in memory; one longer than this is taken for missing."""


class ResultsNotReadyError(Exception):
    """Results that ought to be there are not; `until` then is how long to wait before they are taken for lost."""

    def __init__(self, result: str, until: datetime) -> None:
        super().__init__(f"the result {result} is not there yet")
        self.until = until


class Location(NamedTuple):
    """Where a result line lies on disk, and what it means."""

    file: int
    offset: int
    length: int
    verdict: Verdict


_FILE_BITS, _VERDICT_BITS, _LENGTH_BITS = 1, 2, 32
_PLACE_BYTES = 10  # with an offset of 45 bits
_VERDICTS = list(Verdict)


def pack_location(place: Location) -> int:
    """Return the place as one number, as it is held."""
    small = (place.length << _VERDICT_BITS | _VERDICTS.index(place.verdict)) << _FILE_BITS | place.file
    return place.offset << (_LENGTH_BITS + _VERDICT_BITS + _FILE_BITS) | small


def unpack_location(number: int) -> Location:
    """Return the place that `as_number` made the number of."""
    file = number & ((1 << _FILE_BITS) - 1)
    number >>= _FILE_BITS
    verdict = _VERDICTS[number & ((1 << _VERDICT_BITS) - 1)]
    number >>= _VERDICT_BITS
    return Location(file, number >> _LENGTH_BITS, number & ((1 << _LENGTH_BITS) - 1), verdict)


class BatchResults:
    """What the service answered to one part, by custom_id. Needs a folder to put the result files in."""

    def __init__(self, app: App, part: Part, folder: Path) -> None:
        self._app, self._part = app, part
        self._paths = [folder / "output", folder / "errors"]
        self._files: list[IO[bytes]] = []
        self._places = CompactMap(_PLACE_BYTES, part.requests)
        self._succeeded = 0
        self.usage = Usage()
        """Of all the answers."""
        self.output_lost = False
        """Whether lines may have been answered in an output that is gone: they must not be sent again."""

    def __enter__(self) -> "BatchResults":
        part = self._part
        ids, urls = (part.output_file_id, part.error_file_id), (part.output_blob, part.error_blob)
        for number, path in enumerate(self._paths):
            path.touch()
            # Where every request succeeded, whatever else is said of one does not count.
            needed = number == 0 or not self._all_succeeded()
            if needed and ids[number]:
                self._download(ids[number], path)
            if needed and urls[number]:
                self._copy(urls[number], path)
            self._files.append(path.open("rb"))
            self._index(number)
        self._check_whole()
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def __bool__(self) -> bool:
        """Whether there is any answer, or was."""
        return bool(self._places) or self.output_lost

    def place(self, custom_id: str) -> Location | None:
        """Return where the answer to a request lies, None if there is none."""
        number = self._places.get(custom_id.encode(errors="surrogatepass"))
        return None if number is None else unpack_location(number)

    def forget_places(self) -> None:
        """Give back what is held for `place`; `file` and `read` go on."""
        self._places = CompactMap(_PLACE_BYTES, 0)

    def file(self, number: int) -> IO[bytes]:
        """Return the output (0) or error file (1)."""
        return self._files[number]

    def read(self, place: Location) -> bytes:
        """Return the service's own line."""
        return os.pread(self.file(place.file).fileno(), place.length, place.offset)

    def _all_succeeded(self) -> bool:
        """Return whether the output answers every request, and the service counts no failed one."""
        part = self._part
        return part.requests == part.completed == self._succeeded == len(self._places) and not part.failed_so_far

    def _download(self, file_id: str, to: Path) -> None:
        try:
            self._app.openai.download(file_id, to)
        except NotFoundError:
            self._not_there(file_id, output=file_id == self._part.output_file_id)

    def _copy(self, url: str, to: Path) -> None:
        """Bring a result blob here. The service names one even where it wrote none."""
        chunks = self._app.blobs.read_url(url)
        output = url == self._part.output_blob
        if chunks is not None:
            with to.open("wb") as file:
                file.writelines(chunks)
        elif output and self._part.completed:
            self._not_there(url, output=True)

    def _not_there(self, result: str, *, output: bool) -> None:
        """Take a result that is gone for empty, after the settled time. Raises: NotYetError before it."""
        settled = (self._part.ended_at or clock.now()) + timedelta(seconds=self._app.settings.settle_seconds)
        if clock.now() < settled:
            raise ResultsNotReadyError(result, settled)
        log.warning("result_gone", job_id=self._part.job_id, part=self._part.key, result=result)
        self.output_lost = self.output_lost or output

    def _check_whole(self) -> None:
        """Wait, for the settled time, where the service says that more was answered than is here."""
        short = self._part.completed > self._succeeded
        if short or (self._part.batch_status == "completed" and not self._places):
            self._not_there(f"of batch {self._part.batch_id}", output=short)

    def _index(self, number: int) -> None:
        """Note where each result lies. Where a request has two, the one that succeeded counts."""
        for line in lines(_chunks(self._files[number]), MAX_RESULT_BYTES):
            result = read_result(line.raw)
            if result is None:
                log.warning("result_unreadable", job_id=self._part.job_id, part=self._part.key, line=line.number)
                continue
            earlier = self.place(result.custom_id)
            if earlier is None or earlier.verdict is not Verdict.SUCCEEDED:
                place = Location(number, line.offset, line.length, result.verdict)
                self._places.put(result.custom_id.encode(errors="surrogatepass"), pack_location(place))
                self._succeeded += result.verdict is Verdict.SUCCEEDED
                self.usage += result.usage


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(64 * 1024):  # of this size the C library has one at hand
        yield chunk
