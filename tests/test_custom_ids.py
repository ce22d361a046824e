import tracemalloc

import pytest

from batch_fn import custom_ids
from batch_fn.custom_ids import CustomIds


@pytest.mark.parametrize("kept", [0, 3, 100, 10_000])
def test_the_first_line_is_found_whether_ids_are_kept_or_their_digests(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom_ids, "MOST_KEPT", kept or 1)
    monkeypatch.setattr(custom_ids, "_BUCKETS", 2)
    ids = CustomIds(limit=1500)
    names = [f"id-{number}" + "x" * (number % 100) for number in range(2000)]
    assert [ids.first_line(name, line) for line, name in enumerate(names, 1)] == list(range(1, 2001))
    again = [ids.first_line(name, 10_000 + line) for line, name in enumerate(names, 1)]
    assert again == [*range(1, 1501), *range(11_501, 12_001)]  # past the limit none was added


def test_a_million_ids_take_24_megabytes_at_most() -> None:
    tracemalloc.start()
    try:
        ids = CustomIds(limit=1_000_000)
        for number in range(1_000_000):
            ids.first_line(f"request-{number:07}", number + 1)
        assert tracemalloc.get_traced_memory()[1] < 24_000_000
        assert ids.first_line("request-0123456", 2_000_000) == 123_457
    finally:
        tracemalloc.stop()
