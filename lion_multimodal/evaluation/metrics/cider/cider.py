"""CIDEr of captions: how much of what people agree on, weighted by how telling it is, a caption says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import evaluate
import numpy as np

from lion_multimodal.evaluation.metrics import captions, checked  # From: lion-multimodal


_CITATION = """\
@inproceedings{vedantam2015cider,
  title = {CIDEr: Consensus-based Image Description Evaluation},
  author = {Vedantam, Ramakrishna and Zitnick, C. Lawrence and Parikh, Devi},
  booktitle = {CVPR},
  year = {2015}
}"""

_INPUTS = f"""
Args:
    predictions: a caption for each image.
    references: a list of captions by people for each image.
{captions.TOKENIZER_ARGUMENT}
    per_sample: whether to give the figure of each image, too.

Returns:
    "CIDEr": mean over images, from 0 to 10; "tokenizer"; "per_sample" if asked for.
"""

_LONGEST = 4
_SIGMA = 6.0


class Cider(checked.CheckedMetric):
    """CIDEr-D as pycocoevalcap computes it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=captions.FEATURES,
            reference_urls=["https://arxiv.org/abs/1411.5726", "https://github.com/salaniz/pycocoevalcap"],
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str = "auto",
        per_sample: bool = False,
    ) -> dict[str, Any]:
        words = captions.tokenize_captions(predictions, references, tokenizer)
        scores = cider(words.predictions, words.references)
        result = {"CIDEr": float(np.mean(scores)), "tokenizer": words.tokenizer}
        return {**result, "per_sample": scores} if per_sample else result


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """The CIDEr-D of each image; captions are words separated by blanks."""
    counted = [captions.ngrams(caption.split(), _LONGEST) for caption in predictions]
    counted_references = [[captions.ngrams(caption.split(), _LONGEST) for caption in group] for group in references]
    weights = _Weights(counted_references)
    scores = []
    for counts, group in zip(counted, counted_references, strict=True):
        vector = weights(counts)
        scores.append(10.0 * float(np.mean([_similarity(vector, weights(other)) for other in group])))
    return scores


@dataclass(frozen=True)
class _Vector:
    """
    A caption as weighted n-grams.

    Attributes:
        weights: of each n-gram, by n - 1.
        norms: Euclidean norms of these.
        length: the number of its word pairs, by which pycocoevalcap measures length.
    """

    weights: list[dict[tuple[str, ...], float]]
    norms: list[float]
    length: int


class _Weights:
    """Counts to tf-idf weights; a document is all references of an image."""

    def __init__(self, references: Iterable[Sequence[Counter[tuple[str, ...]]]]) -> None:
        documents = [set().union(*group) for group in references]
        self._frequencies = Counter(ngram for document in documents for ngram in document)
        self._log_documents = math.log(len(documents))

    def __call__(self, counts: Mapping[tuple[str, ...], int]) -> _Vector:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(_LONGEST)]
        for ngram, count in counts.items():
            # What no person wrote weighs as much as what one did.
            rarity = self._log_documents - math.log(max(1, self._frequencies[ngram]))
            weights[len(ngram) - 1][ngram] = count * rarity
        norms = [math.sqrt(sum(weight**2 for weight in group.values())) for group in weights]
        return _Vector(weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2))


def _similarity(caption: _Vector, reference: _Vector) -> float:
    """Mean over n of the cosine with clipped weights, less if the lengths differ."""
    cosines = []
    for n in range(_LONGEST):
        theirs = reference.weights[n]
        # Clipped, so that saying something more often than the reference does not pay.
        product = sum(
            min(weight, theirs[ngram]) * theirs[ngram]
            for ngram, weight in caption.weights[n].items()
            if ngram in theirs
        )
        norm = caption.norms[n] * reference.norms[n]
        cosines.append(product / norm if norm else product)
    penalty = math.exp(-((caption.length - reference.length) ** 2) / (2 * _SIGMA**2))
    return sum(cosines) / _LONGEST * penalty
