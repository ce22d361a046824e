"""Tokens and cost of finished jobs, by day."""

from datetime import timedelta
from typing import Any

import msgspec

from batch_fn.app import App
from batch_fn.core.prices import DIGITS
from batch_fn.runtime import clock
from batch_fn.storage.rows import FinishedUsage


def daily_usage(app: App, days: int) -> list[dict[str, Any]]:
    """Return tokens and cost of finished jobs for each of the last days, the oldest first; days are in UTC.

    A job counts on the day of its drop. `cost` is null where the price of one of them is unknown.
    """
    midnight = clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    first = midnight - timedelta(days=days - 1)
    totals = {f"{first + timedelta(days=day):%Y-%m-%d}": Total() for day in range(days)}
    for spent in app.tables.history(FinishedUsage, since=first):
        day = f"{spent.dropped_at:%Y-%m-%d}"
        if day in totals:
            totals[day] = totals[day].plus(spent)
    return [{"day": day} | msgspec.to_builtins(total) for day, total in totals.items()]


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over jobs."""

    jobs: int = 0
    succeeded: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cost: float | None = 0.0

    def plus(self, spent: FinishedUsage) -> "Total":
        """Return the total with one more job."""
        known = self.cost is not None and (spent.cost is not None or not spent.total_tokens)
        return Total(
            jobs=self.jobs + 1,
            succeeded=self.succeeded + spent.succeeded,
            failed=self.failed + spent.failed,
            prompt_tokens=self.prompt_tokens + spent.prompt_tokens,
            completion_tokens=self.completion_tokens + spent.completion_tokens,
            total_tokens=self.total_tokens + spent.total_tokens,
            cost=round((self.cost or 0.0) + (spent.cost or 0.0), DIGITS) if known else None,
        )
