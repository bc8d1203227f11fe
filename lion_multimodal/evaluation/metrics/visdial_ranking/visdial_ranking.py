"""Ranking of candidate answers in visual dialogue: where the one that was given stands, and where the good ones do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from lion_multimodal.evaluation.metrics import checked, choices  # From: lion-multimodal


_CITATION = """\
@inproceedings{das2017visual,
  title = {Visual Dialog},
  author = {Das, Abhishek and Kottur, Satwik and Gupta, Khushi and Singh, Avi and Yadav, Deshraj and
            Moura, Jos{\\'e} M. F. and Parikh, Devi and Batra, Dhruv},
  booktitle = {CVPR},
  year = {2017}
}"""

_INPUTS = """
Args:
    predictions: for each round the log-likelihoods of its candidates.
    references: for each round the place of the answer that was given, from 0.
    relevance: for each round how relevant people find each candidate, from 0 to 1; empty where nobody was asked.
    per_sample: whether to give the reciprocal rank of each round, too.

Returns:
    "MRR": mean reciprocal rank; "R@1", "R@5", "R@10": share of rounds whose rank is at most that; "mean_rank", from 1;
    "NDCG", over rounds with relevance, and their number "NDCG_rounds", if there are any; "per_sample" if asked for.
"""

_RECALLS = (1, 5, 10)


class VisdialRanking(checked.CheckedMetric):
    """The figures of the Visual Dialog challenge; of equally likely candidates, the mean over their orders."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                    "relevance": datasets.List(datasets.Value("float64")),
                }
            ),
            reference_urls=[
                "https://visualdialog.org/challenge/2019#evaluation",
                "https://github.com/batra-mlp-lab/visdial-challenge-starter-pytorch",
            ],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[int],
        relevance: Sequence[Sequence[float]],
        per_sample: bool = False,
    ) -> dict[str, Any]:
        choices.check(predictions, references)
        _check_relevance(predictions, relevance)
        ranks = [possible_ranks(*pair) for pair in zip(predictions, references, strict=True)]
        reciprocals = [float(np.mean([1 / rank for rank in places])) for places in ranks]
        result: dict[str, Any] = {"MRR": float(np.mean(reciprocals))}
        for most in _RECALLS:
            result[f"R@{most}"] = float(np.mean([np.mean([rank <= most for rank in places]) for places in ranks]))
        result["mean_rank"] = float(np.mean([np.mean(places) for places in ranks]))
        gains = [ndcg(row, values) for row, values in zip(predictions, relevance, strict=True) if any(values)]
        if gains:
            result |= {"NDCG": float(np.mean(gains)), "NDCG_rounds": len(gains)}
        return {**result, "per_sample": reciprocals} if per_sample else result


def possible_ranks(scores: Sequence[float], place: int) -> range:
    """The ranks, from 1, that a candidate can have: one, or as many as there are that score the same."""
    ahead = sum(score > scores[place] for score in scores)
    return range(ahead + 1, ahead + 1 + sum(score == scores[place] for score in scores))


def ndcg(scores: Sequence[float], relevance: Sequence[float]) -> float:
    """
    Normalized discounted cumulative gain of as many best candidates as are relevant at all.

    Each of several that score the same counts as relevant as they are on average.
    """
    relevant = sum(value != 0 for value in relevance)
    ranked: list[float] = []
    for score in sorted(set(scores), reverse=True):
        tied = [value for other, value in zip(scores, relevance, strict=True) if other == score]
        ranked += [sum(tied) / len(tied)] * len(tied)
    best = sorted(relevance, reverse=True)
    return _discounted(ranked[:relevant]) / _discounted(best[:relevant])


def _discounted(relevance: Sequence[float]) -> float:
    return sum(value / math.log2(rank + 1) for rank, value in enumerate(relevance, start=1))


def _check_relevance(predictions: Sequence[Sequence[float]], relevance: Sequence[Sequence[float]]) -> None:
    for number, (row, values) in enumerate(zip(predictions, relevance, strict=True)):
        if not values:
            continue
        if len(values) != len(row):
            raise ValueError(
                f"relevance[{number}] must hold a number for each of {len(row)} candidates or none, got {len(values)}"
            )
        if not all(0 <= value <= 1 for value in values):
            raise ValueError(f"relevance[{number}] must hold numbers from 0 to 1, got {values!r:.100}")
