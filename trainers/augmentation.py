"""Random crops and flips of training images, with the boxes of their texts moved along."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image

from processing_lion import format_box, parse_boxes
from processing_lion.grounding_lion import NUMBER, Box


_QUADRUPLE = rf"\s*{NUMBER}\s*(?:,\s*{NUMBER}\s*){{3}}"
# Training texts write `[x1,y1,x2,y2]`, or several boxes in one pair of brackets with `;` between them.
_GROUP = re.compile(rf"\[({_QUADRUPLE}(?:;{_QUADRUPLE})*)\]")
# Coarse on purpose: an image that could have been flipped is a smaller loss than a wrong "left".
_SIDES = re.compile(r"left|right|clockwise", re.IGNORECASE)
_CROP_ATTEMPTS = 10
_ASPECT_RATIOS = (3 / 4, 4 / 3)


def read_boxes(text: str) -> list[Box]:
    """
    Every group of four numbers that stands where a box would, as it is written: neither clamped nor ordered, so that
    what is wrong with it can be seen ([`find_box_problem`]).
    """
    return [box for match in _GROUP.finditer(text) for box in _split(match[1])]


def _split(group: str) -> list[Box]:
    boxes = []
    for part in group.split(";"):
        x1, y1, x2, y2 = (float(number) for number in part.split(","))
        boxes.append((x1, y1, x2, y2))
    return boxes


def find_box_problem(text: str) -> str | None:
    """What is wrong with the first bad box of a region-level text, or None."""
    for box in read_boxes(text):
        x1, y1, x2, y2 = box
        if not all(0 <= value <= 1 for value in box):
            return f"box {list(box)} reaches outside the image (fractions of width and height in [0, 1])"
        if x1 >= x2 or y1 >= y2:
            return f"box {list(box)} has no area (x1 < x2 and y1 < y2)"
    return None


def move_boxes(text: str, move: Callable[[Box], Box]) -> str:
    """Rewrite every box of `text` with what `move` makes of it."""

    def rewrite(match: re.Match) -> str:
        return "[" + ";".join(format_box(move(box))[1:-1] for box in _split(match[1])) + "]"

    return _GROUP.sub(rewrite, text)


def speaks_of_sides(*texts: str) -> bool:
    """Whether a text says left or right, which a flip would make wrong."""
    return any(_SIDES.search(text) for text in texts)


@dataclass(frozen=True)
class Augmentation:
    """
    Random resized crop (the resizing is the processor's) and horizontal flip.

    Args:
        crop_scale (`tuple[float, float]`): Share of the image's area that a crop keeps.
        flip_probability (`float`): How often an image is flipped that may be.
    """

    crop_scale: tuple[float, float] = (0.5, 1.0)
    flip_probability: float = 0.5

    def __call__(
        self, image: PIL.Image.Image, texts: Sequence[str], rng: np.random.Generator
    ) -> tuple[PIL.Image.Image, list[str]]:
        """
        Args:
            image (`PIL.Image.Image`): The image.
            texts (`Sequence[str]`): Everything said about it; boxes in it are moved along.
            rng (`numpy.random.Generator`): All randomness.

        Returns:
            An image and the texts that go with it. A crop that would cut a box is not made.
        """
        texts = list(texts)
        boxes = [box for text in texts for box in read_boxes(text)]
        if len(boxes) != sum(len(parse_boxes(text)) for text in texts):
            return image, texts  # boxes in a form that could not be moved along

        width, height = image.size
        crop = self._draw_crop(width, height, boxes, rng)
        flip = rng.random() < self.flip_probability and not speaks_of_sides(*texts)
        if crop is not None:
            left, top, right, bottom = crop
            image = image.crop(crop)

            def into_crop(box: Box) -> Box:
                x1, y1, x2, y2 = box
                # It lies inside; the limits only take up rounding.
                return (
                    max((x1 * width - left) / (right - left), 0.0),
                    max((y1 * height - top) / (bottom - top), 0.0),
                    min((x2 * width - left) / (right - left), 1.0),
                    min((y2 * height - top) / (bottom - top), 1.0),
                )

            texts = [move_boxes(text, into_crop) for text in texts]
        if flip:
            image = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
            texts = [move_boxes(text, lambda b: (1 - b[2], b[1], 1 - b[0], b[3])) for text in texts]
        return image, texts

    def _draw_crop(
        self, width: int, height: int, boxes: Sequence[Box], rng: np.random.Generator
    ) -> tuple[int, int, int, int] | None:
        """A crop (left, top, right, bottom) in pixels that holds all boxes; None when none was found."""
        for _ in range(_CROP_ATTEMPTS):
            area = width * height * rng.uniform(*self.crop_scale)
            ratio = np.exp(rng.uniform(*np.log(_ASPECT_RATIOS)))
            crop_width, crop_height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if not (0 < crop_width <= width and 0 < crop_height <= height):
                continue
            left = int(rng.integers(width - crop_width + 1))
            top = int(rng.integers(height - crop_height + 1))
            right, bottom = left + crop_width, top + crop_height
            inside = all(
                x1 * width >= left and y1 * height >= top and x2 * width <= right and y2 * height <= bottom
                for x1, y1, x2, y2 in boxes
            )
            if inside:
                return left, top, right, bottom
        return None
