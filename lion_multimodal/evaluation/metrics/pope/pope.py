"""POPE: whether a model sees objects that are not there, asked by questions to be answered with yes or no."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from lion_multimodal.evaluation.metrics import checked  # From: lion-multimodal


_CITATION = """\
@inproceedings{li2023evaluating,
  title = {Evaluating Object Hallucination in Large Vision-Language Models},
  author = {Li, Yifan and Du, Yifan and Zhou, Kun and Wang, Jinpeng and Zhao, Wayne Xin and Wen, Ji-Rong},
  booktitle = {EMNLP},
  year = {2023}
}"""

_INPUTS = """
Args:
    predictions: an answer to each question, a text.
    references: "yes" or "no" for each question.
    per_sample: whether to give for each question three numbers, 0 or 1, too: said yes and rightly so, said yes, is yes.

Returns:
    "accuracy"; "precision", "recall" and "f1" of yes; "yes_ratio": share of answers that are read as yes; "unclear":
    share of answers that hold neither yes nor no, which are read as yes; "per_sample" if asked for.
"""

_NEGATIVE = frozenset(["No", "not", "no"])
_CLEAR = re.compile(r"\b(?:yes|no|not)\b", re.IGNORECASE)


class Pope(checked.CheckedMetric):
    """The figures of POPE, answers read as its own code reads them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            reference_urls=["https://arxiv.org/abs/2305.10355", "https://github.com/AoiDragon/POPE"],
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[str], per_sample: bool = False
    ) -> dict[str, Any]:
        for number, reference in enumerate(references):
            if reference not in ("yes", "no"):
                raise ValueError(f"references[{number}] must be 'yes' or 'no', got {reference!r:.100}")
        said = [says_yes(prediction) for prediction in predictions]
        true = [reference == "yes" for reference in references]
        rows = [(int(says and holds), int(says), int(holds)) for says, holds in zip(said, true, strict=True)]
        correct, yes, actual = (sum(column) for column in zip(*rows, strict=True))
        result: dict[str, Any] = {
            "accuracy": sum(says == holds for says, holds in zip(said, true, strict=True)) / len(said),
            "precision": correct / yes if yes else 0.0,
            "recall": correct / actual if actual else 0.0,
            "f1": 2 * correct / (yes + actual) if yes + actual else 0.0,
            "yes_ratio": yes / len(said),
            "unclear": sum(_CLEAR.search(prediction) is None for prediction in predictions) / len(said),
        }
        return {**result, "per_sample": rows} if per_sample else result


def says_yes(answer: str) -> bool:
    """Whether POPE's code takes an answer for yes: unless its first sentence has one of the words No, no and not."""
    sentence = answer.split(".", 1)[0]
    return _NEGATIVE.isdisjoint(sentence.replace(",", "").split(" "))
