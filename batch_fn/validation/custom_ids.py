"""Which custom_ids a drop has used, and on which line first."""

from hashlib import blake2b

from batch_fn.validation.compact_map import CompactMap

LONGEST_KEPT = 64  # bytes: the longest custom_id that one of the services documents; ids are mostly shorter
MOST_KEPT = 100_000  # ids kept as they are: those of a file that the service takes whole; 10 MB
_LINE = 5  # bytes

type _Lines = int | tuple[int, list[bytes]]
"""Either the line number of one id, or (first line, ids) for a run of ids added together."""


class CustomIds:
    """The first `limit` custom_ids of a drop, in UTF-8, each with its line: exact, and bounded in memory.

    Up to MOST_KEPT are kept in a dict, which takes about 100 bytes for each and is fastest. If there are more, all are
    kept as digests: about 20 bytes for each, so 20 MB for a million. A drop past the limit is rejected anyway: repeated
    ids are still found among those kept, and no more are added.
    """

    def __init__(self, limit: int) -> None:
        self._limit = self._room = limit
        self._lines: dict[bytes, _Lines] = {}
        self._digests: CompactMap | None = None

    def first_line(self, custom_id: bytes, line: int) -> int:
        """Return the first line with `custom_id`; that is `line` if no line before it has the id."""
        key = _key(custom_id)
        first = self._line(key)
        if first is not None:
            return first
        if self._room:
            self._room -= 1
            if len(self._lines) == MOST_KEPT:
                self._move()
            if self._digests is None:
                self._lines[key] = line
            else:
                self._digests.put(key, line)
        return line

    def are_new(self, custom_ids: list[bytes], line: int) -> bool:
        """Return whether these ids, of the lines from `line` on, are all new; if so, add them.

        If one is not, or they go past the limit, ask `first_line` for each: to ask again does no harm.
        """
        count = len(custom_ids)
        if count > self._room:
            return False
        if self._digests is not None or len(self._lines) + count > MOST_KEPT:
            return all(self.first_line(each, number) == number for number, each in enumerate(custom_ids, line))
        keys = custom_ids if max(map(len, custom_ids)) <= LONGEST_KEPT else [*map(_key, custom_ids)]
        together = dict.fromkeys(keys, (line, keys))
        if len(together) < count or not self._lines.keys().isdisjoint(keys):
            return False
        self._lines.update(together)
        self._room -= count
        return True

    def _line(self, key: bytes) -> int | None:
        if self._digests is not None:
            return self._digests.get(key)
        return _line_of(key, self._lines.get(key))

    def _move(self) -> None:
        """Move the ids from the dict to digests."""
        self._digests = CompactMap(_LINE, self._limit)
        while self._lines:
            key, lines = self._lines.popitem()
            self._digests.put(key, _line_of(key, lines) or 0)
        self._lines = {}


def _line_of(key: bytes, lines: _Lines | None) -> int | None:
    return lines[0] + lines[1].index(key) if isinstance(lines, tuple) else lines


def _key(custom_id: bytes) -> bytes:
    """Return the key of a custom_id: the id itself, or for a long one a digest that is longer than any short id."""
    if len(custom_id) <= LONGEST_KEPT:
        return custom_id
    return b"\0" + blake2b(custom_id, digest_size=LONGEST_KEPT).digest()
