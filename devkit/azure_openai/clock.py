"""Service time: seconds that may pass faster than real ones, and that can be held."""

import asyncio
import contextlib
import math
import time


class ServiceClock:
    """Counts service seconds from 0; `speed` of them pass in a real second, none while the clock is held."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._held = False
        self._passed = 0.0
        self._since = time.monotonic()
        self._changed = asyncio.Event()

    @property
    def held(self) -> bool:
        """Whether time stands still."""
        return self._held

    def now(self) -> float:
        """Service seconds since the clock was made."""
        return self._passed if self._held else self._passed + (time.monotonic() - self._since) * self._speed

    def change(self, *, speed: float | None = None, held: bool | None = None) -> None:
        """Set the speed, the hold, or both; who sleeps now is woken to count anew."""
        self._passed, self._since = self.now(), time.monotonic()
        self._speed = self._speed if speed is None else speed
        self._held = self._held if held is None else held
        woken, self._changed = self._changed, asyncio.Event()
        woken.set()

    def reset(self) -> None:
        """Count from 0 again: much faster seconds than usual are so many that no fraction of one is left."""
        self.change(held=False)
        self._passed = 0.0

    async def sleep(self, seconds: float) -> None:
        """Return when `seconds` of service time have passed, and the clock is not held: a hold stops a sleep of 0."""
        await self.sleep_until(self.now() + seconds)

    async def sleep_until(self, moment: float) -> None:
        """Return when it is `moment` or later, and the clock is not held."""
        # The division's rounding may wake us a hair too early: what is left then is nothing.
        while self._held or moment - self.now() > 1e-6 * self._speed:
            left = math.inf if self._held else (moment - self.now()) / self._speed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if left == math.inf else left):
                    await self._changed.wait()
