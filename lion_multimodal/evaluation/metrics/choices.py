"""Candidates and their log-likelihoods, as the metrics of choice and ranking get them."""

from __future__ import annotations

from collections.abc import Sequence


def check(predictions: Sequence[Sequence[float]], references: Sequence[int]) -> None:
    """
    Check places of right candidates.

    Args:
        predictions: the candidates' log-likelihoods, by question.
        references: the place of the right candidate, from 0, by question.

    Raises:
        ValueError: there are no candidates, or a place is not among them.
    """
    for number, (row, reference) in enumerate(zip(predictions, references, strict=True)):
        if not row:
            raise ValueError(f"predictions[{number}] must hold the log-likelihood of one candidate at least")
        if not 0 <= reference < len(row):
            raise ValueError(f"references[{number}] must be the place of one of {len(row)} candidates, got {reference}")


def most_likely(row: Sequence[float]) -> int:
    """The place of the greatest log-likelihood, the first of several."""
    return max(range(len(row)), key=row.__getitem__)


__all__ = ["check", "most_likely"]
