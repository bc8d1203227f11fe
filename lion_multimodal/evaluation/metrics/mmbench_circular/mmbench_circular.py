"""Circular accuracy of MMBench: a question counts if it is right whatever the order of its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np

from lion_multimodal.evaluation.metrics import checked, choices  # From: lion-multimodal


_CITATION = """\
@inproceedings{liu2024mmbench,
  title = {MMBench: Is Your Multi-modal Model an All-around Player?},
  author = {Liu, Yuan and Duan, Haodong and Zhang, Yuanhan and Li, Bo and Zhang, Songyang and Zhao, Wangbo and
            Yuan, Yike and Wang, Jiaqi and He, Conghui and Liu, Ziwei and Chen, Kai and Lin, Dahua},
  booktitle = {ECCV},
  year = {2024}
}"""

_INPUTS = """
Args:
    predictions: for each rotation of a question the log-likelihoods of its options, in the order of the rotation.
    references: for each rotation the place of the right option, from 0.
    groups: for each rotation the name of its question.
    categories: for each rotation the ability that its question is about.
    per_sample: whether to give for each rotation the figure of its question, too.

Returns:
    "accuracy": share of questions that are right in all of their rotations, the first of several equally likely
    options counting as chosen; the same of each ability, under its name; "rotation_accuracy": share of right rotations;
    "incomplete": number of questions with fewer rotations than options; "per_sample" if asked for.
"""

_OWN_KEYS = frozenset(["accuracy", "rotation_accuracy", "incomplete", "per_sample"])


class MmbenchCircular(checked.CheckedMetric):
    """Circular accuracy, of all questions and by ability."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                    "groups": datasets.Value("string"),
                    "categories": datasets.Value("string"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2307.06281", "https://mmbench.opencompass.org.cn"],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[int],
        groups: Sequence[str],
        categories: Sequence[str],
        per_sample: bool = False,
    ) -> dict[str, Any]:
        choices.check(predictions, references)
        right = [choices.most_likely(row) == reference for row, reference in zip(predictions, references, strict=True)]
        questions: dict[str, _Question] = {}
        for number, (group, category, row) in enumerate(zip(groups, categories, predictions, strict=True)):
            if category in _OWN_KEYS:
                raise ValueError(
                    f"categories[{number}] must be none of {', '.join(sorted(_OWN_KEYS))}, got {category!r:.100}"
                )
            question = questions.setdefault(group, _Question(category, len(row), []))
            if category != question.category or len(row) != question.options:
                raise ValueError(
                    f"all rotations of question {group!r} must have its category {question.category!r} and its "
                    f"{question.options} options, one has {category!r} and {len(row)}"
                )
            question.right.append(right[number])
        by_category: dict[str, list[bool]] = {}
        for question in questions.values():
            by_category.setdefault(question.category, []).append(all(question.right))
        result: dict[str, Any] = {
            "accuracy": float(np.mean([all(question.right) for question in questions.values()])),
            "rotation_accuracy": float(np.mean(right)),
            "incomplete": sum(len(question.right) < question.options for question in questions.values()),
            **{category: float(np.mean(values)) for category, values in sorted(by_category.items())},
        }
        if per_sample:
            result["per_sample"] = [float(all(questions[group].right)) for group in groups]
        return result


@dataclass
class _Question:
    """
    A question in its rotations.

    Attributes:
        category: the ability that it is about.
        options: how many options it has.
        right: whether each rotation is right.
    """

    category: str
    options: int
    right: list[bool]
