"""The world's scenes: what stands where, and how it looks.

A scene is a handful of pictograms on a light landscape. Everything in it follows from one integer seed, and every
box is the exact extent of the pixels that were drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont


IMAGE_SIZE = 96
"""Side of an image, in pixels."""

GLYPHS = {
    "star": "★",
    "heart": "♥",
    "umbrella": "☂",
    "airplane": "✈",
    "sun": "☀",
    "cloud": "☁",
    "anchor": "⚓",
    "horse": "♞",
    "castle": "♜",
    "telephone": "☎",
    "envelope": "✉",
    "flower": "✿",
}
"""Kinds of objects, and the character of DejaVu Sans that draws each."""

COLORS = {
    "red": (214, 32, 32),
    "orange": (240, 132, 12),
    "yellow": (222, 196, 0),
    "green": (24, 148, 48),
    "blue": (28, 72, 214),
    "purple": (136, 36, 168),
    "pink": (244, 96, 176),
    "black": (24, 24, 24),
}
"""Colours of objects, as RGB."""

SPLITS = {
    "train": range(0, 1_000_000_000),
    "validation": range(1_000_000_000, 1_100_000_000),
    "test": range(1_100_000_000, 1_200_000_000),
}
"""Seeds of each split. The ranges are disjoint, so no image of one split is ever drawn for another."""

# Kinds are not equally common, and some like each other's company: without that, the popular and adversarial
# questions of POPE would be no harder than the random ones.
GLYPH_WEIGHTS = np.linspace(1.5, 0.5, len(GLYPHS)) / len(GLYPHS)
COMPANIONS = {
    "sun": "cloud",
    "cloud": "airplane",
    "airplane": "anchor",
    "anchor": "umbrella",
    "umbrella": "flower",
    "flower": "heart",
    "heart": "envelope",
    "envelope": "telephone",
    "telephone": "star",
    "star": "sun",
    "horse": "castle",
    "castle": "horse",
}
OBJECT_COUNT_WEIGHTS = {1: 0.1, 2: 0.3, 3: 0.3, 4: 0.3}

_SAME_GLYPH, _SAME_COLOR, _COMPANION = 0.3, 0.25, 0.2
_LONGER_SIDES = (24, 37)
_MASK_FLOOR = 64
_GAP = 2
_CELL_MARGIN = 4
_GLYPH_NAMES = tuple(GLYPHS)
_COLOR_NAMES = tuple(COLORS)


@dataclass(frozen=True)
class SceneObject:
    """One object: its kind, its colour and its exact box `(x1, y1, x2, y2)` in pixels, right and bottom exclusive."""

    glyph: str
    color: str
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """Colour and kind, such as `"red star"`. No two objects of a scene share it."""
        return f"{self.color} {self.glyph}"

    @property
    def center(self) -> tuple[float, float]:
        """Middle of the box, in pixels."""
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2

    @property
    def normalized_box(self) -> tuple[float, float, float, float]:
        """The box as fractions of the image's width and height."""
        x1, y1, x2, y2 = (side / IMAGE_SIZE for side in self.box)
        return x1, y1, x2, y2


@dataclass(frozen=True)
class Scene:
    """A scene: its seed and its objects from left to right (by centre, then from top to bottom)."""

    seed: int
    objects: tuple[SceneObject, ...]


def glyph_mask(glyph: str, longer_side: int) -> Image.Image:
    """Draw one pictogram as a tight opacity mask.

    Args:
        glyph: A key of [`GLYPHS`].
        longer_side: Length of the mask's longer side, in pixels.

    Returns:
        An image of mode `"L"`. Each of its four borders holds a drawn pixel.
    """
    if glyph not in GLYPHS:
        raise ValueError(f"glyph must be one of {', '.join(GLYPHS)}, got {glyph!r}")
    return _glyph_mask(glyph, longer_side)


@cache
def _glyph_mask(glyph: str, longer_side: int) -> Image.Image:
    drawn = _large_glyph(glyph)
    scale = longer_side / max(drawn.size)
    size = [max(1, round(side * scale)) for side in drawn.size]
    mask = np.asarray(drawn.resize(size, Image.Resampling.LANCZOS)).copy()
    mask[mask < _MASK_FLOOR] = 0  # a pixel that is hardly tinted does not belong to the object
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Image.fromarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


@cache
def _large_glyph(glyph: str) -> Image.Image:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    canvas = Image.new("L", (256, 256))
    ImageDraw.Draw(canvas).text((64, 32), GLYPHS[glyph], font=ImageFont.truetype(str(path), 128), fill=255)
    return canvas.crop(canvas.getbbox())


def sample_scene(
    seed: int, num_objects: int | None = None, most_objects: int | None = None, cells: int | None = None
) -> Scene:
    """Sample the scene of a seed.

    Args:
        seed: Any non-negative integer. [`SPLITS`] says which seeds belong to which split.
        num_objects: Number of objects to place, in place of a number drawn from the seed. Where the image is full
            earlier, fewer are placed.
        most_objects: The largest number that may be drawn from the seed; larger ones are cut to it.
        cells: Divide the image into this many squares a side, at most three. Objects then have one size, and each
            stands in the middle of a square of its own: a world of few boxes.

    Raises:
        ValueError: `cells` is not 1, 2 or 3.
    """
    if cells is not None and not 1 <= cells <= IMAGE_SIZE // (_LONGER_SIDES[0] + _CELL_MARGIN):
        raise ValueError(f"cells must be from 1 to 3, got {cells}")
    rng = np.random.default_rng([seed, 0])
    counts = tuple(OBJECT_COUNT_WEIGHTS)
    drawn_count = int(rng.choice(counts, p=tuple(OBJECT_COUNT_WEIGHTS.values())))
    if most_objects is not None:
        drawn_count = min(drawn_count, most_objects)
    wanted = drawn_count if num_objects is None else num_objects
    objects: list[SceneObject] = []
    while len(objects) < wanted:
        glyph, color = _sample_kind(rng, objects)
        if cells is None:
            box = _sample_box(rng, glyph, objects, shrink=wanted > max(counts))
        else:
            box = _sample_cell(rng, glyph, objects, cells)
        if box is None:
            break
        objects.append(SceneObject(glyph, color, box))
    return Scene(seed, tuple(sorted(objects, key=lambda item: (item.center, item.name))))


def _sample_kind(rng: np.random.Generator, objects: list[SceneObject]) -> tuple[str, str]:
    taken = {(item.glyph, item.color) for item in objects}
    while True:
        glyph = _GLYPH_NAMES[rng.choice(len(_GLYPH_NAMES), p=GLYPH_WEIGHTS / GLYPH_WEIGHTS.sum())]
        color = _COLOR_NAMES[rng.integers(len(_COLOR_NAMES))]
        if objects:
            other = objects[rng.integers(len(objects))]
            choice = rng.random()
            if choice < _SAME_GLYPH:
                glyph = other.glyph
            elif choice < _SAME_GLYPH + _SAME_COLOR:
                color = other.color
            elif choice < _SAME_GLYPH + _SAME_COLOR + _COMPANION:
                glyph = COMPANIONS[other.glyph]
        if (glyph, color) not in taken:
            return glyph, color


def _sample_box(
    rng: np.random.Generator, glyph: str, objects: list[SceneObject], shrink: bool
) -> tuple[int, int, int, int] | None:
    low, high = _LONGER_SIDES
    for attempt in range(200):
        longer_side = int(rng.integers(low, low + 4 if shrink or attempt >= 50 else high))
        width, height = glyph_mask(glyph, longer_side).size
        x, y = int(rng.integers(IMAGE_SIZE - width + 1)), int(rng.integers(IMAGE_SIZE - height + 1))
        box = (x, y, x + width, y + height)
        if not any(_touch(box, item.box) for item in objects):
            return box
    return None


def _sample_cell(
    rng: np.random.Generator, glyph: str, objects: list[SceneObject], cells: int
) -> tuple[int, int, int, int] | None:
    side = IMAGE_SIZE // cells
    width, height = glyph_mask(glyph, min(_LONGER_SIDES[1] - 1, side - _CELL_MARGIN)).size
    taken = {(int(item.center[0]) // side, int(item.center[1]) // side) for item in objects}
    free = [(i, j) for i in range(cells) for j in range(cells) if (i, j) not in taken]
    if not free:
        return None
    column, row = free[int(rng.integers(len(free)))]
    x, y = column * side + (side - width) // 2, row * side + (side - height) // 2
    return x, y, x + width, y + height


def _touch(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] + _GAP and b[0] < a[2] + _GAP and a[1] < b[3] + _GAP and b[1] < a[3] + _GAP


def object_mask(item: SceneObject) -> Image.Image:
    """The object's opacity over its box, as an image of mode `"L"`."""
    x1, y1, x2, y2 = item.box
    # Rounding and cropping make the mask of a side at most a few pixels shorter than what was asked for.
    for longer_side in range(max(x2 - x1, y2 - y1), max(x2 - x1, y2 - y1) + 4):
        mask = glyph_mask(item.glyph, longer_side)
        if mask.size == (x2 - x1, y2 - y1):
            return mask
    raise ValueError(f"no {item.glyph} fits the box {item.box} exactly")


def render_background(seed: int) -> Image.Image:
    """Draw the landscape of a seed: a light sky over light ground, both with a gradient, and a little noise."""
    rng = np.random.default_rng([seed, 1])
    horizon = int(rng.integers(IMAGE_SIZE // 3, IMAGE_SIZE - IMAGE_SIZE // 5))
    ends = rng.integers((185, 205, 225, 190, 200, 165), (236, 245, 256, 236, 246, 215)).reshape(2, 3)
    rows = np.empty((IMAGE_SIZE, 3))
    for part, light in ((slice(0, horizon), ends[0]), (slice(horizon, None), ends[1])):
        length = len(rows[part])
        rows[part] = light + np.linspace(-14, 10, length)[:, None]
    image = rows[:, None] + np.linspace(-6, 6, IMAGE_SIZE)[None, :, None] * rng.choice((-1, 1))
    image = image + rng.integers(-6, 7, (IMAGE_SIZE, IMAGE_SIZE, 1))
    return Image.fromarray(image.clip(150, 255).astype(np.uint8))


def render(scene: Scene) -> Image.Image:
    """Draw a scene.

    Returns:
        An RGB image of [`IMAGE_SIZE`] pixels a side; the same pixels for the same scene, always.
    """
    image = render_background(scene.seed)
    for item in scene.objects:
        image.paste(COLORS[item.color], item.box, object_mask(item))
    return image
