"""A metric that says which of its inputs is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import datasets
import evaluate


class CheckedMetric(evaluate.Metric):
    """
    A metric whose inputs are checked against its features before they are converted.

    `evaluate` alone makes whole numbers of fractions and texts of numbers, and calls a wrong batch wrong as a whole.
    """

    def add_batch(self, *, predictions: Any = None, references: Any = None, **columns: Any) -> None:
        """
        Add samples.

        Raises:
            ValueError: a column is missing, empty or of another length than the others, or holds something that it
                must not; column and place are named.
        """
        batch = {"predictions": predictions, "references": references, **columns}
        checked = check_columns(self.info.features, batch)
        super().add_batch(**checked)

    def add(self, *, prediction: Any = None, reference: Any = None, **values: Any) -> None:
        """Add a sample. Raises as [`add_batch`]."""
        self.add_batch(
            predictions=[prediction], references=[reference], **{name: [value] for name, value in values.items()}
        )


def check_columns(features: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """
    Columns as lists of what their features say.

    Args:
        features: strings, whole numbers, numbers, or lists of these, by column.
        columns: lists, arrays or tensors.

    Raises:
        ValueError: as [`CheckedMetric.add_batch`].
    """
    if unknown := [name for name in columns if name not in features]:
        raise ValueError(f"there are no inputs {', '.join(unknown)}, only {', '.join(features)}")
    checked: dict[str, list[Any]] = {}
    for name, feature in features.items():
        column = _plain(columns.get(name))
        if isinstance(column, str) or not isinstance(column, Sequence):
            raise ValueError(f"{name} must be a list with an entry for each sample, got {column!r:.100}")
        checked[name] = [_check(_plain(value), feature, f"{name}[{number}]") for number, value in enumerate(column)]
    lengths = {name: len(column) for name, column in checked.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"all inputs must have the same number of entries, got {found}")
    if not all(lengths.values()):
        raise ValueError(f"{', '.join(lengths)} must hold at least one entry")
    return checked


def _check(value: Any, feature: Any, name: str) -> Any:
    if isinstance(feature, datasets.List):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"{name} must be a list, got {value!r:.100}")
        return [_check(_plain(item), feature.feature, f"{name}[{number}]") for number, item in enumerate(value)]
    if feature.dtype == "string":
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a text, got {value!r:.100}")
    elif feature.dtype == "int64":
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{name} must be a whole number, got {value!r:.100}")
    elif not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r:.100}")
    return value


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


__all__ = ["CheckedMetric", "check_columns"]
