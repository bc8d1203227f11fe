"""Evaluation of LION: benchmarks as data, metrics, the runner and its report."""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from lion_multimodal.evaluation.answering import Answer, Answerer
    from lion_multimodal.evaluation.benchmark import Benchmark, Decoding, Example, HubDataset, Metric
    from lion_multimodal.evaluation.benchmarks import BENCHMARKS, get_benchmarks
    from lion_multimodal.evaluation.metrics import load_metric
    from lion_multimodal.evaluation.model_card import update_card
    from lion_multimodal.evaluation.report import Report
    from lion_multimodal.evaluation.rows import Examples, load_image, read_examples
    from lion_multimodal.evaluation.runner import evaluate


__all__ = [
    "BENCHMARKS",
    "Answer",
    "Answerer",
    "Benchmark",
    "Decoding",
    "Example",
    "Examples",
    "HubDataset",
    "Metric",
    "Report",
    "evaluate",
    "get_benchmarks",
    "load_image",
    "load_metric",
    "read_examples",
    "update_card",
]

_MODULES = {
    "Answer": "answering",
    "Answerer": "answering",
    "BENCHMARKS": "benchmarks",
    "Benchmark": "benchmark",
    "Decoding": "benchmark",
    "Example": "benchmark",
    "Examples": "rows",
    "HubDataset": "benchmark",
    "Metric": "benchmark",
    "Report": "report",
    "evaluate": "runner",
    "get_benchmarks": "benchmarks",
    "load_image": "rows",
    "load_metric": "metrics",
    "read_examples": "rows",
    "update_card": "model_card",
}


def __getattr__(name: str) -> Any:
    # On demand: names of benchmarks are wanted where torch is not loaded yet.
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
