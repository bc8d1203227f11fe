"""The images of a source: which COCO image one is, where it is, whether it can be read, and what it looks like."""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image


IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

# COCO_train2014_000000000009.jpg, 000000000009.jpg, and COCO_train2014_000000000009_16.jpg for an object in it.
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_(\d{12})(?:_\d+)?|(\d{12}))(?:\.[A-Za-z]+)?")


def read_coco_id(name: str) -> int | None:
    """
    The number of an image in COCO by the name of its file, which may have a path or an address in front.

    Returns:
        `int` or `None`: it is the same number whether the image is called as in 2014 or in 2017.
    """
    match = _COCO_NAME.fullmatch(re.split(r"[/\\]", name)[-1])
    return int(match[1] or match[2]) if match else None


def find_folders(root: Path, names: Sequence[str], depth: int = 3) -> list[Path]:
    """
    The folders of these names below `root`, however deep up to `depth`; capitals and separators do not matter.

    Args:
        root (`Path`): Where to look. It is looked at itself as well.
        names (`Sequence[str]`): Names, the preferred one first.
        depth (`int`): How deep.
    """
    found: dict[str, list[Path]] = {}
    level = [root]
    for _ in range(depth + 1):
        for folder in level:
            found.setdefault(_plain(folder.name), []).append(folder)
        level = [Path(entry.path) for folder in level for entry in _subfolders(folder)]
    return [folder for name in dict.fromkeys(map(_plain, names)) for folder in found.get(name, ())]


def _plain(name: str) -> str:
    return re.sub(r"[\s_.-]", "", name.lower().replace("+", "plus"))


def _subfolders(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: entry.name)
    except OSError:
        return []


def walk_files(folder: Path) -> Iterator[Path]:
    """All files below a folder in a fixed order, behind symbolic links too; hidden ones are left out."""
    seen: set[str] = set()
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:
            subfolders[:] = []
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(directory, name)


class ImageIndex:
    """
    The images below some folders, by COCO id and by the name of their file.

    Args:
        folders (`Sequence[Path]`): Where they are; of images with the same name the first one counts.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(folders)
        self._by_id: dict[int, str] = {}
        self._by_name: dict[str, str] = {}
        for folder in folders:
            for path in walk_files(folder):
                if path.suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                coco_id = read_coco_id(path.name)
                if coco_id is None:
                    self._by_name.setdefault(path.name, str(path))
                else:
                    self._by_id.setdefault(coco_id, str(path))

    def __len__(self) -> int:
        return len(self._by_id) + len(self._by_name)

    def find(self, name: str | None = None, coco_id: int | None = None) -> str | None:
        """The path of an image; of one that has a name, by that."""
        if name is not None and name in self._by_name:
            return self._by_name[name]
        if name is None and coco_id is not None:
            return self._by_id.get(coco_id)
        return None


def find_image_problem(source: str | bytes) -> str | None:
    """What is wrong with an image, a path or the bytes of a file, or None. All of it is read."""
    try:
        with PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.draft("RGB", (32, 32))  # of a JPEG, an eighth of the work; the file is read to its end all the same
            image.load()
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        return f"image cannot be read: {error}"
    return None


def image_bytes(source: Any) -> bytes | None:
    """The embedded image of a sample, if it has one."""
    content = source.get("bytes") if isinstance(source, Mapping) else None
    return bytes(content) if content else None


HASH_SIDE = 8
_SAMPLED_SIDE = 32
_LEAST_CONTRAST = 2.0


@functools.cache
def _cosines() -> np.ndarray:
    """The lowest frequencies of the discrete cosine transform of [`_SAMPLED_SIDE`] samples."""
    positions = (np.arange(_SAMPLED_SIDE) + 0.5) * np.pi / _SAMPLED_SIDE
    return np.cos(np.arange(HASH_SIDE + 1)[:, None] * positions)


def perceptual_hash(image: PIL.Image.Image) -> int | None:
    """
    64 bits that stay nearly the same when an image is scaled or compressed again ("pHash"): which of its lowest
    frequencies are above their median.

    Returns:
        `int` or `None`: none for an image with next to no contrast, whose bits would be noise.
    """
    image.draft("L", (4 * _SAMPLED_SIDE, 4 * _SAMPLED_SIDE))
    gray = image.convert("L").resize((_SAMPLED_SIDE, _SAMPLED_SIDE), PIL.Image.Resampling.LANCZOS)
    pixels = np.asarray(gray, dtype=np.float64)
    if pixels.std() < _LEAST_CONTRAST:
        return None
    # Without those that are constant in one direction: they say how bright an image is and to which side it fades.
    frequencies = (_cosines() @ pixels @ _cosines().T)[1:, 1:]
    bits = (frequencies > np.median(frequencies)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes())
