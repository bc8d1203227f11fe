"""Multiple choice: the share of questions whose right answer is the most likely of those to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from lion_multimodal.evaluation.metrics import checked, choices  # From: lion-multimodal


_CITATION = """\
@inproceedings{brown2020language,
  title = {Language Models are Few-Shot Learners},
  author = {Brown, Tom B. and others},
  booktitle = {NeurIPS},
  year = {2020}
}"""

_INPUTS = """
Args:
    predictions: for each question the log-likelihoods of its candidates, as many as there are.
    references: for each question the place of the right candidate, from 0.
    per_sample: whether to give the figure of each question, too.

Returns:
    "accuracy": share of questions whose right candidate is the most likely, the first of several that are equally
    so; "chance_accuracy": what guessing gives on average; "per_sample" if asked for.
"""


class MultipleChoiceAccuracy(checked.CheckedMetric):
    """Share of questions whose most likely candidate is the right one."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
            reference_urls=["https://arxiv.org/abs/2005.14165"],
        )

    def _compute(
        self, predictions: Sequence[Sequence[float]], references: Sequence[int], per_sample: bool = False
    ) -> dict[str, Any]:
        choices.check(predictions, references)
        scores = [
            float(choices.most_likely(row) == reference) for row, reference in zip(predictions, references, strict=True)
        ]
        result: dict[str, Any] = {
            "accuracy": float(np.mean(scores)),
            "chance_accuracy": float(np.mean([1 / len(row) for row in predictions])),
        }
        return {**result, "per_sample": scores} if per_sample else result
