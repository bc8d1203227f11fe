"""Several images on one sheet, each above what was asked about it and answered."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from PIL.Image import Image

_COLUMNS = 5
_IMAGE = 288
_MARGIN = 12
_FONT_SIZE = 14
_LINE = 18
_LINES = 9
_LETTERS = 42
_INK, _RIGHT, _WRONG = "#222222", "#1a7f37", "#c62828"


@dataclass
class Exchange:
    """
    A question about an image and what came back.

    Args:
        prompt (`str`): What is asked.
        truth (`str`): The true answer, where it is known.
        about (`str`): The object that is asked for, where a box is wanted.
        answer (`str`): The answer.
        boxes (`list[list[float]]`): Boxes in it, `(x1, y1, x2, y2)` in pixels.
        is_right (`bool`, *optional*): Whether the answer is true (a box: overlaps the true one by half).
    """

    prompt: str
    truth: str = ""
    about: str = ""
    answer: str = ""
    boxes: list[list[float]] | None = None
    is_right: bool | None = None


@dataclass
class Shown:
    """An image with its tags and what was asked about it."""

    name: str
    image: Image
    exchanges: list[Exchange]
    tags: list[str]


def contact_sheet(shown: list[Shown]) -> Image:
    """
    Draw images in rows, with their boxes; an answer is green where it is right, red where it is not, followed by
    what is true.

    Args:
        shown (`list[Shown]`): Images with answers.

    Returns:
        `Image`: An RGB image.
    """
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont

    from processing_lion import draw_boxes

    font = PIL.ImageFont.load_default(size=_FONT_SIZE)
    width, height = _IMAGE + _MARGIN, _IMAGE + _LINES * _LINE + 2 * _MARGIN
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    sheet = PIL.Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for number, item in enumerate(shown):
        left = _MARGIN + number % columns * width
        top = _MARGIN + number // columns * height
        scale = _IMAGE / max(item.image.size)
        size = (round(item.image.width * scale), round(item.image.height * scale))
        image = item.image.convert("RGB").resize(size, PIL.Image.Resampling.LANCZOS)
        found = [(box, exchange.about) for exchange in item.exchanges for box in exchange.boxes or []]
        boxes = [[side * scale for side in box] for box, _ in found]
        sheet.paste(draw_boxes(image, boxes, [about for _, about in found]), (left, top))
        top += _IMAGE + _MARGIN // 2
        for line, ink in _lines(item)[:_LINES]:
            pen.text((left, top), line, fill=ink, font=font)
            top += _LINE
    return sheet


def _lines(item: Shown) -> list[tuple[str, str]]:
    lines = []
    for exchange in item.exchanges:
        question = exchange.prompt.removeprefix("Question:").removesuffix("Short answer:").strip()
        if "?" in question and not exchange.about:
            lines += [(line, _INK) for line in textwrap.wrap(question, _LETTERS)]
        ink = {None: _INK, True: _RIGHT, False: _WRONG}[exchange.is_right]
        answer = f"{exchange.about}: {exchange.answer}" if exchange.about else exchange.answer
        if exchange.is_right is False:
            answer += f" (true: {exchange.truth})"
        lines += [(line, ink) for line in textwrap.wrap(answer, _LETTERS)]
    return lines
