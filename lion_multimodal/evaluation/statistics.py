"""Figures over samples: bootstrap intervals and F1 from counts."""

from collections.abc import Callable

import numpy as np


_RESAMPLES = 1000


def bootstrap_interval(
    values: np.ndarray, statistic: Callable[[np.ndarray], float] = np.mean, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic over the rows of `values`."""
    rng = np.random.default_rng(seed)
    drawn = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(_RESAMPLES)]
    return float(np.percentile(drawn, 2.5)), float(np.percentile(drawn, 97.5))


def f1_of_counts(rows: np.ndarray) -> float:
    """F1 from rows of (true positives, predicted positives, actual positives)."""
    correct, predicted, actual = rows.sum(0)
    return float(2 * correct / max(1, predicted + actual))
