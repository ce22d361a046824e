"""A gzip drop is unpacked as a stream, within bounds; what is wrong with one is said in a sentence."""

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_fn.validation.gunzip import FREE_BYTES, MAX_RATIO, PIECE_BYTES, GzipError, gunzip, is_gzip

NO_LIMIT = 1 << 40


def cut(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


def unpacked(content: bytes, size: int = 1000, limit: int = NO_LIMIT) -> bytes:
    return b"".join(gunzip(cut(content, size), limit))


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=4), st.integers(1, 200), st.integers(0, 3))
def test_what_was_packed_comes_out_however_it_is_cut(members: list[bytes], size: int, padding: int) -> None:
    packed = b"".join(map(gzip.compress, members)) + bytes(padding)
    assert is_gzip(packed)
    assert unpacked(packed, size) == b"".join(members)


@given(st.binary(min_size=1, max_size=300), st.integers(1, 50), st.data())
def test_a_truncated_file_is_never_taken_for_a_whole_one(content: bytes, size: int, data: st.DataObject) -> None:
    packed = gzip.compress(content)
    end = data.draw(st.integers(2, len(packed) - 1))
    with pytest.raises(GzipError, match="truncated"):
        unpacked(packed[:end], size)


@given(st.binary(min_size=100, max_size=300), st.integers(1, 50))
def test_a_damaged_file_is_told(content: bytes, size: int) -> None:
    packed = bytearray(gzip.compress(content))
    packed[-8] ^= 1  # its checksum
    with pytest.raises(GzipError, match="damaged: incorrect data check"):
        unpacked(bytes(packed), size)


def test_what_follows_a_member_and_is_none_is_told() -> None:
    with pytest.raises(GzipError, match="damaged: incorrect header check"):
        unpacked(gzip.compress(b"one") + b"two")


def test_the_unpacked_size_is_bounded() -> None:
    packed = gzip.compress(random.Random(1).randbytes(10_000))
    assert len(unpacked(packed, limit=10_000)) == 10_000
    with pytest.raises(GzipError, match="more than 9,999 bytes"):
        unpacked(packed, limit=9_999)


def test_a_bomb_is_refused_before_it_is_unpacked_and_takes_no_memory() -> None:
    """600 KB of a header `Content-Encoding: gzip` took 1.2 GB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    million = bytes(1_000_000)
    bomb = b"".join(packer.compress(million) for _ in range(600)) + packer.flush()
    assert len(bomb) < 700_000
    tracemalloc.start()
    size = 0
    with pytest.raises(GzipError, match=f"more than {MAX_RATIO} times"):
        for piece in gunzip([bomb], NO_LIMIT):
            assert len(piece) <= PIECE_BYTES
            size += len(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size <= len(bomb) * MAX_RATIO
    assert peak < 8 * PIECE_BYTES


def test_a_small_file_may_have_any_ratio() -> None:
    content = bytes(FREE_BYTES)
    assert len(unpacked(gzip.compress(content))) == len(content)


def test_an_empty_file_is_no_gzip_and_an_empty_one_in_gzip_is_empty() -> None:
    assert not is_gzip(b"")
    assert not is_gzip(b"\x1f")
    assert unpacked(gzip.compress(b"")) == b""
    assert unpacked(gzip.compress(b"") + bytes(9) + gzip.compress(b"a")) == b"a"
