"""One question about many uploaded images."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lion_multimodal.app.session import MAX_PROMPT, PageError, read_image
from lion_multimodal.engine import Answer, LionEngine, Question
from trainers.json_lines import encode_line


MAX_FILES = 500
BATCH = 8
SHOWN = ("image", "answer", "boxes", "level", "tags")
"""The columns of the table on the page, in which a problem stands in the place of the answer."""
HEADERS = (*SHOWN, "problem")
"""The columns of the CSV file."""


@dataclass(frozen=True)
class Row:
    """
    An image of the batch.

    Attributes:
        image (`str`): The file's name.
        answer ([`Answer`], *optional*): What was said about it.
        problem (`str`): Why it was skipped.
    """

    image: str
    answer: Answer | None = None
    problem: str = ""

    def cells(self) -> list[str]:
        """The row of the CSV file, in the order of `HEADERS`."""
        if self.answer is None:
            return [self.image, "", "", "", "", self.problem]
        boxes = json.dumps(self.answer.boxes) if self.answer.boxes else ""
        return [self.image, self.answer.text, boxes, self.answer.level, self.answer.tags or "", ""]

    def shown(self) -> list[str]:
        """The row of the table on the page, in the order of `SHOWN`."""
        cells = self.cells()[:-1]
        return [cells[0], f"Skipped: {self.problem}", *cells[2:]] if self.answer is None else cells

    def record(self) -> dict[str, Any]:
        """The row of the JSON Lines file."""
        if self.answer is None:
            return {"image": self.image, "problem": self.problem}
        return {
            "image": self.image,
            "answer": self.answer.text,
            "boxes": self.answer.boxes,
            "labels": self.answer.labels,
            "level": self.answer.level,
            "tags": self.answer.tags,
        }


def answer_files(
    engine: LionEngine, files: Sequence[Path], prompt: str, level: str = "auto", with_tags: bool = True
) -> Iterator[list[Row]]:
    """
    Ask the same of each file, a few at a time; files that are no images are skipped with the reason.

    Args:
        engine ([`LionEngine`]): The checkpoint.
        files (`Sequence[Path]`): The files.
        prompt (`str`): What to ask; empty for a short caption.
        level (`str`, *optional*, defaults to `"auto"`): The level of the question.
        with_tags (`bool`, *optional*, defaults to `True`): Whether the prompt names what the tagger found.

    Yields:
        `list[Row]`: The next rows, in the order of the files.

    Raises:
        PageError: there are no files, too many of them, or the prompt is too long.
    """
    if not files:
        raise PageError("Choose images or a folder first.")
    if len(files) > MAX_FILES:
        raise PageError(f"This page takes up to {MAX_FILES} files, got {len(files)}; lion predict takes any number.")
    if len(prompt) > MAX_PROMPT:
        raise PageError(f"A question can have up to {MAX_PROMPT} characters, this one has {len(prompt)}.")
    question = Question(prompt.strip() or None, tags=None if with_tags else False, level=level)
    for start in range(0, len(files), BATCH):
        yield _answer_some(engine, files[start : start + BATCH], question)


def _answer_some(engine: LionEngine, files: Sequence[Path], question: Question) -> list[Row]:
    rows: dict[int, Row] = {}
    prepared = {}
    for number, file in enumerate(files):
        try:
            prepared[number] = read_image(engine, file)[1]
        except PageError as error:
            rows[number] = Row(file.name, problem=str(error))
    images = engine.encode(list(prepared.values()))
    answers = engine.answer(images, [question] * len(images))
    rows |= {number: Row(files[number].name, answer) for number, answer in zip(prepared, answers)}
    return [rows[number] for number in range(len(files))]


def write_csv(rows: Sequence[Row], file: Path) -> None:
    """The table as CSV, with a line of headers."""
    # The mark at the beginning tells spreadsheets that this is UTF-8.
    with file.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(HEADERS)
        writer.writerows(row.cells() for row in rows)


def write_jsonl(rows: Sequence[Row], file: Path) -> None:
    """The rows as JSON Lines, with boxes as numbers."""
    file.write_bytes(b"".join(encode_line(row.record()) for row in rows))
