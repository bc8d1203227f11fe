"""A row of a benchmark: what a reader asks of it, with errors that name the column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from processing_lion.image_loading_lion import image_size, load_image
from trainers.record import Record


# Shorter ones are file names. An image's base64 has thousands of characters.
_SHORTEST_BASE64 = 200


@dataclass(frozen=True)
class ImageCell:
    """An image in a column of a table, read from the table each time it is called."""

    table: Any
    column: str
    index: int

    def __call__(self) -> Any:
        return self.table[self.index][self.column]


class Row(Record):
    """
    A row by column, images excepted: those are functions without arguments that give them undecoded.

    Args:
        values: the row.
        number: its number in the dataset, from 0.
        image_folder: the folder that file names of images are relative to, where the row comes from a local folder.
        table: the rows again, for cells that are not kept in memory.
    """

    def __init__(
        self, values: Mapping[str, Any], number: int, image_folder: Path | None = None, table: Any = None
    ) -> None:
        super().__init__(values, number)
        self.image_folder = image_folder
        self.table = table

    def image(self, column: str, url: str | None = None) -> Any:
        """
        The image of a column: embedded, in base64, or as the name of a file.

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
            return ImageCell(self.table, column, self.number)
        if not isinstance(value, str):
            return value
        if self.image_folder is None:
            if url is None:
                raise ValueError(f"{column!r} is the name of a file, {value!r}, that the dataset does not hold")
            return url
        return self.local_image(value)

    def local_image(self, *names: str) -> str:
        """
        The path of the first of these files that the folder of images holds, as named or by the last part of its
        name.

        Raises:
            ValueError: none is there.
        """
        if self.image_folder is None:
            raise ValueError(f"the image {names[0]!r} is a file, and there is no folder to look for it in")
        root = self.image_folder.resolve()
        for name in names:
            for path in (root / name, root / Path(name).name):
                # A name such as "../../x" must not lead out of the folder.
                if path.is_file() and path.resolve().is_relative_to(root):
                    return str(path)
        raise ValueError(f"the image {names[0]!r} is not in {self.image_folder}")


def decode_image(image: Any) -> Image.Image:
    """
    The image as 8-bit RGB, decoded as LION's processor does, whoever asks.

    Args:
        image: as in `Example.image`: a PIL image, a path, an address on the web, bytes, `{"bytes": ..., "path":
            ...}`, base64, or a function without arguments that returns one of these.

    Raises:
        ValueError: there is nothing to read, or no image can be read there.
    """
    return _read_image(image, load_image)


def cell_size(image: Any) -> tuple[int, int]:
    """
    Width and height of an image in pixels as [`decode_image`] gives it, from its header.

    Raises:
        ValueError: no image can be read.
    """
    return _read_image(image, image_size)


def _read_image(image: Any, read: Callable[[Any], Any]) -> Any:
    try:
        if callable(image):
            image = image()
        if image is None:
            raise ValueError("there is no image")
        if isinstance(image, str) and image.lower().startswith(("http://", "https://")):
            # The benchmarks' own addresses; those of rows are names of files.
            from datasets.utils.file_utils import cached_path

            image = cached_path(image)
        return read(image)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"the image cannot be read: {error}") from error
