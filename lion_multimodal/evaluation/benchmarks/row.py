"""A row of a benchmark: what a reader asks of it, with errors that name the column."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image


# Shorter ones are file names. A picture's base64 has thousands of characters.
_SHORTEST_BASE64 = 200


@dataclass(frozen=True)
class PictureCell:
    """A picture in a column of a table, read from the table each time it is called."""

    table: Any
    column: str
    index: int

    def __call__(self) -> Any:
        return self.table[self.index][self.column]


class Row(dict):
    """
    A row by column, pictures excepted: those are functions without arguments that give them undecoded.

    Args:
        values: the row.
        number: its number in the data set, from 0.
        pictures: the folder that file names of pictures are relative to, where the row comes from a local folder.
        table: the rows again, for cells that are not kept in memory.
    """

    def __init__(self, values: Mapping[str, Any], number: int, pictures: Path | None = None, table: Any = None) -> None:
        super().__init__(values)
        self.number = number
        self.pictures = pictures
        self.table = table

    def value(self, column: str) -> Any:
        """
        A cell that must hold something.

        Raises:
            ValueError: there is no such column, or nothing in it.
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
            raise ValueError(f"{column!r} must be a string, got {value!r}")
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
            raise ValueError(f"{column!r} must be a list of strings, got {values!r}")
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise ValueError(f"{column!r} must hold strings, got {wrong[0]!r}")
        texts = [text for value in values if (text := value.strip())]
        if not texts:
            raise ValueError(f"{column!r} holds no text")
        return texts

    def integer(self, column: str) -> int:
        """A whole number. Raises `ValueError` where there is none."""
        value = self.value(column)
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise ValueError(f"{column!r} must be a whole number, got {value!r}") from None
        if isinstance(value, float) and value != number:
            raise ValueError(f"{column!r} must be a whole number, got {value!r}")
        return number

    def numbers(self, column: str, length: int) -> list[float]:
        """A list of finite numbers of a certain length. Raises `ValueError` where there is none."""
        values = self.value(column)
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            raise ValueError(f"{column!r} must be a list of numbers, got {values!r}") from None
        if len(numbers) != length or not all(map(math.isfinite, numbers)):
            raise ValueError(f"{column!r} must be {length} finite numbers, got {values!r}")
        return numbers

    def picture(self, column: str, url: str | None = None) -> Any:
        """
        The picture of a column: embedded, in base64, or as the name of a file.

        Args:
            column: the column.
            url: where it is on the web, for file names of rows that do not come from a local folder.

        Returns:
            What `Example.image` wants.

        Raises:
            ValueError: there is none, or the file is not there.
        """
        value = self.value(column)
        if isinstance(value, str) and len(value) >= _SHORTEST_BASE64 and self.table is not None:
            return PictureCell(self.table, column, self.number)
        if not isinstance(value, str):
            return value
        if self.pictures is None:
            if url is None:
                raise ValueError(f"{column!r} is the name of a file, {value!r}, that the data set does not hold")
            return url
        return self.local_picture(value)

    def local_picture(self, *names: str) -> str:
        """
        The path of the first of these files that the folder of pictures holds, as named or by the last part of its
        name.

        Raises:
            ValueError: none is there.
        """
        if self.pictures is None:
            raise ValueError(f"the picture {names[0]!r} is a file, and there is no folder to look for it in")
        root = self.pictures.resolve()
        for name in names:
            for path in (root / name, root / Path(name).name):
                # A name such as "../../x" must not lead out of the folder.
                if path.is_file() and path.resolve().is_relative_to(root):
                    return str(path)
        raise ValueError(f"the picture {names[0]!r} is not in {self.pictures}")


def fraction_box(box: Sequence[float], width: float, height: float) -> list[float]:
    """
    A box in pixels as fractions of the picture's sides, cut off at its borders.

    Args:
        box: left, top, right and bottom.
        width: the picture's width in pixels.
        height: its height.

    Raises:
        ValueError: the sides are not positive, or the box has no area within the picture.
    """
    if not (width > 0 and height > 0):
        raise ValueError(f"the picture's sides must be positive, got {width} x {height}")
    x1, y1, x2, y2 = (
        min(max(side / length, 0.0), 1.0) for side, length in zip(box, (width, height, width, height), strict=True)
    )
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"the box {list(box)} has no area within the picture of {width:g} x {height:g} pixels")
    return [x1, y1, x2, y2]


def open_picture(image: Any) -> Image.Image:
    """
    Opens a picture, its pixels not yet decoded.

    Args:
        image: as in `Example.image`: a PIL picture, a path, an address on the web, bytes, `{"bytes": ..., "path":
            ...}`, base64, or a function without arguments that returns one of these.

    Raises:
        OSError: no picture can be read there.
        ValueError: there is nothing to read, or no picture in it.
    """
    if callable(image):
        image = image()
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if image is None:
        raise ValueError("there is no picture")
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        from datasets.utils.file_utils import cached_path

        image = cached_path(image)
    elif isinstance(image, str) and len(image) >= _SHORTEST_BASE64 and not Path(image[-_SHORTEST_BASE64:]).suffix:
        try:
            image = base64.b64decode(image, validate=True)
        except (ValueError, binascii.Error) as error:
            raise ValueError("the picture is no valid base64") from error
    if isinstance(image, bytes | bytearray):
        return Image.open(io.BytesIO(image))
    if isinstance(image, str | Path):
        return Image.open(image)
    raise ValueError(f"the picture must be one, or a path, bytes or base64, got {type(image).__name__}")


def picture_size(image: Any) -> tuple[int, int]:
    """
    Width and height of a picture in pixels, from its header.

    Raises:
        ValueError: no picture can be read.
    """
    try:
        return open_picture(image).size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture cannot be read: {error}") from error
