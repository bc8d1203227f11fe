"""JSON Lines: an object a line, in UTF-8."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def encode_line(record: Mapping[str, Any]) -> bytes:
    """A record as its line."""
    # A lone surrogate stands for a byte of a file name that is not UTF-8; as an escape it survives.
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def append_lines(path: str | os.PathLike, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records behind those of a file at once, so that an interruption can tear the last of them only."""
    with Path(path).open("ab") as file:
        file.write(b"".join(map(encode_line, records)))


def read_lines(
    path: str | os.PathLike, skip_torn: bool = False, skip_empty: bool = True
) -> Iterator[tuple[int, dict[str, Any]]]:
    """
    The records of a file with the numbers of their lines, the first of which is 1.

    Args:
        path (`str` or `os.PathLike`): The file.
        skip_torn (`bool`, *optional*, defaults to `False`):
            Whether lines that hold no object are passed over, as interrupted runs leave them.
        skip_empty (`bool`, *optional*, defaults to `True`): Whether empty lines are passed over.

    Raises:
        ValueError: a line holds no object; file and line are named.
    """
    with Path(path).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if skip_empty and not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                if skip_torn:
                    continue
                raise ValueError(f"{path}, line {number} is no JSON: {error}") from error
            if isinstance(record, dict):
                yield number, record
            elif not skip_torn:
                raise ValueError(f"{path}, line {number} is no object: {line[:80]!r}")
