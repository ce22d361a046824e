"""Numbers by custom_id: whatever is put in comes out, however full the buckets are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_fn.validation.compact_map import CompactMap


@pytest.mark.parametrize("expected", [0, 100, 100_000])
@given(st.lists(st.tuples(st.binary(max_size=3), st.integers(0, 2**40 - 1)), max_size=200))
def test_it_is_a_mapping(expected: int, pairs: list[tuple[bytes, int]]) -> None:
    numbers, plain = CompactMap(5, expected), dict[bytes, int]()
    for custom_id, number in pairs:
        assert numbers.get(custom_id) == plain.get(custom_id)
        numbers.put(custom_id, number)
        plain[custom_id] = number
        assert len(numbers) == len(plain)
    assert {custom_id: numbers.get(custom_id) for custom_id in plain} == plain


def test_many_in_one_bucket_are_told_apart() -> None:
    numbers = CompactMap(1, 0)
    for number in range(10_000):
        numbers.put(b"%d" % number, number % 251)
    assert all(numbers.get(b"%d" % number) == number % 251 for number in range(10_000))
    assert numbers.get(b"10000") is None
