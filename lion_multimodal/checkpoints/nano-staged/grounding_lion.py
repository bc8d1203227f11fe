"""Boxes as LION writes them: text to numbers and back, fractions to pixels."""

import math
import re
from collections.abc import Iterable, Sequence

import torch


Box = tuple[float, float, float, float]

# A group in brackets that holds no further brackets; what is a box among these is decided number by number.
_GROUP = re.compile(r"\[([^\[\]()]{7,})\]|\(([^\[\]()]{7,})\)")
NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
# How far outside [0, 1] a coordinate may lie and still be taken for a fraction rather than for pixels.
_TOLERANCE = 0.1


def _read_group(content: str) -> list[Box]:
    """The boxes of one bracketed group; Shikra-like `x1,y1,x2,y2;x1,...` gives several, anything else none."""
    boxes = []
    for part in content.strip().rstrip(";").split(";"):
        # Between commas, blanks are strays ("0. 440"); without commas they separate.
        numbers = [re.sub(r"\s+", "", number) for number in part.split(",")] if "," in part else part.split()
        if len(numbers) != 4 or not all(re.fullmatch(NUMBER, number) for number in numbers):
            return []
        values = [float(number) for number in numbers]
        if not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
            return []
        x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in values)
        boxes.append((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    return boxes


def _find_boxes(text: str) -> list[tuple[int, int, list[Box]]]:
    """(start, end, boxes) of every bracketed group that holds boxes, in the order of the text."""
    found = []
    for match in _GROUP.finditer(text):
        boxes = _read_group(match[1] if match[1] is not None else match[2])
        if boxes:
            found.append((match.start(), match.end(), boxes))
    return found


def parse_boxes(text: str) -> list[Box]:
    """
    Reads the boxes that a model wrote.

    Understands `[x1,y1,x2,y2]` and `(x1,y1,x2,y2)` anywhere in the text, several of them, with any number of decimals,
    stray blanks and missing leading zeros (`[ .44, 0.06 ,0. 650,0.367 ]`). Corners are put in order; coordinates up
    to 0.1 outside the image are moved to its edge, and groups further out (pixels, lists of choices) are no boxes.
    The text is never evaluated.

    Returns:
        (x1, y1, x2, y2) per box, fractions of width and height in [0, 1] with x1 <= x2 and y1 <= y2; an empty list
        when the text holds no box.
    """
    return [box for _, _, boxes in _find_boxes(text) for box in boxes]


def format_box(box: Iterable[float]) -> str:
    """
    Writes a box as LION's training data does: `[0.440,0.060,0.650,0.367]`.

    Args:
        box: (x1, y1, x2, y2), fractions of width and height, x1 <= x2 and y1 <= y2.

    Raises:
        ValueError: not four numbers, outside [0, 1], or corners in the wrong order.
    """
    try:
        values = [float(value) for value in box]
    except (TypeError, ValueError):
        raise ValueError(f"box must hold 4 numbers (x1, y1, x2, y2), got {box!r:.100}") from None
    if len(values) != 4 or isinstance(box, str):
        raise ValueError(f"box must hold 4 numbers (x1, y1, x2, y2), got {len(values)}")
    if not all(0.0 <= value <= 1.0 for value in values):  # also false for NaN
        raise ValueError(f"box must hold fractions of width and height in [0, 1], got {values!r:.100}")
    if values[0] > values[2] or values[1] > values[3]:
        raise ValueError(f"box must have x1 <= x2 and y1 <= y2, got {values}")
    return "[" + ",".join(f"{value:.3f}" for value in values) + "]"


def to_pixels(boxes: Sequence[Sequence[float]], image_size: tuple[int, int]) -> torch.Tensor:
    """
    Args:
        boxes: N boxes (x1, y1, x2, y2) in fractions of width and height.
        image_size: (height, width) in pixels, transformers' order (Pillow's `image.size` is the other way round).

    Returns:
        The boxes in pixels, float32 of shape (N, 4).
    """
    try:
        height, width = (float(edge) for edge in image_size)
    except (TypeError, ValueError):
        height = width = math.nan
    if not (0 < height < math.inf and 0 < width < math.inf):
        raise ValueError(f"image_size must be (height, width) in pixels, got {image_size!r:.100}")
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    return torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4) * scale


def intersection_over_union(first: Sequence[float], second: Sequence[float]) -> float:
    """
    Overlap of two boxes `(x1, y1, x2, y2)` with x1 <= x2 and y1 <= y2 in any one unit: the area that they share over
    the area that they cover together; 0.0 where that is zero.
    """
    first, second = _box("first", first), _box("second", second)
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    covered = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - shared
    return shared / covered if covered > 0 else 0.0


def _box(name: str, box: Sequence[float]) -> list[float]:
    try:
        values = [float(edge) for edge in box]
    except (TypeError, ValueError):
        values = []
    if len(values) != 4 or isinstance(box, (str, bytes)):
        raise ValueError(f"`{name}` must be a box of 4 numbers (x1, y1, x2, y2), got {box!r:.100}")
    return values


def box_iou(boxes1: torch.Tensor, boxes2: torch.Tensor) -> torch.Tensor:
    """
    Intersection over union of every pair: (N, 4) and (M, 4), both xyxy in one unit, to (N, M). Two boxes without
    area have no overlap, 0.
    """
    boxes1, boxes2 = (torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4) for boxes in (boxes1, boxes2))
    top_left = torch.maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    area1, area2 = ((boxes[:, 2:] - boxes[:, :2]).prod(dim=-1) for boxes in (boxes1, boxes2))
    union = area1[:, None] + area2[None, :] - intersection
    return torch.where(union > 0, intersection / union, torch.zeros_like(union))


_ANSWER_PREFIX = re.compile(r"^(?:the\s+)?answers?\b\s*(?:is\b|are\b)?\s*[:=]?\s*", re.IGNORECASE)
# What joins a phrase to its box or to the phrase before, and is no part of it.
_HEAD_JOINTS = re.compile(r"(?:(?:and|at)\b|[\s,;:.-])*", re.IGNORECASE)
_TAIL_WORD = re.compile(r"(?<!\w)(?:is|are|at|located)\Z", re.IGNORECASE)
_TAIL_MARKS = " \t\n\r\f\v,;:.=-"
_LONGEST_TAIL_WORD = len("located") + 1


def _label(text: str) -> str:
    text = _ANSWER_PREFIX.sub("", text.strip(), count=1)
    text = text[_HEAD_JOINTS.match(text).end() :]  # type: ignore[union-attr]  # it matches nothing, too
    # From the end, mark by mark and word by word: as one expression, it would look at every run of blanks within.
    end = len(text)
    while True:
        while end and (text[end - 1] in _TAIL_MARKS or text[end - 1].isspace()):
            end -= 1
        match = _TAIL_WORD.search(text[max(0, end - _LONGEST_TAIL_WORD) : end])
        if match is None:
            return text[:end]
        end -= len(match[0])


def label_boxes(text: str) -> list[tuple[str, Box]]:
    """
    The boxes of an answer, each with the words that name it: the phrase in front of it (`a dog [..] and a cat [..]`),
    shared by boxes that follow each other directly; the phrase behind it, where the answer begins with a box and ends
    with words; `""` where there are none (`Answer: [..]`).
    """
    groups = _find_boxes(text)
    ends = [0] + [end for _, end, _ in groups]
    starts = [start for start, _, _ in groups] + [len(text)]
    phrases = [_label(text[end:start]) for end, start in zip(ends, starts)]
    if not phrases[0] and phrases[-1]:
        phrases = phrases[1:]
    labelled, label = [], ""
    for (_, _, boxes), phrase in zip(groups, phrases):
        label = phrase or label
        labelled += [(label, box) for box in boxes]
    return labelled
