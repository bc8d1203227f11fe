"""From predictions to figures: metrics by part of a benchmark, with bootstrap intervals."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lion_multimodal.evaluation.benchmark import Benchmark, Example, Metric
from lion_multimodal.evaluation.published import PUBLISHED_DETAILS
from lion_multimodal.evaluation.statistics import bootstrap_interval, f1_of_counts


logger = logging.getLogger(__name__)

# What a metric may raise that lacks something (Java, a package, a file) or cannot read its inputs.
METRIC_ERRORS = (ImportError, OSError, RuntimeError, TypeError, ValueError)


@dataclass
class Score:
    """
    The figures of a part of a benchmark.

    Attributes:
        part: the part's name, empty where the benchmark has one only.
        metric: the metric.
        headline: which of its figures is compared.
        value: the headline in the published unit.
        scale: factor from the metric's own unit to the published one.
        interval: ends of the 95 % bootstrap interval of `value`, images drawn with all their questions; `None` where
            the figure is no mean over samples.
        samples: number of examples.
        figures: all figures of the metric and of those beside it, in their own units.
        notes: what the metrics say in words: the tokenizer of captions, a metric that could not be computed.
        published: published headlines by model.
        published_figures: published figures beside the headline, in its unit, by model.
    """

    part: str
    metric: str
    headline: str
    value: float
    scale: float
    interval: tuple[float, float] | None
    samples: int
    figures: dict[str, float]
    notes: dict[str, str] = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)
    published_figures: dict[str, dict[str, float]] = field(default_factory=dict)


def score(
    benchmark: Benchmark,
    examples: Sequence[Example],
    predictions: Mapping[str, Any],
    load_metric: Callable[[str], Any],
) -> list[Score]:
    """
    Score each part of a benchmark, in the order in which the benchmark names them.

    Args:
        benchmark: the benchmark.
        examples: its examples.
        predictions: by the examples' ids, texts or lists of log-likelihoods; examples without one do not count.
        load_metric: gives the `evaluate` module of a name.

    Raises:
        ValueError: there are no predictions, or a headline could not be computed; the metric is named.
    """
    parts: dict[str, list[Example]] = {part: [] for part in (*benchmark.published, *benchmark.metrics)}
    for example in examples:
        if example.id in predictions:
            parts.setdefault(example.part, []).append(example)
    scores = [_score_part(benchmark, part, found, predictions, load_metric) for part, found in parts.items() if found]
    if not scores:
        raise ValueError("there are no predictions to score")
    return scores


def _score_part(
    benchmark: Benchmark,
    part: str,
    examples: Sequence[Example],
    predictions: Mapping[str, Any],
    load_metric: Callable[[str], Any],
) -> Score:
    metric = benchmark.metric_of(part)
    inputs: dict[str, list[Any]] = {"predictions": [predictions[example.id] for example in examples]}
    for column in examples[0].metric_inputs:
        inputs[column] = [example.metric_inputs[column] for example in examples]
    try:
        found = _compute(metric, inputs, load_metric)
        value = float(found[metric.headline])
    except KeyError as error:
        raise ValueError(f"the metric {metric.name} gives no {error}") from error
    except METRIC_ERRORS as error:
        raise ValueError(f"the metric {metric.name} cannot be computed: {_line(error)}") from error
    if not math.isfinite(value):
        raise ValueError(f"the metric {metric.name} gives {value} for its {metric.headline}")
    per_sample = found.pop("per_sample", None)
    notes = {}
    for further in benchmark.further_metrics:
        try:
            found |= {key: figure for key, figure in _compute(further, inputs, load_metric).items() if key not in found}
        except METRIC_ERRORS as error:
            notes[further.headline] = f"not computed: {_line(error)}"
            logger.warning("%s: %s is %s", benchmark.name, further.headline, notes[further.headline])
    found.pop("per_sample", None)
    notes |= {key: figure for key, figure in found.items() if isinstance(figure, str)}
    ends = None if per_sample is None else _interval(examples, per_sample)
    return Score(
        part=part,
        metric=metric.name,
        headline=metric.headline,
        value=value * metric.scale,
        scale=metric.scale,
        interval=None if ends is None else (ends[0] * metric.scale, ends[1] * metric.scale),
        samples=len(examples),
        figures={key: float(figure) for key, figure in found.items() if _is_number(figure)},
        notes=notes,
        published=dict(benchmark.published.get(part, {})),
        published_figures={
            model: dict(figures) for model, figures in PUBLISHED_DETAILS.get(benchmark.name, {}).get(part, {}).items()
        },
    )


def _compute(metric: Metric, inputs: Mapping[str, list[Any]], load_metric: Callable[[str], Any]) -> dict[str, Any]:
    module = load_metric(metric.name)
    options = dict(metric.options)
    if "per_sample" in inspect.signature(module._compute).parameters:
        options["per_sample"] = True
    return dict(module.compute(**inputs, **options))


def _interval(examples: Sequence[Example], per_sample: Sequence[Any]) -> tuple[float, float] | None:
    """
    Of the mean of numbers, or of the F1 of rows (true positive, predicted positive, actual positive).

    Questions about one image are not independent, so images are drawn. Of examples that are judged as a group, one
    stands for all.
    """
    by_image: dict[str, list[Any]] = {}
    seen = set()
    for example, value in zip(examples, per_sample, strict=True):
        group = example.metric_inputs.get("groups", example.id)
        if group not in seen:
            seen.add(group)
            by_image.setdefault(example.image_id, []).append(value)
    if len(by_image) < 2:
        return None
    if isinstance(per_sample[0], Sequence):
        return bootstrap_interval(
            np.array([np.sum(values, axis=0) for values in by_image.values()], float), f1_of_counts
        )
    return bootstrap_interval(
        np.array([(sum(values), len(values)) for values in by_image.values()], float), _mean_of_sums
    )


def _mean_of_sums(rows: np.ndarray) -> float:
    total, count = rows.sum(axis=0)
    return float(total / count)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


__all__ = ["METRIC_ERRORS", "Score", "score"]
