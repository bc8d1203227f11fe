"""What is in somebody's data, before it is trained on: levels, lengths, boxes, duplicates, images."""

import re
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image

from processing_lion import load_image
from trainers.augmentation import find_box_problem
from trainers.row_formats import ReadRows


# Images that are opened, of all over the data.
SAMPLED_IMAGES = 200


@dataclass
class DataReport:
    """
    What [`check_rows`] found.

    Args:
        summary (`str`): What was read.
        levels (`Counter`): Rows by level.
        lengths (`dict`): Token counts, `{"prompt": ..., "answer": ...}`, of every row.
        cut (`int`): Rows whose prompt is longer than the processor's limit and loses its head.
        boxes (`int`): Rows with boxes.
        box_problems (`Counter`): What is wrong with boxes, with how many rows.
        duplicates (`int`): Rows whose image and prompt came before with the same answers.
        contradictions (`int`): Rows whose image and prompt came before with other answers.
        with_tags (`int`): Rows with tags.
        images_opened (`int`): Images that were opened.
        image_problems (`Counter`): Why some of these could not be.
        sizes (`list`): Widths and heights of those that could.
    """

    summary: str
    levels: Counter = field(default_factory=Counter)
    lengths: dict[str, np.ndarray] = field(default_factory=dict)
    cut: int = 0
    boxes: int = 0
    box_problems: Counter = field(default_factory=Counter)
    duplicates: int = 0
    contradictions: int = 0
    with_tags: int = 0
    images_opened: int = 0
    image_problems: Counter = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether every row that was read can be trained on as it is."""
        return not (self.box_problems or self.image_problems or self.contradictions)

    def lines(self) -> list[str]:
        """The report, line by line."""
        total = sum(self.levels.values())
        lines = [self.summary, f"levels: {', '.join(f'{n:,} {level}' for level, n in self.levels.most_common())}"]
        for name, lengths in self.lengths.items():
            middle, most = np.percentile(lengths, [50, 95])
            lines.append(
                f"{name} length in tokens: median {middle:.0f}, 95 % up to {most:.0f}, longest {lengths.max()}"
            )
        if self.cut:
            lines.append(f"prompts that are too long and lose their head: {self.cut:,}")
        problems = ", ".join(f"{n:,} × {problem}" for problem, n in self.box_problems.most_common(5))
        lines.append(f"rows with boxes: {self.boxes:,}" + (f"; wrong: {problems}" if problems else ""))
        lines.append(f"rows with tags: {self.with_tags:,}")
        lines.append(
            f"duplicates: {self.duplicates:,} of {total:,}; same image and prompt, other answer: "
            f"{self.contradictions:,}"
        )
        if self.sizes:
            widths, heights = zip(*self.sizes)
            lines.append(
                f"images ({self.images_opened} opened): {min(widths)}×{min(heights)} to {max(widths)}×{max(heights)}"
            )
        if self.image_problems:
            problems = ", ".join(f"{n} × {problem}" for problem, n in self.image_problems.most_common(5))
            lines.append(f"images that can't be opened: {self.image_problems.total()}: {problems}")
        return lines


def check_rows(read: ReadRows, processor: Any, seed: int = 0) -> DataReport:
    """
    Look at all rows, and at the images of some.

    Args:
        read ([`ReadRows`]): The rows.
        processor ([`LionProcessor`]): Counts tokens.
        seed (`int`): Decides which images are opened.
    """
    report = DataReport(read.summary())
    limit = processor.max_text_length
    prompts = _count_tokens(processor, [row["prompt"] for row in read.rows])
    answers = _count_tokens(processor, [max(row["completion"], key=len) for row in read.rows])
    report.lengths = {"prompt": prompts, "answer": answers}
    report.cut = int((prompts > limit).sum())
    seen: dict[int, int] = {}
    for row in read.rows:
        report.levels[row["level"]] += 1
        report.with_tags += bool(row["tags"])
        texts = [row["prompt"], *row["completion"]]
        report.boxes += any("[" in text for text in texts) and row["level"] == "region_level"
        if row["level"] == "region_level":
            problem = next(filter(None, map(find_box_problem, texts)), None)
            if problem is not None:
                report.box_problems[_without_numbers(problem)] += 1
        question = zlib.crc32(f"{row['image']}\0{row['prompt']}".encode("utf-8", "surrogatepass"))
        answer = zlib.crc32("\0".join(row["completion"]).encode())
        if question in seen:
            report.duplicates += seen[question] == answer
            report.contradictions += seen[question] != answer
        seen[question] = answer
    for row in sample_rows(read, SAMPLED_IMAGES, seed):
        report.images_opened += 1
        try:
            report.sizes.append(open_row_image(read, row).size)
        except ValueError as error:
            report.image_problems[str(error)[:100]] += 1
    return report


def sample_rows(read: ReadRows, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows from all over the data, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(read.rows))[:count]
    return [read.rows[index] for index in sorted(chosen)]


def open_row_image(read: ReadRows, row: Mapping[str, Any]) -> PIL.Image.Image:
    """The image of a row; `ValueError` says why there is none."""
    try:
        return load_image(read.open_image(row))
    except Exception as error:  # whatever is wrong with it, it is one image
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _count_tokens(processor: Any, texts: list[str]) -> np.ndarray:
    counts: list[int] = []
    for start in range(0, len(texts), 1000):
        counts += [len(ids) for ids in processor.tokenizer(texts[start : start + 1000])["input_ids"]]
    return np.array(counts)


def _without_numbers(problem: str) -> str:
    return re.sub(r"\[[^\]]*\]|-?\d+(\.\d+)?", "…", problem)
