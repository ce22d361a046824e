"""What a job cost is counted from its tokens, or not told at all."""

import pytest

from batch_fn.core.jobs import Usage
from batch_fn.core.prices import cost

PRICES = {"small": (0.5, 2.0), "large": (5.0, 20.0)}


def test_each_deployment_has_a_price_of_its_own() -> None:
    spent = [("small", Usage(1_000_000, 500_000, 1_500_000)), ("large", Usage(200_000, 100_000, 300_000))]
    assert cost(spent, PRICES) == pytest.approx(0.5 + 1.0 + 1.0 + 2.0)


def test_what_has_no_price_makes_the_cost_unknown_unless_it_spent_nothing() -> None:
    assert cost([("small", Usage(1, 1, 2)), ("other", Usage(1, 1, 2))], PRICES) is None
    assert cost([("small", Usage(1_000_000, 0, 1_000_000)), ("other", Usage())], PRICES) == 0.5
    assert cost([], PRICES) == 0
    assert cost([], {}) is None
