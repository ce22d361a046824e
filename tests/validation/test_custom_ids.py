import tracemalloc

import pytest

from batch_fn.validation import custom_ids
from batch_fn.validation.custom_ids import CustomIds


@pytest.mark.parametrize("kept", [0, 3, 100, 10_000])
def test_the_first_line_is_found_whether_ids_are_kept_or_their_digests(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom_ids, "MOST_KEPT", kept or 1)
    ids = CustomIds(limit=1500)
    names = [b"id-%d" % number + b"x" * (number % 100) for number in range(2000)]
    assert [ids.first_line(name, line) for line, name in enumerate(names, 1)] == list(range(1, 2001))
    again = [ids.first_line(name, 10_000 + line) for line, name in enumerate(names, 1)]
    assert again == [*range(1, 1501), *range(11_501, 12_001)]  # past the limit none was added


@pytest.mark.parametrize("kept", [0, 5, 100, 10_000])
@pytest.mark.parametrize("size", [10, 100])
def test_many_at_a_time_are_new_exactly_if_each_is(kept: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_ids, "MOST_KEPT", kept or 1)
    names = [b"%d" % number + b"x" * size for number in range(50)]
    ids = CustomIds(limit=60)
    assert ids.are_new(names[:20], 1)
    assert ids.are_new(names[20:], 21)
    assert not ids.are_new([b"y", names[30], b"z"], 51)
    asked_again = [ids.first_line(each, line) for line, each in enumerate([b"y", names[30], b"z"], 51)]
    assert asked_again == [51, 31, 53]
    assert not ids.are_new([b"a", b"b", b"a"], 54)
    assert [ids.first_line(each, line) for line, each in enumerate([b"a", b"b", b"a"], 54)] == [54, 55, 54]
    assert not ids.are_new([b"%d" % number for number in range(10)], 57)  # past the limit


def test_a_million_ids_take_28_megabytes_at_most() -> None:
    tracemalloc.start()
    try:
        ids = CustomIds(limit=1_000_000)
        for number in range(1_000_000):
            ids.first_line(b"request-%07d" % number, number + 1)
        assert tracemalloc.get_traced_memory()[1] < 28_000_000
        assert ids.first_line(b"request-0123456", 2_000_000) == 123_457
    finally:
        tracemalloc.stop()
