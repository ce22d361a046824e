"""The cost of a job: its tokens at the prices of the setting PRICES. Pure."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from batch_fn.core.jobs import Usage

MILLION = 1_000_000
DIGITS = 6
"""A millionth of the currency is precise enough for a single line."""


class Price(NamedTuple):
    """The cost of a million tokens of a deployment, in any currency."""

    prompt: float
    completion: float


def cost(spent: Iterable[tuple[str, Usage]], prices: Mapping[str, tuple[float, float]]) -> float | None:
    """Return the total cost of the tokens; None if a deployment that used any has no price."""
    total = 0.0
    for deployment, usage in spent:
        if not usage.total_tokens:
            continue
        if deployment not in prices:
            return None
        price = Price(*prices[deployment])
        total += (usage.prompt_tokens * price.prompt + usage.completion_tokens * price.completion) / MILLION
    return round(total, DIGITS) if prices else None
