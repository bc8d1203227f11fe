"""ROUGE-L of captions: the longest sequence of words, gaps allowed, that a caption shares with people's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np

from lion_multimodal.evaluation.metrics import captions, checked  # From: lion-multimodal


_CITATION = """\
@inproceedings{lin2004rouge,
  title = {ROUGE: A Package for Automatic Evaluation of Summaries},
  author = {Lin, Chin-Yew},
  booktitle = {Text Summarization Branches Out},
  year = {2004}
}"""

_INPUTS = f"""
Args:
    predictions: a caption for each image.
    references: a list of captions by people for each image.
{captions.TOKENIZER_ARGUMENT}
    per_sample: whether to give the figure of each image, too.

Returns:
    "ROUGE-L": mean over images, from 0 to 1; "tokenizer"; "per_sample" if asked for.
"""

_BETA = 1.2


class RougeL(checked.CheckedMetric):
    """ROUGE-L as pycocoevalcap computes it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=captions.FEATURES,
            reference_urls=["https://aclanthology.org/W04-1013", "https://github.com/salaniz/pycocoevalcap"],
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str = "auto",
        per_sample: bool = False,
    ) -> dict[str, Any]:
        words = captions.tokenize_captions(predictions, references, tokenizer)
        scores = [
            # Not `split()`: pycocoevalcap takes a caption without words for one empty word here.
            rouge_l(caption.split(" "), [reference.split(" ") for reference in group])
            for caption, group in zip(words.predictions, words.references, strict=True)
        ]
        result = {"ROUGE-L": float(np.mean(scores)), "tokenizer": words.tokenizer}
        return {**result, "per_sample": scores} if per_sample else result


def rouge_l(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """F-measure of the best precision and the best recall, which may be those of different references."""
    shared = [_longest_common_subsequence(words, reference) for reference in references]
    precision = max(shared) / len(words)
    recall = max(length / len(reference) for length, reference in zip(shared, references, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length. Keeps, for the words of `first` so far, the length with each beginning of `second`."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]
