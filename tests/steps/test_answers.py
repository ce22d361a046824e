"""Where an answer lies is kept as one number, and read back as it was."""

import pytest

from batch_fn.core.results import Verdict
from batch_fn.steps.answers import MAX_RESULT_BYTES, Location, pack_location, unpack_location


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("file", [0, 1])
@pytest.mark.parametrize(("offset", "length"), [(0, 1), (1, 0), (2**40, MAX_RESULT_BYTES)])
def test_a_place_is_read_back_as_it_was(file: int, offset: int, length: int, verdict: Verdict) -> None:
    place = Location(file, offset, length, verdict)
    assert unpack_location(pack_location(place)) == place
