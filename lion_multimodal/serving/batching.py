"""Questions that come one by one, answered many at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Protocol, TypeVar


logger = logging.getLogger(__name__)


class Batchable(Protocol):
    """
    What can be put into a batch.

    Attributes:
        key: What things of a batch have in common.
        submitted: When it was handed in, by the event loop's clock.
    """

    key: Hashable
    submitted: float


T = TypeVar("T", bound=Batchable)


class Batcher(Generic[T]):
    """
    Collects things until there are enough of one kind, or the first has waited long enough, and processes one batch
    after the other. What comes while a batch is processed makes up the next ones: the busier, the larger they are.

    Args:
        process (`Callable[[list[T]], Awaitable[None]]`): What is done with a batch. Whatever it raises is logged.
        max_size (`int`): The most things of a batch.
        max_wait (`float`): Seconds that the first one waits for others.
    """

    def __init__(self, process: Callable[[list[T]], Awaitable[None]], max_size: int, max_wait: float):
        self._process, self._max_size, self._max_wait = process, max_size, max_wait
        self._groups: dict[Hashable, deque[T]] = {}
        self._changed = asyncio.Event()

    def submit(self, item: T) -> None:
        """Hand something in."""
        item.submitted = asyncio.get_running_loop().time()
        self._groups.setdefault(item.key, deque()).append(item)
        self._changed.set()

    def withdraw(self, item: T) -> bool:
        """Take something back; False where its batch has begun."""
        group = self._groups.get(item.key, ())
        if item not in group:
            return False
        self._groups[item.key].remove(item)
        if not self._groups[item.key]:
            del self._groups[item.key]
        return True

    def hurry(self) -> None:
        """Wait for nothing any more: no others will come."""
        self._max_wait = 0.0
        self._changed.set()

    async def run(self) -> None:
        """Process batches until this is cancelled."""
        while True:
            batch = await self._next()
            try:
                await self._process(batch)
            except Exception:
                logger.exception("a batch of %d could not be processed", len(batch))

    async def _next(self) -> list[T]:
        loop = asyncio.get_running_loop()
        while True:
            now, wake, chosen = loop.time(), float("inf"), None
            # The longest waiting first, whatever the others' number.
            for group in sorted(self._groups.values(), key=lambda group: group[0].submitted):
                due = group[0].submitted + self._max_wait
                if len(group) >= self._max_size or due <= now:
                    chosen = group
                    break
                wake = min(wake, due)
            if chosen is not None:
                batch = [chosen.popleft() for _ in range(min(len(chosen), self._max_size))]
                if not chosen:
                    del self._groups[batch[0].key]
                return batch
            self._changed.clear()
            try:
                async with asyncio.timeout_at(None if wake == float("inf") else wake):
                    await self._changed.wait()
            except TimeoutError:
                pass
