"""BLEU of captions: how many of a caption's word sequences people wrote, too."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import evaluate

from lion_multimodal.evaluation.metrics import captions, checked  # From: lion-multimodal


_CITATION = """\
@inproceedings{papineni2002bleu,
  title = {BLEU: a Method for Automatic Evaluation of Machine Translation},
  author = {Papineni, Kishore and Roukos, Salim and Ward, Todd and Zhu, Wei-Jing},
  booktitle = {ACL},
  year = {2002}
}"""

_INPUTS = f"""
Args:
    predictions: a caption for each image.
    references: a list of captions by people for each image.
{captions.TOKENIZER_ARGUMENT}
    per_sample: whether to give the BLEU-4 of each image, too.

Returns:
    "BLEU-1" to "BLEU-4": of all images together, from 0 to 1; "tokenizer"; "per_sample" if asked for.
"""

_LONGEST = 4
# pycocoevalcap's, against division by zero and logarithms of zero.
_TINY = 1e-15
_SMALL = 1e-9


class Bleu(checked.CheckedMetric):
    """BLEU as pycocoevalcap computes it: the closest reference's length counts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=captions.FEATURES,
            reference_urls=["https://aclanthology.org/P02-1040", "https://github.com/salaniz/pycocoevalcap"],
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str = "auto",
        per_sample: bool = False,
    ) -> dict[str, Any]:
        words = captions.tokenize_captions(predictions, references, tokenizer)
        matches = [
            count_matches(caption.split(), [reference.split() for reference in group])
            for caption, group in zip(words.predictions, words.references, strict=True)
        ]
        total = Matches(
            [sum(match.correct[n] for match in matches) for n in range(_LONGEST)],
            [sum(match.guessed[n] for match in matches) for n in range(_LONGEST)],
            sum(match.length for match in matches),
            sum(match.reference_length for match in matches),
        )
        result: dict[str, Any] = {f"BLEU-{n}": score for n, score in enumerate(bleu(total), start=1)}
        result["tokenizer"] = words.tokenizer
        return {**result, "per_sample": [bleu(match)[-1] for match in matches]} if per_sample else result


@dataclass(frozen=True)
class Matches:
    """
    What BLEU is computed from.

    Attributes:
        correct: how many n-grams are in a reference, by n - 1; each as often as the reference that has it most.
        guessed: how many n-grams there are.
        length: number of words.
        reference_length: number of words of the reference whose length is closest; of the shorter of two.
    """

    correct: list[int]
    guessed: list[int]
    length: int
    reference_length: int


def count_matches(words: Sequence[str], references: Sequence[Sequence[str]]) -> Matches:
    """Compare the words of a caption with those of its references."""
    most: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        most |= captions.ngrams(reference, _LONGEST)
    correct = [0] * _LONGEST
    for ngram, count in (captions.ngrams(words, _LONGEST) & most).items():
        correct[len(ngram) - 1] += count
    _, closest = min((abs(len(reference) - len(words)), len(reference)) for reference in references)
    return Matches(correct, [max(0, len(words) - n) for n in range(_LONGEST)], len(words), closest)


def bleu(matches: Matches) -> list[float]:
    """BLEU-1 to BLEU-4: geometric means of the precisions, less for what is shorter than the references."""
    ratio = (matches.length + _TINY) / (matches.reference_length + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n, (correct, guessed) in enumerate(zip(matches.correct, matches.guessed, strict=True), start=1):
        product *= (correct + _TINY) / (guessed + _SMALL)
        scores.append(product ** (1 / n) * brevity)
    return scores
