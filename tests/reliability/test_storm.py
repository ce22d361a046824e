"""A small storm; `make storm` lets a large one rage."""

import os
import random
from pathlib import Path

import pytest

from tests.reliability.storm import Storm, make_plan

pytestmark = pytest.mark.xdist_group("reliability")


def test_the_same_seed_makes_the_same_plan() -> None:
    def shown(seed: int) -> list[str]:
        plan = make_plan(seed, jobs=50, seconds=60)
        drops = (f"{at} {drop.name} {len(drop.lines)} {wishes}" for at, drop, wishes in plan.drops)
        return [*map(str, plan.troubles), *drops]

    assert shown(1) == shown(1)
    assert shown(1) != shown(2)


def test_every_promise_is_kept_in_a_small_storm(tmp_path: Path) -> None:
    """Set STORM_SEED to let the same one rage again."""
    seed = int(os.environ.get("STORM_SEED") or random.SystemRandom().randrange(1_000_000))
    broken = Storm(make_plan(seed, jobs=20, seconds=10), tmp_path / "host.log", print).run()
    assert broken == [], f"STORM_SEED={seed}"
