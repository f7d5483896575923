"""The turns that the requests of one session take."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from stackmff.errors import StackError

AT_ONCE = 4  # requests of one session that are worked on; the others wait for their turn
MOST_WAITING = 100  # requests of one session that wait; a browser sends six


class Turns:
    """Lets only a few requests of each session be worked on at a time.

    Strokes are painted under the lock of their stack. Requests that wait for it would take all
    threads of the server, and those of other sessions would get none.

    Args:
        at_once: requests of one session that are worked on.
    """

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self.at_once = at_once
        self.gates: dict[str, asyncio.Semaphore] = {}
        self.here: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def turn(self, token: str) -> AsyncIterator[None]:
        """Wait for the turn of a request; StackError where too many wait."""
        if self.here[token] >= self.at_once + MOST_WAITING:
            raise StackError("the server is busy with earlier requests of this page: wait a little")
        gate = self.gates.setdefault(token, asyncio.Semaphore(self.at_once))
        self.here[token] += 1
        try:
            async with gate:
                yield
        finally:
            self.here[token] -= 1
            if not self.here[token]:
                del self.here[token], self.gates[token]
