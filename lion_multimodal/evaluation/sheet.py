"""A sheet to look at: the first images of each benchmark, with what was asked, answered and true."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from lion_multimodal.evaluation.benchmark import Benchmark, Example
from lion_multimodal.evaluation.rows import load_image
from processing_lion.drawing_lion import draw_boxes
from processing_lion.grounding_lion import parse_boxes


PANELS = 4
"""Images of each benchmark."""

_PANEL_WIDTH, _IMAGE_HEIGHT, _TEXT_HEIGHT = 304, 228, 164
_MARGIN, _TITLE_HEIGHT, _LINE_HEIGHT, _INDENT = 16, 46, 18, 54
# More than these stand in two columns.
_MOST_STRIPS = 6
_GROUND, _INK, _GREY, _LINE = "#ffffff", "#1a1a1a", "#6b7280", "#d7dbe0"
_ANSWER_COLOR, _REFERENCE_COLOR = "#c81e1e", "#1e6fc8"
_MOST_LINES = {"asked": 4, "answer": 2, "true": 2}


def draw_strip(
    benchmark: Benchmark, examples: Sequence[Example], records: Mapping[str, Mapping[str, Any]]
) -> Image.Image:
    """
    The first images of a benchmark, side by side, one question each.

    Args:
        benchmark: the benchmark.
        examples: its examples, in order.
        records: what was answered (`answer`), by their ids.
    """
    shown: dict[str, Example] = {}
    for example in examples:
        if len(shown) < PANELS and example.id in records:
            shown.setdefault(example.image_id, example)
    width = PANELS * (_PANEL_WIDTH + _MARGIN) + _MARGIN
    strip = Image.new("RGB", (width, _TITLE_HEIGHT + _IMAGE_HEIGHT + _TEXT_HEIGHT + _MARGIN), _GROUND)
    draw = ImageDraw.Draw(strip)
    draw.line((_MARGIN, 8, width - _MARGIN, 8), fill=_LINE, width=1)
    draw.text((_MARGIN, 14), benchmark.title, fill=_INK, font=_font(22))
    bottom = _TITLE_HEIGHT
    for number, example in enumerate(shown.values()):
        left = _MARGIN + number * (_PANEL_WIDTH + _MARGIN)
        bottom = max(bottom, _draw_panel(strip, left, _TITLE_HEIGHT, example, records[example.id]["answer"]))
    return strip.crop((0, 0, width, bottom + _MARGIN))


def join_strips(files: Sequence[str | os.PathLike]) -> Image.Image:
    """
    One sheet of several strips, one below the other; of many, in two columns.

    Raises:
        ValueError: there are none.
    """
    if not files:
        raise ValueError("there are no strips to join")
    strips: list[Image.Image] = [Image.open(file) for file in files]
    # The first column is as high as the second, or higher by less than a strip.
    half, height = sum(strip.height for strip in strips) / 2, 0
    columns: list[list[Image.Image]] = [[], []]
    for strip in strips:
        columns[len(strips) > _MOST_STRIPS and height >= half].append(strip)
        height += strip.height
    columns = [column for column in columns if column]
    width = max(strip.width for strip in strips)
    heights = [sum(strip.height for strip in column) for column in columns]
    sheet = Image.new("RGB", (width * len(columns), max(heights) + _MARGIN), _GROUND)
    for number, column in enumerate(columns):
        top = 0
        for strip in column:
            sheet.paste(strip, (number * width, top))
            top += strip.height
            strip.close()
    return sheet


def reference_text(example: Example) -> str:
    """What is true, in words: of several answers the most frequent first, of several captions the first."""
    references = example.metric_inputs.get("references")
    if example.candidates is not None and isinstance(references, int):
        return example.candidates[references]
    if isinstance(references, list) and references and all(isinstance(value, str) for value in references):
        counts = Counter(references).most_common()
        if counts[0][1] > 1:
            return ", ".join(f"{answer} ({count})" for answer, count in counts)
        return references[0] + (f" (and {len(references) - 1} more)" if len(references) > 1 else "")
    if box := _reference_box(example):
        return "[" + ",".join(f"{side:.3f}" for side in box) + "]"
    return str(references)


def _reference_box(example: Example) -> list[float] | None:
    references = example.metric_inputs.get("references")
    is_box = isinstance(references, list) and len(references) == 4 and all(isinstance(v, float) for v in references)
    return references if is_box else None


def _draw_panel(strip: Image.Image, left: int, top: int, example: Example, answer: str) -> int:
    """Draw an image with its words below; return where these end."""
    image = load_image(example)
    scale = min(_PANEL_WIDTH / image.width, _IMAGE_HEIGHT / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    boxes, reference = parse_boxes(answer), _reference_box(example)
    for box, color in [*((box, _REFERENCE_COLOR) for box in [reference] if box), *((b, _ANSWER_COLOR) for b in boxes)]:
        pixels = [side * length for side, length in zip(box, size * 2)]
        image = draw_boxes(image, [pixels], color=color)
    strip.paste(image, (left + (_PANEL_WIDTH - size[0]) // 2, top))
    draw = ImageDraw.Draw(strip)
    y = top + _IMAGE_HEIGHT + 8
    for name, text, color in (
        ("asked", example.instruction, _INK),
        ("answer", answer or "(nothing)", _ANSWER_COLOR),
        ("true", reference_text(example), _REFERENCE_COLOR),
    ):
        draw.text((left, y), name, fill=_GREY, font=_font(13))
        for line in wrap(text, _font(14), _PANEL_WIDTH - _INDENT, _MOST_LINES[name]):
            draw.text((left + _INDENT, y - 1), line, fill=color, font=_font(14))
            y += _LINE_HEIGHT
        y += 3
    return y


def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)


def wrap(text: str, font: Any, width: int, most_lines: int) -> list[str]:
    """
    Lines of a text that are no wider than `width` pixels. Of one that needs more than `most_lines`, the middle is left
    out: what is asked stands at the end, behind a dialogue or before its choices.
    """
    lines = _lines(text, font, width)
    if len(lines) <= most_lines:
        return lines
    head = lines[: most_lines // 2]
    while head[-1] and font.getlength(f"{head[-1]} …") > width:
        head[-1] = head[-1][:-1].rstrip()
    head[-1] += " …"
    return [*head, *lines[len(lines) - (most_lines - len(head)) :]]


def _lines(text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        for piece in _pieces(word, font, width):
            longer = f"{lines[-1]} {piece}" if lines[-1] else piece
            if font.getlength(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(piece)
    return lines


def _pieces(word: str, font: Any, width: int) -> list[str]:
    """A word, in pieces where it is wider than a line."""
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


__all__ = ["PANELS", "draw_strip", "join_strips", "reference_text", "wrap"]
