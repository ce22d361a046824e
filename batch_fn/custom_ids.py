"""Which custom_ids a drop has used, and on which line first."""

from hashlib import blake2b

LONGEST_KEPT = 64  # characters: the longest custom_id that one of the services documents; ids are mostly shorter
MOST_KEPT = 100_000  # of them as they are: those of a file that the service takes whole; 12 MB
_DIGEST = 12  # bytes: a false duplicate would reject a good drop; among 10 million ids it is one chance in 10**15
_LINE = 5  # bytes
_BUCKETS = 1 << 14  # a bucket has 61 entries for a million ids, which are searched in less than the digest takes


class CustomIds:
    """The first `limit` custom_ids of a drop, each with its line: exact, and bounded in memory.

    Up to MOST_KEPT are kept in a dict, which takes 120 bytes for each and is the fastest. If there are more, all are
    kept as digests, in buckets without an object for each: 20 bytes for each, so 20 MB for a million.
    Past the limit a drop is rejected anyway: repetitions of the ids kept are still found, and none is added.
    """

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._lines: dict[str | bytes, int] = {}
        self._buckets: list[bytearray] = []

    def first_line(self, custom_id: str, line: int) -> int:
        """Return the line that had `custom_id` first, which is `line` if none before it had."""
        if self._buckets:
            return self._first_line(_digest(custom_id), line)
        key = custom_id if len(custom_id) <= LONGEST_KEPT else _digest(custom_id)
        first = self._lines.get(key)
        if first is not None:
            return first
        if not self._room:
            return line
        if len(self._lines) == MOST_KEPT:
            self._move()
            return self._first_line(_digest(custom_id), line)
        self._room -= 1
        self._lines[key] = line
        return line

    def _move(self) -> None:
        """Keep digests from now on."""
        self._buckets = [bytearray() for _ in range(_BUCKETS)]
        while self._lines:
            key, line = self._lines.popitem()
            digest = _digest(key) if isinstance(key, str) else key
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


def _digest(custom_id: str) -> bytes:
    return blake2b(custom_id.encode(errors="surrogatepass"), digest_size=_DIGEST).digest()
