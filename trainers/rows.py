"""One training row: how it is read, what makes it unusable, and the record of those that were."""

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from processing_lion import infer_level, load_image
from trainers.augmentation import find_box_problem


logger = logging.getLogger(__name__)

LEVELS = ("image_level", "region_level", "auto")
_LOGGED_PER_SOURCE = 20


class BadRowError(ValueError):
    """A row that cannot be used, where bad rows are fatal."""


def read_text(value: Any) -> str:
    """
    The text of a prompt or completion: a string, or TRL's conversational form (a list of messages whose content is a
    string or a list of parts, of which those of type `text` count).
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, Mapping) and "content" in value:
        return read_text(value["content"])
    if isinstance(value, Mapping):
        return read_text(value.get("text")) if value.get("type", "text") == "text" else ""
    if isinstance(value, Sequence):
        return "\n".join(text for text in map(read_text, value) if text)
    return str(value)


def read_completions(value: Any) -> list[str]:
    """The answers that a row allows: one, unless it gives a list of strings (five captions of one picture, say)."""
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value):
        return [text for text in map(read_text, value) if text]
    text = read_text(value)
    return [text] if text else []


def read_tags(value: Any) -> str | None:
    """Tags as one comma-separated string, or None where there shall be no tag sentence."""
    if value is None or isinstance(value, str):
        return value
    return ", ".join(str(tag).strip() for tag in value)


def read_image_source(row: Mapping[str, Any]) -> Any:
    """What `row` gives as its picture: the value of `image`, or the only one of `images`."""
    image = row.get("image")
    if image is None and row.get("images"):
        images = row["images"]
        if len(images) != 1:
            raise ValueError(f"has {len(images)} pictures; LION reads one")
        image = images[0]
    return image


def open_image(source: Any) -> PIL.Image.Image:
    """
    Load the picture of a row.

    Args:
        source: Whatever `load_image` takes, or the undecoded form of `datasets.Image` (`{"bytes": ..., "path": ...}`).

    Raises:
        ValueError: there is none, or it cannot be read; the message says which.
    """
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    if source is None:
        raise ValueError("has no picture")
    try:
        return load_image(source)
    except (OSError, TypeError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"picture cannot be read: {error}") from error


def find_missing_image(source: Any) -> str | None:
    """What is wrong with a picture as far as that can be told without decoding it, or None."""
    if isinstance(source, Mapping):
        if source.get("bytes"):
            return None
        source = source.get("path")
    if source is None:
        return "has no picture"
    if isinstance(source, (str, os.PathLike)) and not str(source).startswith(("http://", "https://", "data:")):
        if "::" not in str(source) and not Path(source).is_file():
            return f"picture {str(source)!r} does not exist"
    return None


def find_text_problem(prompt: str, completions: Sequence[str], level: str) -> str | None:
    """What is wrong with the texts of a row, or None."""
    if not prompt:
        return "has an empty prompt"
    if not completions:
        return "has an empty answer"
    if level not in LEVELS:
        return f"has the level {level!r}, expected one of {list(LEVELS)}"
    if level == "auto":
        level = infer_level(prompt)
    if level == "region_level":
        for text in (prompt, *completions):
            problem = find_box_problem(text)
            if problem is not None:
                return problem
    return None


class BadRows:
    """
    Record of the rows that could not be used. Nothing is dropped without an entry here.

    Args:
        action (`str`): `"skip"` records and goes on, `"fail"` raises [`BadRowError`] at the first one.
        path (`str` or `Path`, *optional*): JSON Lines file that all processes append to.
    """

    def __init__(self, action: str = "skip", path: str | os.PathLike | None = None):
        if action not in ("skip", "fail"):
            raise ValueError(f"`action` must be 'skip' or 'fail', got {action!r}.")
        self.action = action
        self.path = None if path is None else Path(path)
        self._seen: set[tuple[str, int]] = set()
        self._counts: Counter[str] = Counter()

    def report(self, source: str, index: int, problem: str) -> None:
        """Record that row `index` (0-based) of `source` is unusable because it `problem`."""
        message = f"Row {index} of {source!r} {problem}."
        if self.action == "fail":
            raise BadRowError(message)
        if (source, index) in self._seen:
            return
        self._seen.add((source, index))
        self._counts[source] += 1
        if self._counts[source] <= _LOGGED_PER_SOURCE:
            logger.warning("%s It is skipped.", message)
        if self._counts[source] == _LOGGED_PER_SOURCE + 1:
            logger.warning("More rows of %r are unusable; the summary counts them.", source)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"source": source, "index": index, "problem": problem}) + "\n")

    def summary(self) -> dict[str, int]:
        """Unusable rows by source; with a `path`, those that any process has met in this run or one it resumed."""
        seen = set(self._seen)
        if self.path is not None and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    seen.add((entry["source"], entry["index"]))
                except (ValueError, KeyError, TypeError):
                    continue  # the last line of a killed run
        return dict(Counter(source for source, _ in sorted(seen)))
