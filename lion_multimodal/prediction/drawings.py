"""Images with the boxes of their answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit


# What marks a file as a drawing that a later run may replace.
_MARK = "lion predict"


def drawing_files(images: Sequence[str], folder: Path) -> list[Path]:
    """
    A PNG file in `folder` for every image: named as the image, in folders as the image's, without those that all
    images share. None is written twice, and none takes the place of an image, be it asked about or not: a name that is
    taken gets a number.
    """
    kinds = [_drawing_name(image, number) for number, image in enumerate(images)]
    shared = {}
    for kind in {kind for kind, _ in kinds}:
        shared[kind] = os.path.commonpath([name.parent for other, name in kinds if other == kind])
    taken = {os.path.realpath(_path(image)) for image in images if not is_address(image)}
    next_number: dict[Path, int] = {}
    files: list[Path] = []
    for kind, name in kinds:
        wanted = folder / name.relative_to(shared[kind])
        file, number = wanted, next_number.get(wanted, 1)
        if number > 1:
            file = wanted.with_name(f"{wanted.stem}_{number}.png")
        while os.path.realpath(file) in taken or _is_foreign(file):
            number += 1
            file = wanted.with_name(f"{wanted.stem}_{number}.png")
        next_number[wanted] = number  # many questions about one image would else try all names again
        taken.add(os.path.realpath(file))
        files.append(file)
    return files


def _drawing_name(image: str, number: int) -> tuple[str, PurePosixPath]:
    """What kind of source an image is, and the path that it would have as a drawing, from that kind's root."""
    if image[:5].lower() == "data:":
        return "data", PurePosixPath("/", f"image_{number + 1}.png")
    kind, path = "file", PurePosixPath(Path(os.path.abspath(_path(image))).as_posix())
    if is_address(image):
        parts = urlsplit(image)
        kind, path = "address", PurePosixPath("/", parts.netloc.replace(":", "_"), parts.path.lstrip("/"))
        path = path if parts.path.strip("/") else path / f"image_{number + 1}"
    return kind, path.with_name(f"{path.stem[:100]}.png")


def _path(image: str) -> str:
    return os.path.expanduser(image.removeprefix("file://"))


def _is_foreign(file: Path) -> bool:
    """Whether a file is there that is no drawing of an earlier run."""
    import PIL.Image

    if not os.path.lexists(file):
        return False
    try:
        with PIL.Image.open(file) as image:
            return image.info.get(_MARK) is None
    except (OSError, ValueError, SyntaxError):
        return True


def is_address(image: str) -> bool:
    """Whether an image's name is an address, rather than a path."""
    return image[:8].lower().startswith(("http://", "https://", "data:"))


def draw(image: Any, boxes: Sequence[Sequence[float]], labels: Sequence[str] | None, file: Path) -> None:
    """Write an image with boxes."""
    from PIL.PngImagePlugin import PngInfo

    from processing_lion import draw_boxes
    from trainers.atomic import atomic_file

    mark = PngInfo()
    mark.add_text(_MARK, "drawing")
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial:
        draw_boxes(image, boxes, labels).save(partial, pnginfo=mark)
