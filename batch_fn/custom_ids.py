"""Which custom_ids a drop has used, and on which line first."""

from hashlib import blake2b

LONGEST_KEPT = 64  # bytes: the longest custom_id that one of the services documents; ids are mostly shorter
MOST_KEPT = 100_000  # of them as they are: those of a file that the service takes whole; 12 MB
_DIGEST = 12  # bytes: a false duplicate would reject a good drop; among 10 million ids it is one chance in 10**15
_LINE = 5  # bytes
_BUCKETS = 1 << 14  # a bucket has 61 entries for a million ids, which are searched in less than the digest takes


class CustomIds:
    """The first `limit` custom_ids of a drop, in UTF-8, each with its line: exact, and bounded in memory.

    Up to MOST_KEPT are kept in a dict, which takes 120 bytes for each and is the fastest. If there are more, all are
    kept as digests, in buckets without an object for each: 20 bytes for each, so 20 MB for a million.
    Past the limit a drop is rejected anyway: repetitions of the ids kept are still found, and none is added.
    """

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._lines: dict[bytes, int] = {}
        self._buckets: list[bytearray] = []

    def first_line(self, custom_id: bytes, line: int) -> int:
        """Return the line that had `custom_id` first, which is `line` if none before it had."""
        key = custom_id if len(custom_id) <= LONGEST_KEPT else _short(custom_id)
        if self._buckets:
            return self._first_line(_digest(key), line)
        first = self._lines.get(key)
        if first is not None:
            return first
        if not self._room:
            return line
        if len(self._lines) == MOST_KEPT:
            self._move()
            return self._first_line(_digest(key), line)
        self._room -= 1
        self._lines[key] = line
        return line

    def are_new(self, custom_ids: list[bytes], line: int) -> bool:
        """Return whether none of these was used before; they are those of the lines from `line` on.

        If one was, or they go past the limit, `first_line` says so of each: to ask it again does no harm.
        """
        count = len(custom_ids)
        if count > self._room:
            return False
        if self._buckets or len(self._lines) + count > MOST_KEPT:
            return all(self.first_line(each, number) == number for number, each in enumerate(custom_ids, line))
        if max(map(len, custom_ids)) > LONGEST_KEPT:
            custom_ids = [each if len(each) <= LONGEST_KEPT else _short(each) for each in custom_ids]
        before = len(self._lines)
        first = [*map(self._lines.setdefault, custom_ids, range(line, line + count))]
        self._room -= len(self._lines) - before
        return first == [*range(line, line + count)]

    def _move(self) -> None:
        """Keep digests from now on."""
        self._buckets = [bytearray() for _ in range(_BUCKETS)]
        while self._lines:
            key, line = self._lines.popitem()
            digest = _digest(key)
            self._bucket(digest).extend(digest + line.to_bytes(_LINE))
        self._lines = {}

    def _first_line(self, digest: bytes, line: int) -> int:
        bucket = self._bucket(digest)
        place = bucket.find(digest)
        while place % (_DIGEST + _LINE) and place >= 0:  # found across two entries
            place = bucket.find(digest, place + 1)
        if place >= 0:
            return int.from_bytes(bucket[place + _DIGEST : place + _DIGEST + _LINE])
        if self._room:
            self._room -= 1
            bucket += digest + line.to_bytes(_LINE)
        return line

    def _bucket(self, digest: bytes) -> bytearray:
        return self._buckets[int.from_bytes(digest[:2]) % _BUCKETS]


def _short(custom_id: bytes) -> bytes:
    """Return what a long custom_id is known by: one byte more than any that is kept as it is."""
    return b"\0" + blake2b(custom_id, digest_size=LONGEST_KEPT).digest()


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=_DIGEST).digest()
