"""The benchmarks, by name."""

from __future__ import annotations

import difflib

from lion_multimodal.evaluation.benchmark import Benchmark
from lion_multimodal.evaluation.benchmarks.captioning import COCO_CAPTION, FLICKR30K, TEXTCAPS
from lion_multimodal.evaluation.benchmarks.dialogue import VISDIAL
from lion_multimodal.evaluation.benchmarks.mmbench import MMBENCH
from lion_multimodal.evaluation.benchmarks.pope import POPE
from lion_multimodal.evaluation.benchmarks.question_answering import AOKVQA, GQA, ICONQA, OKVQA, VSR
from lion_multimodal.evaluation.benchmarks.referring import REFERRING


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        FLICKR30K,
        COCO_CAPTION,
        TEXTCAPS,
        OKVQA,
        AOKVQA,
        GQA,
        ICONQA,
        VSR,
        VISDIAL,
        *REFERRING,
        POPE,
        MMBENCH,
    )
}
"""All benchmarks, in the order of the paper's tables."""


def get_benchmarks(names: str) -> list[Benchmark]:
    """
    Benchmarks by name.

    Args:
        names: names separated by commas, or `"all"`.

    Returns:
        The benchmarks in the order of the names, each once.

    Raises:
        ValueError: a name is unknown, or there is none.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise ValueError(f"benchmark names must be 'all' or among {', '.join(BENCHMARKS)}, got {names!r:.100}")
    if wanted == ["all"]:
        return list(BENCHMARKS.values())
    if unknown := [name for name in wanted if name not in BENCHMARKS]:
        near = [name for name in BENCHMARKS if name.startswith(unknown[0])]
        near = near or difflib.get_close_matches(unknown[0], BENCHMARKS, n=3, cutoff=0.5)
        guess = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(BENCHMARKS)}"
        raise ValueError(f"unknown benchmark{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}; {guess}")
    return [BENCHMARKS[name] for name in dict.fromkeys(wanted)]


__all__ = ["BENCHMARKS", "get_benchmarks"]
