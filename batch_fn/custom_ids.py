"""Which custom_ids a drop has used, and on which line first."""

from hashlib import blake2b

LONGEST_KEPT = 64  # characters: the longest custom_id that one of the services documents; ids are mostly shorter


class CustomIds:
    """The first `limit` custom_ids of a drop, each with its line: exact, and bounded in memory.

    A dict of the strings takes 120 MB for a million ids of 16 characters, so 12 MB for the 100,000 of a full file. Hash
    tables in arrays take half of that, and make the check of a drop a quarter slower. A long id is kept as a digest, so
    that its length does not matter. The digest has 128 bits, since a false duplicate would reject a good drop: among 10
    million ids it is one chance in 10**24, with the 64 bits of hash() it would be one in 400,000.
    Past the limit a drop is rejected anyway: repetitions of the ids kept are still found, and none is added.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: dict[str | bytes, int] = {}

    def first_line(self, custom_id: str, line: int) -> int:
        """Return the line that had `custom_id` first, which is `line` if none before it had."""
        key = custom_id if len(custom_id) <= LONGEST_KEPT else _digest(custom_id)
        if len(self._lines) < self._limit:
            return self._lines.setdefault(key, line)
        return self._lines.get(key, line)


def _digest(custom_id: str) -> bytes:
    return blake2b(custom_id.encode(errors="surrogatepass"), digest_size=16).digest()
