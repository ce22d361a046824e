"""The final results of one attempt, in the order in which they were noted."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

from batch_fn.core.results import FinalResult, Verdict
from batch_fn.steps.answers import BatchResults, Location


class FinalResults:
    """Collects final results, then yields them.

    Only file, offset and length are kept in memory; lines that were made here have a file of their own.
    """

    _MADE = 2
    """The number of that file, after the service's two."""

    def __init__(self, answers: BatchResults, made: Path) -> None:
        self._answers, self._path = answers, made
        self._lines, self._offsets, self._lengths = array("Q"), array("Q"), array("I")
        self._files, self._successes = bytearray(), bytearray()

    def __enter__(self) -> "FinalResults":
        self._made = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def note(self, line: int, place: Location) -> None:
        """Add a request whose result is the service's own line."""
        self._add(line, place.file, place.offset, place.length, succeeded=place.verdict is Verdict.SUCCEEDED)

    def make(self, line: int, raw: bytes, *, succeeded: bool) -> None:
        """Add a request whose result is `raw`."""
        self._add(line, self._MADE, self._made.tell(), len(raw), succeeded=succeeded)
        self._made.write(raw)

    def __iter__(self) -> Iterator[FinalResult]:
        with self._path.open("rb") as made:
            for line, file, offset, length, succeeded in zip(
                self._lines, self._files, self._offsets, self._lengths, self._successes, strict=True
            ):
                source = made if file == self._MADE else self._answers.file(file)
                yield FinalResult(line, bool(succeeded), os.pread(source.fileno(), length, offset))

    def _add(self, line: int, file: int, offset: int, length: int, *, succeeded: bool) -> None:
        self._lines.append(line)
        self._files.append(file)
        self._offsets.append(offset)
        self._lengths.append(length)
        self._successes.append(succeeded)
