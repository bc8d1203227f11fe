"""Taking times: interleaved rounds, their medians, and the surroundings they were taken in."""

import gc
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import transformers


logger = logging.getLogger(__name__)


@dataclass
class Figure:
    """
    One measured figure.

    Args:
        name (`str`): Group and case, `"decode-step/greedy-batch-1"`.
        title (`str`): What is compared with what.
        value (`float`): The figure; `unit` says of what.
        unit (`str`): `"x"` for a ratio of candidate to reference, `"s"` for seconds.
        target (`float`, *optional*): The most that `value` may be; without one the figure is only reported.
        seconds (`dict[str, float]`): Median seconds of each side.
        rounds (`dict[str, list[float]]`): Everything that was measured, in order.
        details (`dict`): What else belongs to it.
        profile (`dict[str, str]`): Where each side spends its time, if that was asked for or the target missed.
    """

    name: str
    title: str
    value: float
    unit: str = "x"
    target: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """Whether the figure, as precisely as it is reported, keeps to its target."""
        return None if self.target is None else round(self.value, 2) <= self.target

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


@dataclass
class Side:
    """One side of a comparison: `run` is timed and gets what `prepare` returned, which is not."""

    label: str
    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def time_interleaved(
    sides: list[Side], rounds: int, device: str, log_every: int = 1
) -> tuple[list[list[float]], list[list[float]], list]:
    """
    Time `sides` in turns, A B A B ..., after one round that doesn't count: what slows the machine down for a while then
    slows all of them. The shorter a round, the truer that is.

    Returns:
        Wall-clock seconds and the process's processor seconds, each by side and round; the last round's results.
    """
    wall: list[list[float]] = [[] for _ in sides]
    processor: list[list[float]] = [[] for _ in sides]
    results: list[Any] = [None for _ in sides]
    gc.collect()
    for number in range(rounds + 1):
        for index, side in enumerate(sides):
            prepared = side.prepare()
            synchronize(device)
            started, processor_started = time.perf_counter(), time.process_time()
            results[index] = side.run(prepared)
            synchronize(device)
            elapsed, processor_elapsed = time.perf_counter() - started, time.process_time() - processor_started
            if number > 0:
                wall[index].append(elapsed)
                processor[index].append(processor_elapsed)
        if number > 0 and number % log_every == 0:
            logger.info("    round %d of %d: %s", number, rounds, ", ".join(f"{w[-1]:.4f} s" for w in wall))
    return wall, processor, results


def median_ratio(candidate: list[float], reference: list[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(candidate, reference, strict=True))


def profile(side: Side, device: str, rows: int = 12) -> str:
    """Table of the operations that take most of one run."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    prepared = side.prepare()
    with torch.profiler.profile(activities=activities) as profiler:
        side.run(prepared)
        synchronize(device)
    key = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=key, row_limit=rows, max_name_column_width=40)


def describe_environment(threads: int) -> dict[str, Any]:
    """What the figures depend on beside the code."""
    environment = {
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if torch.cuda.is_available():
        environment["gpu"] = torch.cuda.get_device_name()
        environment["cuda"] = torch.version.cuda
    return environment


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
