"""A map from very many custom_ids to numbers, without a Python object for each entry."""

from hashlib import blake2b

_DIGEST = 12  # bytes: the chance of a collision among 10 million custom_ids is one in 10**15
_IN_A_BUCKET = 32  # entries: they are searched in less time than the digest takes


class CompactMap:
    """Maps custom_ids to numbers of at most `number_bytes` bytes; it works best with about `expected` entries.

    An entry takes twelve bytes beside its number, and a share of its bucket's free space.
    """

    def __init__(self, number_bytes: int, expected: int) -> None:
        self._number_bytes = number_bytes
        self._entry_bytes = _DIGEST + number_bytes
        self._buckets = [bytearray() for _ in range(expected // _IN_A_BUCKET + 1)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, custom_id: bytes) -> int | None:
        """Return the number of a custom_id, None if it has no entry."""
        bucket, place, digest = self._find(custom_id)
        return int.from_bytes(bucket[place + len(digest) : place + self._entry_bytes]) if place >= 0 else None

    def put(self, custom_id: bytes, number: int) -> None:
        """Set the number of a custom_id."""
        bucket, place, digest = self._find(custom_id)
        if place >= 0:
            bucket[place : place + self._entry_bytes] = digest + number.to_bytes(self._number_bytes)
        else:
            bucket += digest + number.to_bytes(self._number_bytes)
            self._count += 1

    def _find(self, custom_id: bytes) -> tuple[bytearray, int, bytes]:
        """Return (bucket, index of the digest in it or -1, digest)."""
        digest = blake2b(custom_id, digest_size=_DIGEST).digest()
        bucket = self._buckets[int.from_bytes(digest[:4]) % len(self._buckets)]
        place = bucket.find(digest)
        while place % self._entry_bytes and place >= 0:  # a match that spans two entries
            place = bucket.find(digest, place + 1)
        return bucket, place, digest
