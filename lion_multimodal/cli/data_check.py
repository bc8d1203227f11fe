"""`lion data check`: what is in a file of training data, and how it looks."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from PIL.Image import Image

    from trainers.row_formats import ReadRows

SHOWN_ROWS = 16
_COLUMNS, _SIDE, _MARGIN, _LINE, _LINES, _LETTERS = 4, 288, 12, 18, 6, 40


def add_parser(actions: argparse._SubParsersAction) -> None:
    """Add the action `check`."""
    parser = actions.add_parser(
        "check",
        help="say what is in a file, folder or dataset, and draw some of its rows",
        description="Read rows as `lion finetune` would: say in which format they are, how many of each level, how "
        "long, what is wrong with boxes and images, and draw 16 of them. Exit status 1 where something is wrong.",
    )
    parser.add_argument("data", metavar="FILE|FOLDER|HUB_NAME[:SPLIT]", help="rows in any known format")
    parser.add_argument("--image-folder", metavar="DIR", help="what file names are relative to (default: the data's)")
    parser.add_argument("--box-format", metavar="FORMAT", help="how boxes are written, where the data do not say it")
    parser.add_argument("--annotations", metavar="FILE", help="the annotations of VQAv2's questions")
    parser.add_argument(
        "--level", choices=["auto", "image_level", "region_level"], default="auto", help="level of all rows"
    )
    parser.add_argument("--model", metavar="REPO_OR_DIR", help="whose tokens are counted (default: the nano's)")
    parser.add_argument("--sheet", metavar="FILE.png", default="data_check.png", help="where 16 rows are drawn")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Check, print, draw; 1 where something is wrong with the rows.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    from lion_multimodal import checkpoints
    from processing_lion import LionProcessor
    from trainers.data_check import check_rows
    from trainers.files import write_whole
    from trainers.row_formats import read_rows

    if Path(args.sheet).suffix.lower() != ".png":
        raise ValueError(f"--sheet must be a .png file, got {args.sheet}")
    read = read_rows(
        args.data,
        image_folder=args.image_folder,
        box_format=args.box_format,
        annotations=args.annotations,
        level=args.level,
    )
    report = check_rows(read, LionProcessor.from_pretrained(args.model or checkpoints.path("nano")))
    print("\n".join(report.lines()))
    sheet = draw_rows(read)
    print(write_whole(args.sheet, lambda file: sheet.save(file, format="PNG")))
    return 0 if report.is_clean else 1


def draw_rows(read: ReadRows, count: int = SHOWN_ROWS) -> Image:
    """Rows from all over the data: image with the boxes of its texts, prompt, answer."""
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont

    from trainers.data_check import sample_rows

    font = PIL.ImageFont.load_default(size=14)
    rows = sample_rows(read, count)
    width, height = _SIDE + _MARGIN, _SIDE + _LINES * _LINE + 2 * _MARGIN
    columns = min(_COLUMNS, len(rows))
    sheet = PIL.Image.new("RGB", (columns * width + _MARGIN, -(-len(rows) // columns) * height + _MARGIN), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left, top = _MARGIN + number % columns * width, _MARGIN + number // columns * height
        sheet.paste(_draw_image(read, row), (left, top))
        top += _SIDE + _MARGIN // 2
        prompt = textwrap.wrap(row["prompt"], _LETTERS)[: _LINES - 2]
        answers = textwrap.wrap(" / ".join(row["completion"]), _LETTERS)[:2]
        for line, ink in [(text, "#222222") for text in prompt] + [(text, "#1a7f37") for text in answers]:
            pen.text((left, top), line, fill=ink, font=font)
            top += _LINE
    return sheet


def _draw_image(read: ReadRows, row: dict[str, Any]) -> Image:
    import PIL.Image

    from processing_lion import draw_boxes, parse_boxes
    from trainers.data_check import open_row_image

    try:
        image = open_row_image(read, row)
    except ValueError:
        return PIL.Image.new("RGB", (_SIDE, _SIDE), "#c62828")
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.convert("RGB").resize(size, PIL.Image.Resampling.LANCZOS)
    boxes = [box for text in (row["prompt"], row["completion"][0]) for box in parse_boxes(text)]
    return draw_boxes(image, [[v * s for v, s in zip(box, (*size, *size))] for box in boxes])
