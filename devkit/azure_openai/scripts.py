"""Directives in the content of a line: what shall happen to it, or to its whole batch.

A directive may stand anywhere in a line's `body`. `xN` makes it true the first N times only; without it, always.

| directive | what happens |
|---|---|
| `[[status 429]]`, `[[status 500 x2]]` | the line fails with that status; xN counts executions of this line |
| `[[missing]]`, `[[missing x1]]` | the line is in neither file; xN counts executions of this line |
| `[[slow 30]]` | the line takes at least 30 service seconds |
| `[[batch expired]]`, `[[batch cancelled x1]]` | the batch ends so after half of its lines |
| `[[batch failed]]`, `[[batch failed CODE x1]]` | the batch fails in validation, with that code (or `internal_error`) |
| `[[batch failed-late]]`, `[[batch failed-late CODE x1]]` | the batch fails after half of its lines, which have files |

"This line" is its custom_id with its body; xN of a batch directive counts the batches that had a line of this body,
whatever its custom_id: in a bundle it has another each time. More than one `status` and `missing` in a line take turns:
`[[status 500 x1]] [[missing x1]]` fails, then is missing, then succeeds.
"""

import re
from collections import Counter

import msgspec

from devkit.azure_openai.options import Status

_LINE = re.compile(r"\[\[(?:status (?P<status>[1-5]\d\d)|missing)(?: x(?P<times>\d+))?\]\]")
_BATCH = re.compile(
    r"\[\[batch (?P<status>expired|cancelled|failed-late|failed)(?: (?!x\d+\])(?P<code>\w+))?(?: x(?P<times>\d+))?\]\]"
)
_STATUS: dict[str, Status] = {
    "expired": "expired",
    "cancelled": "cancelled",
    "failed": "failed",
    "failed-late": "failed",
}
_SLOW = re.compile(r"\[\[slow (?P<seconds>\d+(?:\.\d+)?)\]\]")


class LineScript(msgspec.Struct, frozen=True):
    """A line's `status`, or None if it shall be missing; `times` is N of xN, or None."""

    status: int | None
    times: int | None


class BatchScript(msgspec.Struct, frozen=True):
    """How a batch shall end, and if it fails, whether late; `line` is the digest of the line that says so."""

    status: Status
    late: bool
    code: str
    times: int | None
    line: str


def line_scripts(body: str) -> list[LineScript]:
    """The directives for this line, in their order."""
    return [
        LineScript(int(m["status"]) if m["status"] else None, int(m["times"]) if m["times"] else None)
        for m in _LINE.finditer(body)
    ]


def batch_script(body: str, digest: str) -> BatchScript | None:
    """The directive for the whole batch, if this line has one."""
    if not (m := _BATCH.search(body)):
        return None
    status, times = _STATUS[m["status"]], int(m["times"]) if m["times"] else None
    return BatchScript(status, m["status"] != "failed", m["code"] or "internal_error", times, digest)


def slow_seconds(body: str) -> float:
    """Service seconds that the line takes at least."""
    return float(m["seconds"]) if (m := _SLOW.search(body)) else 0.0


class Scripts:
    """Counts how often a directive was met, and so decides whether it is still true."""

    def __init__(self) -> None:
        self._met: Counter[tuple[str, str]] = Counter()

    def for_line(self, scripts: list[LineScript], digest: str) -> LineScript | None:
        """The directive that is true for this execution of the line, if any."""
        self._met["line", digest] += 1
        turn = self._met["line", digest]
        for script in scripts:
            if script.times is None or turn <= script.times:
                return script
            turn -= script.times
        return None

    def for_batch(self, scripts: list[BatchScript]) -> BatchScript | None:
        """The first of the directives that is true for this batch, if any; all of them count as met."""
        true = []
        for script in scripts:
            self._met["batch", script.line] += 1
            if script.times is None or self._met["batch", script.line] <= script.times:
                true.append(script)
        return true[0] if true else None

    def clear(self) -> None:
        """Start to count anew."""
        self._met.clear()
