"""Whether a service still answers the golden inputs as it should."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from fastapi.concurrency import run_in_threadpool

from transfer.bundle.checking import Check
from transfer.errors import UserError

Outcome = Check | UserError


class Health:
    """The last outcome of a check.

    Args:
        check: checks, in a thread of its own; what it raises is the outcome, too.
    """

    def __init__(self, check: Callable[[], Check]) -> None:
        self._check = check
        self._running = anyio.Lock()
        self.outcome = self.measure()

    def measure(self) -> Outcome:
        """Check and return what came of it."""
        try:
            return self._check()
        except UserError as error:
            return error

    async def renewed(self) -> Outcome:
        """Return an outcome that is newer than the last; those who ask meanwhile get the same."""
        last = self.outcome
        async with self._running:
            if self.outcome is last:
                self.outcome = await run_in_threadpool(self.measure)
        return self.outcome


def is_healthy(outcome: Outcome) -> bool:
    """Return whether the golden inputs were answered as where the bundle was written."""
    return isinstance(outcome, Check) and not outcome.deviates
