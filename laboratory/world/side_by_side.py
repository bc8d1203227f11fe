"""Work on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


_FEWEST_CALLS = 8


def side_by_side(function: Callable[..., Any], calls: Sequence[tuple], processes: int | None = None) -> Iterator[Any]:
    """
    Results of calls, in their order.

    Args:
        function (`Callable`): A function of a module, which other processes can import.
        calls (`Sequence[tuple]`): Its arguments, call by call.
        processes (`int`, *optional*):
            How many processes share the calls. Defaults to one a core, and to none beside this one where a process
            would have fewer than eight calls.
    """
    if processes is None:
        processes = min(os.cpu_count() or 1, len(calls) // _FEWEST_CALLS)
    if processes < 2:
        for arguments in calls:
            yield function(*arguments)
        return
    # Forked, a process would share the parent's thread pools.
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(function, *zip(*calls), chunksize=4)
