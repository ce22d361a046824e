"""A number for each of very many custom_ids, held without an object for each."""

from hashlib import blake2b

_DIGEST = 12  # bytes: taking one custom_id for another among 10 million is one chance in 10**15
_IN_A_BUCKET = 32  # entries that are searched in less than the digest takes


class CompactMap:
    """A mapping of custom_ids to numbers of at most `number_bytes` bytes; it is made for about `expected` of them.

    It takes twelve bytes for each beside its number, and what a bucket has to spare.
    """

    def __init__(self, number_bytes: int, expected: int) -> None:
        self._number_bytes = number_bytes
        self._entry_bytes = _DIGEST + number_bytes
        self._buckets = [bytearray() for _ in range(expected // _IN_A_BUCKET + 1)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, custom_id: bytes) -> int | None:
        """Return the number of a custom_id, None if it has none."""
        bucket, place, digest = self._find(custom_id)
        return int.from_bytes(bucket[place + len(digest) : place + self._entry_bytes]) if place >= 0 else None

    def put(self, custom_id: bytes, number: int) -> None:
        """Give a custom_id a number, in the place of the one that it had."""
        bucket, place, digest = self._find(custom_id)
        if place >= 0:
            bucket[place : place + self._entry_bytes] = digest + number.to_bytes(self._number_bytes)
        else:
            bucket += digest + number.to_bytes(self._number_bytes)
            self._count += 1

    def _find(self, custom_id: bytes) -> tuple[bytearray, int, bytes]:
        """Return the bucket of a custom_id, where in it its digest stands, less than 0 if it does not, and that."""
        digest = blake2b(custom_id, digest_size=_DIGEST).digest()
        bucket = self._buckets[int.from_bytes(digest[:4]) % len(self._buckets)]
        place = bucket.find(digest)
        while place % self._entry_bytes and place >= 0:  # found across two entries
            place = bucket.find(digest, place + 1)
        return bucket, place, digest
