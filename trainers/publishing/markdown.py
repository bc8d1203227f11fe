"""Cards and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData


def card_text(metadata: Mapping[str, Any], body: str) -> str:
    """A model card: the Hub's metadata at its head, and Markdown."""
    return f"---\n{ModelCardData(**metadata).to_yaml()}\n---\n\n{body}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """
    A table, a line a row, with a line break at its end.

    Args:
        header (`Sequence[str]`): Titles of the columns.
        rows (`Iterable[Sequence[str]]`): Their cells, as many as titles.
        align (`str`, *optional*): A letter a column, `"l"` or `"r"`; columns beyond them are like the last one.

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    letters = (align or "l").ljust(len(header), (align or "l")[-1])
    rule = ["---:" if letter == "r" else "---" for letter in letters[: len(header)]]
    lines = []
    for row in (header, rule, *rows):
        if len(row) != len(header):
            raise ValueError(f"`rows` must have {len(header)} cells each, got {list(row)}")
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |\n")
    return "".join(lines)
