"""A record of somebody's data: what a reader asks of it, with errors that name the field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


class Record(dict):
    """
    A record by field.

    Args:
        values (`Mapping`): Its fields.
        number (`int`): Its number in the data, from 0.
    """

    def __init__(self, values: Mapping[str, Any], number: int = 0) -> None:
        super().__init__(values)
        self.number = number

    def value(self, column: str) -> Any:
        """
        A field that must hold something.

        Raises:
            ValueError: there is no such field, or nothing in it.
        """
        if column not in self:
            raise ValueError(f"no column {column!r}")
        if self[column] is None:
            raise ValueError(f"{column!r} is empty")
        return self[column]

    def text(self, column: str) -> str:
        """A string without blanks at its ends; numbers become strings. Raises `ValueError` where there is none."""
        value = self.value(column)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"{column!r} must be a string, got {value!r:.100}")
        if isinstance(value, float) and math.isnan(value):  # an empty cell of a csv file
            raise ValueError(f"{column!r} is empty")
        text = str(value).strip()
        if not text:
            raise ValueError(f"{column!r} is empty")
        return text

    def optional_text(self, column: str) -> str:
        """A string as [`text`] gives it, empty where there is none. `"nan"`, as tables of strings write it, is none."""
        if isinstance(self.get(column), str | int | float):
            try:
                text = self.text(column)
            except ValueError:
                return ""
            return "" if text.lower() == "nan" else text
        return ""

    def texts(self, column: str) -> list[str]:
        """The strings of a list, empty ones left out. Raises `ValueError` where none is left."""
        values = self.value(column)
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError(f"{column!r} must be a list of strings, got {values!r:.100}")
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise ValueError(f"{column!r} must hold strings, got {wrong[0]!r:.100}")
        texts = [text for value in values if (text := value.strip())]
        if not texts:
            raise ValueError(f"{column!r} holds no text")
        return texts

    def records(self, column: str) -> list[Record]:
        """The records of a list. Raises `ValueError` where there is no list of them."""
        values = self.value(column)
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError(f"{column!r} must be a list of records, got {values!r:.100}")
        if wrong := [value for value in values if not isinstance(value, Mapping)]:
            raise ValueError(f"{column!r} must hold records, got {wrong[0]!r:.100}")
        return [Record(value, self.number) for value in values]

    def integer(self, column: str) -> int:
        """A whole number. Raises `ValueError` where there is none."""
        value = self.value(column)
        try:
            number = int(value)
        except (OverflowError, TypeError, ValueError):
            raise ValueError(f"{column!r} must be a whole number, got {value!r:.100}") from None
        if isinstance(value, float) and value != number:
            raise ValueError(f"{column!r} must be a whole number, got {value!r:.100}")
        return number

    def numbers(self, column: str, length: int) -> list[float]:
        """A list of finite numbers of a certain length. Raises `ValueError` where there is none."""
        values = self.value(column)
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            raise ValueError(f"{column!r} must be a list of numbers, got {values!r:.100}") from None
        if len(numbers) != length or not all(map(math.isfinite, numbers)):
            raise ValueError(f"{column!r} must be {length} finite numbers, got {values!r:.100}")
        return numbers


def fraction_box(box: Sequence[float], width: float, height: float) -> list[float]:
    """
    A box in pixels as fractions of the image's sides, cut off at its borders.

    Args:
        box (`Sequence[float]`): Left, top, right and bottom.
        width (`float`): The image's width in pixels.
        height (`float`): Its height.

    Raises:
        ValueError: the sides are not positive, or the box has no area within the image.
    """
    if not (width > 0 and height > 0):
        raise ValueError(f"the image's sides must be positive, got {width} x {height}")
    x1, y1, x2, y2 = (
        min(max(side / length, 0.0), 1.0) for side, length in zip(box, (width, height, width, height), strict=True)
    )
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"the box {list(box)} has no area within the image of {width:g} x {height:g} pixels")
    return [x1, y1, x2, y2]


def corners(box: Sequence[float]) -> list[float]:
    """COCO's box, left, top, width and height, as left, top, right and bottom."""
    left, top, width, height = box
    return [left, top, left + width, top + height]


def describe_problem(error: Exception) -> str:
    """What is wrong with a record, from what its reader raised."""
    if isinstance(error, KeyError):
        return f"there is no {error} in it"
    if isinstance(error, ValueError):
        return str(error)
    return f"it has another form than expected ({error})"


RECORD_ERRORS = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What a reader raises on purpose, and what it raises where something within a field is not what it should be."""
