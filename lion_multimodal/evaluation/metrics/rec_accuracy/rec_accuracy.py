"""Accuracy of referring expression comprehension: the share of answers whose box meets the right one well enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from lion_multimodal.evaluation.metrics import checked  # From: lion-multimodal
from processing_lion import grounding_lion  # From: lion-multimodal


_CITATION = """\
@inproceedings{kazemzadeh2014referitgame,
  title = {ReferItGame: Referring to Objects in Photographs of Natural Scenes},
  author = {Kazemzadeh, Sahar and Ordonez, Vicente and Matten, Mark and Berg, Tamara},
  booktitle = {EMNLP},
  year = {2014}
}"""

_INPUTS = """
Args:
    predictions: an answer to each expression, a text; its first box counts.
    references: the box of each expression: left, top, right and bottom as fractions of the image's width and height.
    threshold: the least intersection over union that counts as right.
    per_sample: whether to give for each expression whether it is right, too.

Returns:
    "accuracy": share of right answers; "mean_iou": mean intersection over union, 0 for answers without a box;
    "without_box": share of these; "per_sample", of the accuracy, if asked for.
"""

# Boxes are decimals, so a ratio that is the threshold exactly can come out a little below it.
_TOLERANCE = 1e-9


class RecAccuracy(checked.CheckedMetric):
    """Share of answers whose first box has an intersection over union with the right one of at least a threshold."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.List(datasets.Value("float64"))}
            ),
            reference_urls=["https://github.com/lichengunc/refer"],
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[float]],
        threshold: float = 0.5,
        per_sample: bool = False,
    ) -> dict[str, Any]:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
        for number, box in enumerate(references):
            if not _is_box(box):
                raise ValueError(
                    f"references[{number}] must be a box with an area: left, top, right and bottom as fractions of the "
                    f"image's sides, got {box!r:.100}"
                )
        found = [grounding_lion.parse_boxes(prediction)[:1] for prediction in predictions]
        overlaps = [
            grounding_lion.intersection_over_union(boxes[0], box) if boxes else 0.0
            for boxes, box in zip(found, references, strict=True)
        ]
        scores = [float(overlap >= threshold - _TOLERANCE) for overlap in overlaps]
        result: dict[str, Any] = {
            "accuracy": float(np.mean(scores)),
            "mean_iou": float(np.mean(overlaps)),
            "without_box": float(np.mean([not boxes for boxes in found])),
        }
        return {**result, "per_sample": scores} if per_sample else result


def _is_box(sides: Sequence[float]) -> bool:
    if len(sides) != 4:
        return False
    left, top, right, bottom = sides
    return 0 <= left < right <= 1 and 0 <= top < bottom <= 1
