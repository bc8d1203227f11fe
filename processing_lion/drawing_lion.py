"""Boxes and their labels, drawn on an image."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import PIL.Image
import PIL.ImageColor
import PIL.ImageDraw
import PIL.ImageFont
import torch


_COLORS = ("#e6194b", "#1f77ff", "#2ca02c", "#ff8c00", "#911eb4", "#008080", "#f032e6", "#9a6324", "#808000", "#000075")


def draw_boxes(
    image: PIL.Image.Image,
    boxes: Sequence[Sequence[float]] | torch.Tensor,
    labels: Sequence[str] | None = None,
    *,
    color: str | None = None,
) -> PIL.Image.Image:
    """
    Draws boxes and their labels on a copy of a picture.

    A label stands on a filled ground above its box, or elsewhere near it where it would leave the picture or cover
    another label; one that is wider than the picture is shortened.

    Args:
        image: the picture; it is left as it is.
        boxes: N boxes (x1, y1, x2, y2) in pixels, as `LionProcessor.post_process_grounding` gives them.
        labels: N strings; an empty one draws the box alone.
        color: one colour for all boxes; by default each gets its own.

    Returns:
        An RGB copy.

    Raises:
        ValueError: a box does not hold four finite numbers, there is not one label for each box, or the colour is none.
    """
    if color is not None:
        try:
            PIL.ImageColor.getrgb(color)
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"color must be the name of a colour or '#rrggbb', got {color!r:.100}") from None
    boxes = [_read_box(index, box) for index, box in enumerate(boxes)]
    if isinstance(labels, str) or any(not isinstance(label, str) for label in labels or ()):
        raise ValueError(f"labels must be a list of strings, one for each box, got {labels!r:.100}")
    labels = [""] * len(boxes) if labels is None else list(labels)
    if len(labels) != len(boxes):
        raise ValueError(f"labels must hold one string for each box, got {len(labels)} for {len(boxes)} boxes")

    image = image.convert("RGB") if image.mode != "RGB" else image.copy()
    draw = PIL.ImageDraw.Draw(image)
    width = max(2, round(min(image.size) / 150))
    font = PIL.ImageFont.load_default(size=max(10, round(min(image.size) / 28)))
    placed: list[tuple[int, int, int, int]] = []
    outlines = [color or _COLORS[index % len(_COLORS)] for index in range(len(boxes))]
    corners = [_clip_box(box, image.size) for box in boxes]
    for box, outline in zip(corners, outlines):
        draw.rectangle(box, outline=outline, width=width)
    # Labels last, so that no later box crosses them.
    for box, label, outline in zip(corners, labels, outlines):
        if label.strip():
            placed.append(_draw_label(draw, image.size, box, label.strip(), outline, font, placed))
    return image


def _read_box(index: int, box: Any) -> list[float]:
    try:
        values = [float(value) for value in box]
    except (TypeError, ValueError):
        values = []
    if len(values) != 4 or not all(math.isfinite(value) for value in values):
        raise ValueError(f"boxes[{index}] must hold 4 finite numbers (x1, y1, x2, y2) in pixels, got {box!r:.100}")
    return values


def _clip_box(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    (x1, x2), (y1, y2) = sorted((box[0], box[2])), sorted((box[1], box[3]))
    right, bottom = size[0] - 1, size[1] - 1
    return min(max(x1, 0), right), min(max(y1, 0), bottom), min(max(x2, 0), right), min(max(y2, 0), bottom)


def _draw_label(
    draw: Any, size: tuple[int, int], box: Sequence[float], label: str, ground: str, font: Any, placed: list
) -> tuple[int, int, int, int]:
    """Draws one label where it fits best and returns the rectangle that it takes."""
    padding = 2
    label = _shorten(label, lambda text: draw.textlength(_one_line(text), font=font) + 2 * padding <= size[0])
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    width, height = math.ceil(right - left) + 2 * padding, math.ceil(bottom - top) + 2 * padding

    x1, y1, x2, y2 = (round(value) for value in box)
    # Above, below, inside at the top, inside at the bottom; then any free row of the picture; then the first again.
    wishes = [(x1, y1 - height), (x1, y2 + 1), (x1, y1), (x1, y2 - height), (x2 - width, y1 - height), (x2 - width, y2)]
    wishes += [(x1, y) for y in range(0, max(size[1] - height, 1), max(height, 1))]
    places = []
    for x, y in wishes:
        x, inside = min(max(x, 0), max(size[0] - width, 0)), 0 <= y <= size[1] - height
        places.append((x, y, x + width, y + height) if inside else None)
    free = (place for place in places if place and not any(_overlap(place, other) for other in placed))
    place = next(free, None) or next((place for place in places if place), (max(x1, 0), 0, x1 + width, height))
    draw.rectangle(place, fill=ground)
    red, green, blue = PIL.ImageColor.getrgb(ground)[:3]
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
    draw.text((place[0] + padding - left, place[1] + padding - top), label, fill=ink, font=font)
    return place


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shorten(label: str, fits: Callable[[str], bool]) -> str:
    """The label on one line, or as much of its head as fits, with a mark of omission."""
    label = _one_line(label)
    # The length that fits is looked for from below, by doubling, so that a long label is never measured as a whole.
    fitting, too_long = 0, 1
    while too_long < len(label) and fits(label[:too_long] + "…"):
        fitting, too_long = too_long, 2 * too_long
    if too_long >= len(label) and fits(label):
        return label
    too_long = min(too_long, len(label))
    while too_long - fitting > 1:
        middle = (fitting + too_long) // 2
        fitting, too_long = (middle, too_long) if fits(label[:middle] + "…") else (fitting, middle)
    return label[:fitting].rstrip() + "…"


def _overlap(first: Sequence[float], second: Sequence[float]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
