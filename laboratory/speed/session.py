"""One run of the benchmark: what is to be measured, on what, and where the figures go."""

import json
import logging
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from laboratory.speed.measurement import Figure, Side, describe_environment, median_ratio, profile, time_interleaved
from laboratory.speed.report import render
from laboratory.speed.sizes import Sizes
from trainers.atomic import write_json


logger = logging.getLogger(__name__)


@dataclass
class Session:
    """
    Measures figures on one device and writes each as soon as there is one; a figure that an earlier run with the same
    settings left in `output` isn't measured again.

    Args:
        sizes ([`Sizes`]): Sizes of the models.
        device (`str`): `"cpu"` or `"cuda"`.
        dtype (`torch.dtype`): Of the weights.
        repeats (`int`): Rounds of every comparison.
        threads (`int`): Threads that torch uses on the CPU.
        output (`Path`): Folder of `speed.json` and `speed.md`.
        only (`list[str]`): What the names of the wanted figures begin with; everything if empty.
        profile_all (`bool`): Whether to profile also what keeps to its target.
    """

    sizes: Sizes
    device: str
    dtype: torch.dtype
    repeats: int
    threads: int
    output: Path
    only: list[str] = field(default_factory=list)
    profile_all: bool = False

    def __post_init__(self):
        self.environment = describe_environment(self.threads)
        self.file = self.output / "speed.json"
        self.report: dict[str, Any] = {"runs": {}}
        if self.file.exists():
            self.report = json.loads(self.file.read_text(encoding="utf-8"))
        self.key = f"{self.device}-{self.dtype_name}"
        settings = {"sizes": asdict(self.sizes), "environment": self.environment, "repeats": self.repeats}
        run = self.report["runs"].get(self.key)
        if run is None or run["settings"] != settings:
            run = {"settings": settings, "device": self.device, "dtype": self.dtype_name, "figures": {}}
            self.report["runs"][self.key] = run
        self.figures: dict[str, dict] = run["figures"]

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def wanted(self, *names: str) -> list[str]:
        """Those of `names` that are asked for and not measured yet."""
        asked = [n for n in names if not self.only or any(n.startswith(prefix) for prefix in self.only)]
        for name in asked:
            if name in self.figures:
                logger.info("%s: already measured, see %s", name, self.file)
        return [name for name in asked if name not in self.figures]

    def compare(
        self,
        name: str,
        title: str,
        candidate: Side,
        reference: Side,
        target: float | None = None,
        check: Callable[[Any, Any], dict[str, Any]] | None = None,
        rounds_per_repeat: int = 1,
    ) -> None:
        """
        Measure the time of `candidate` as a multiple of that of `reference`. `check` gets what both returned; it raises
        if they disagree, and what it returns goes into the details. What takes little time has several rounds for every
        repeat.
        """
        logger.info("%s (%s): %s", name, self.key, title)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        sides = [candidate, reference]
        wall, processor, results = time_interleaved(
            sides, self.repeats * rounds_per_repeat, self.device, log_every=rounds_per_repeat
        )
        figure = Figure(name=name, title=title, value=median_ratio(*wall), target=target)
        figure.details["load_average"] = load
        figure.details["processor_time_ratio"] = median_ratio(*processor)
        if self.device == "cuda":
            figure.details["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
        if check is not None:
            figure.details.update(check(*results))
        for side, rounds in zip(sides, wall):
            figure.seconds[side.label] = statistics.median(rounds)
            figure.rounds[side.label] = rounds
        if self.profile_all or figure.passed is False:
            figure.profile = {side.label: profile(side, self.device) for side in sides}
        self.add(figure)

    def add(self, figure: Figure) -> None:
        """Keep a figure and write the report anew."""
        self.figures[figure.name] = {**figure.to_dict(), "measured_at": time.strftime("%Y-%m-%d %H:%M:%S")}
        verdict = {None: "reported", True: "reached", False: "MISSED"}[figure.passed]
        target = "" if figure.target is None else f", target at most {figure.target} {figure.unit}"
        logger.info("    %.3f %s%s: %s", figure.value, figure.unit, target, verdict)
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(self.file, self.report, indent=1)
        (self.output / "speed.md").write_text(render(self.report), encoding="utf-8")
