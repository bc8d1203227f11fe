"""
Metrics as `evaluate` modules, a folder each, with a card.

`load_metric("cider")` is `evaluate.load` on the folder `cider` beside this file. Both need no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modeling_lion.extras_lion import needs_extra


METRICS = (
    "cider",
    "bleu",
    "meteor",
    "rouge_l",
    "spice",
    "vqa_accuracy",
    "exact_match_accuracy",
    "multiple_choice_accuracy",
    "rec_accuracy",
    "visdial_ranking",
    "pope",
    "mmbench_circular",
)
"""Names of the metrics, which are those of their folders."""


def metric_folder(name: str) -> Path:
    """
    The folder of a metric, which `evaluate.load` takes as a string.

    Raises:
        ValueError: there is no metric of that name.
    """
    if name not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {name!r:.100}")
    return Path(__file__).resolve().parent / name


def load_metric(name: str) -> Any:
    """
    Load a metric.

    Args:
        name: one of `METRICS`.

    Returns:
        An `evaluate.Metric` that keeps its inputs in memory.

    Raises:
        ValueError: there is no metric of that name.
        ImportError: a package of the extra `evaluation` is missing.
    """
    with needs_extra("evaluation", "A metric", "datasets"):
        import evaluate

    return evaluate.load(str(metric_folder(name)), keep_in_memory=True)


__all__ = ["METRICS", "load_metric", "metric_folder"]
