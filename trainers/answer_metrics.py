"""What evaluation during training reports about generated answers."""

from typing import Any

import numpy as np
from transformers import EvalPrediction

from processing_lion import intersection_over_union, parse_boxes
from processing_lion.answers_lion import plain_answer


IOU_THRESHOLD = 0.5


def answer_metrics(predictions: list[str], references: list[str]) -> dict[str, float]:
    """
    Compare answers.

    Returns:
        `exact_match`: share of answers that agree but for case, blanks and a final full stop; and, where
        references hold boxes, `box_accuracy`: share of these whose first box is met by the answer's first box with an
        intersection over union of at least 0.5.
    """
    if not references:
        return {}
    matches = [plain_answer(prediction) == plain_answer(wanted) for prediction, wanted in zip(predictions, references)]
    metrics = {"exact_match": float(np.mean(matches))}
    hits = []
    for prediction, reference in zip(predictions, references):
        wanted = parse_boxes(reference)
        if wanted:
            found = parse_boxes(prediction)
            hits.append(bool(found) and intersection_over_union(found[0], wanted[0]) >= IOU_THRESHOLD)
    if hits:
        metrics["box_accuracy"] = float(np.mean(hits))
    return metrics


class ComputeAnswerMetrics:
    """`compute_metrics` of a trainer that generates: token ids (padded with -100) to [`answer_metrics`]."""

    def __init__(self, processor: Any):
        self.tokenizer = processor.tokenizer

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        # Rows without any label were unusable.
        usable = (prediction.label_ids != -100).any(axis=-1)
        answers = self._decode(prediction.predictions[usable])
        return answer_metrics(answers, self._decode(prediction.label_ids[usable]))

    def _decode(self, ids: np.ndarray) -> list[str]:
        ids = np.where(ids == -100, self.tokenizer.pad_token_id, ids)
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)
