"""Exact match: the share of free answers that are the right one, word for word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from lion_multimodal.evaluation.metrics import checked  # From: lion-multimodal
from processing_lion.answers_lion import plain_answer  # From: lion-multimodal


_CITATION = """\
@inproceedings{hudson2019gqa,
  title = {GQA: A New Dataset for Real-World Visual Reasoning and Compositional Question Answering},
  author = {Hudson, Drew A. and Manning, Christopher D.},
  booktitle = {CVPR},
  year = {2019}
}"""

_INPUTS = """
Args:
    predictions: an answer to each question.
    references: the right answer to each question.
    per_sample: whether to give the figure of each question, too.

Returns:
    "accuracy": share of answers that agree but for case, blanks and a final full stop; "strict_accuracy": share of
    those that agree in every character; "per_sample", of the former, if asked for.
"""


class ExactMatchAccuracy(checked.CheckedMetric):
    """Share of answers that agree but for case, blanks and a final full stop."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            reference_urls=["https://cs.stanford.edu/people/dorarad/gqa/evaluate.html"],
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str], per_sample: bool = False
    ) -> dict[str, Any]:
        for number, reference in enumerate(references):
            if not plain_answer(reference):
                raise ValueError(f"references[{number}] must be an answer, got {reference!r:.100}")
        pairs = list(zip(predictions, references, strict=True))
        scores = [float(plain_answer(prediction) == plain_answer(reference)) for prediction, reference in pairs]
        result: dict[str, Any] = {
            "accuracy": float(np.mean(scores)),
            "strict_accuracy": float(np.mean([prediction == reference for prediction, reference in pairs])),
        }
        return {**result, "per_sample": scores} if per_sample else result
