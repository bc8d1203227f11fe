"""One training row: how it is read, what makes it unusable, and the record of those that were."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from processing_lion import infer_level, load_image
from trainers.augmentation import find_box_problem
from trainers.json_lines import append_lines, read_lines


logger = logging.getLogger(__name__)

LEVELS = ("image_level", "region_level", "auto")
IMAGE_COLUMNS = ("image", "images", "file_name", "image_path", "img_path", "image_file", "filename", "path", "url")
"""What the column of the image is called, the likeliest name first."""
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
"""Roles of messages by the names that LLaVA's conversations give them."""
IMAGE_PLACEHOLDER = "<image>"
_LOGGED_PER_SOURCE = 20
# Below this number of rows a share of unusable ones says nothing.
_ROWS_BEFORE_SHARE = 100

EXPECTED_COLUMNS = (
    "an image column (`image`, or `images` with one image each) and either `prompt` and `completion` (strings or "
    "messages) or `messages` that end with the assistant's answer"
)


class BadRowError(ValueError):
    """A row that cannot be used, where bad rows are fatal."""


class TooManyBadRowsError(ValueError):
    """So many rows cannot be used that training on the rest would not be what was asked for."""


def find_column_problem(column_names: Iterable[str]) -> str | None:
    """What keeps rows with these columns from being trained on, or None."""
    names = set(column_names)
    if "messages" in names or ({"prompt", "completion"} <= names and names & {"image", "images"}):
        return None  # messages may hold their image themselves
    if {"prompt", "completion"} <= names:
        return f"has no image column among its columns {sorted(names)}; expected {EXPECTED_COLUMNS}"
    return f"has the columns {sorted(names)}; expected {EXPECTED_COLUMNS}"


def read_exchange(row: Mapping[str, Any]) -> tuple[str, list[str]]:
    """
    Prompt and completions of a row with `prompt` and `completion`, or of one exchange of a row with `messages`: the one
    of the (0-based) number `turn`, or the last.

    Raises:
        ValueError: there is no such text; the message says what is wrong with the row.
    """
    if row.get("messages") is not None and row.get("prompt") is None:
        exchanges = split_exchanges(row["messages"])
        if not exchanges:
            raise ValueError("has `messages` in which no user message is followed by an assistant's")
        turn = row.get("turn")
        return exchanges[-1 if turn is None else turn]
    return read_prompt(row.get("prompt")), read_completions(row.get("completion"))


def split_exchanges(messages: Any) -> list[tuple[str, list[str]]]:
    """
    The exchanges of a conversation: each message of a user with the assistant's answer to it. LION has no memory of
    earlier turns, so that each of them is a row of its own.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise ValueError(f"has `messages` that are no list but {type(messages).__name__}")
    exchanges, question, system = [], None, ""
    for message in messages:
        if not isinstance(message, Mapping) or "role" not in message:
            raise ValueError(f"has `messages` with an entry that lacks `role` and `content`: {message!r:.80}")
        text, role = _without_placeholder(read_text(message)), message["role"]
        if role == "system":
            system = text
        elif role == "user":
            question = "\n".join(part for part in (system, text) if part)
        elif role == "assistant" and question is not None:
            exchanges.append((question, [text] if text else []))
            question = None
    return exchanges


def read_prompt(value: Any) -> str:
    """As [`read_text`]; of a conversation, the user's last message behind the system's."""
    if _is_conversation(value):
        system = "\n".join(read_text(m) for m in value if m.get("role") == "system")
        users = [read_text(m) for m in value if m.get("role", "user") == "user"]
        return "\n".join(text for text in (system, _without_placeholder(users[-1]) if users else "") if text)
    return read_text(value)


def _is_conversation(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    return is_list and all(isinstance(message, Mapping) and "content" in message for message in value)


def _without_placeholder(text: str) -> str:
    """Without a place for the image before or after the text. Inside a sentence it belongs to LION's own prompts."""
    return text.removeprefix(IMAGE_PLACEHOLDER).removesuffix(IMAGE_PLACEHOLDER).strip()


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
    """The answers that a row allows: one, unless it gives a list of strings (five captions of one image, say)."""
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
    """What `row` gives as its image: the value of `image`, the only one of `images`, or the one in its messages."""
    image = row.get("image")
    if image is None:
        images = row.get("images")
        if images is None or (isinstance(images, Sequence) and not images):
            images = _images_in(row.get("messages")) or _images_in(row.get("prompt"))
        elif isinstance(images, (str, bytes, Mapping)) or not isinstance(images, Sequence):
            images = [images]
        if len(images) > 1:
            raise ValueError(f"has {len(images)} images; LION reads one")
        image = images[0] if images else None
    return image


def _images_in(messages: Any) -> list[Any]:
    """The images that are parts of messages themselves."""
    if not _is_conversation(messages):
        return []
    parts = [
        part
        for m in messages
        if isinstance(m["content"], Sequence)
        for part in m["content"]
        if isinstance(part, Mapping)
    ]
    values = [part.get(key) for part in parts if part.get("type") == "image" for key in ("image", "url", "path")]
    return [value for value in values if value is not None]


def open_image(source: Any, allow_private_addresses: bool | None = None) -> PIL.Image.Image:
    """
    Load the image of a row, within the limits of `load_image` (bytes, pixels, time).

    Args:
        source: Whatever `load_image` takes, or the undecoded form of `datasets.Image` (`{"bytes": ..., "path": ...}`).
        allow_private_addresses (`bool`, *optional*): As for `load_image`, where the row gives an address.

    Raises:
        ValueError: there is none, or it cannot be read; the message says which.
    """
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    if source is None:
        raise ValueError("has no image")
    try:
        return load_image(source, allow_private_addresses=allow_private_addresses)
    except (OSError, TypeError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"image cannot be read: {error}") from error


def is_address(source: Any) -> bool:
    """Whether an image has to be fetched from the network."""
    if isinstance(source, Mapping):
        source = None if source.get("bytes") else source.get("path")
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


def find_missing_image(source: Any) -> str | None:
    """What is wrong with an image as far as that can be told without decoding it, or None."""
    if isinstance(source, Mapping):
        if source.get("bytes"):
            return None
        source = source.get("path")
    if source is None:
        return "has no image"
    if isinstance(source, (str, os.PathLike)) and not str(source)[:8].lower().startswith(_NO_PATHS):
        if "::" not in str(source) and not _is_file(source):
            return f"image {str(source)[:200]!r} does not exist"
    return None


_NO_PATHS = ("http://", "https://", "data:", "file:")


def _is_file(path: str | os.PathLike) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # longer than any path, or with a null byte
        return False


def find_text_problem(prompt: str, completions: Sequence[str], level: str) -> str | None:
    """What is wrong with the texts of a row, or None."""
    if not prompt:
        return "has an empty prompt"
    if not completions:
        return "has an empty answer"
    problem = find_encoding_problem("prompt", prompt) or find_encoding_problem("answer", *completions)
    if problem is not None:
        return problem
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


def find_encoding_problem(name: str, *texts: str | None) -> str | None:
    """Whether a text holds half of a character, which no file and no tokenizer takes."""
    for text in texts:
        for character in text or "":
            if "\ud800" <= character <= "\udfff":
                return f"has a lone surrogate (U+{ord(character):04X}) in its {name}"
    return None


class BadRows:
    """
    Record of the rows that could not be used. Nothing is dropped without an entry here.

    Args:
        action (`str`): `"skip"` records and goes on, `"fail"` raises [`BadRowError`] at the first one.
        path (`str` or `Path`, *optional*): JSON Lines file that all processes append to.
        max_share (`float`, *optional*):
            The share of unusable rows above which a source raises [`TooManyBadRowsError`], once 100 of its rows were
            read. No limit by default.
    """

    def __init__(self, action: str = "skip", path: str | os.PathLike | None = None, max_share: float | None = None):
        if action not in ("skip", "fail"):
            raise ValueError(f"`action` must be 'skip' or 'fail', got {action!r:.100}.")
        if max_share is not None and not 0 <= max_share <= 1:
            raise ValueError(f"`max_share` must lie in [0, 1], got {max_share}.")
        self.action = action
        self.path = None if path is None else Path(path)
        self.max_share = max_share
        self._seen: set[tuple[str, int]] = set()
        self._counts: Counter[str] = Counter()
        self._good: Counter[tuple[str, str]] = Counter()
        self._bad: Counter[tuple[str, str]] = Counter()
        self._reasons: dict[str, Counter[str]] = {}

    def accept(self, source: str, where: str = "collator") -> None:
        """Count a row of `source` that can be used. Each place that looks at rows (`where`) counts for itself."""
        self._good[source, where] += 1

    def report(self, source: str, index: int, problem: str, where: str = "collator") -> None:
        """
        Record that row `index` (0-based) of `source` is unusable because it `problem`.

        Raises:
            BadRowError: with the action `"fail"`.
            TooManyBadRowsError: more than `max_share` of at least 100 rows of `source` cannot be used.
        """
        self.record(source, index, problem)
        self._bad[source, where] += 1
        self.check_share(source, self._bad[source, where], self._good[source, where])

    def check_share(self, source: str, bad: int, good: int, reasons: str | None = None) -> None:
        """Raise [`TooManyBadRowsError`] where `bad` rows beside `good` ones of a source are too many."""
        total = bad + good
        if self.max_share is not None and total >= _ROWS_BEFORE_SHARE and bad > self.max_share * total:
            raise TooManyBadRowsError(
                f"{bad} of {total} rows of {source!r} are unusable, more than the share of {self.max_share:g} that "
                f"`max_bad_row_share` allows: {reasons or self.reasons(source)}."
            )

    def record(self, source: str, index: int, problem: str) -> None:
        """As [`report`], for one who counts rows himself (`check_share`)."""
        message = f"Row {index} of {source!r} {problem}."
        if self.action == "fail":
            raise BadRowError(message)
        if (source, index) in self._seen:
            return
        self._seen.add((source, index))
        self._reasons.setdefault(source, Counter())[_kind(problem)] += 1
        self._counts[source] += 1
        if self._counts[source] <= _LOGGED_PER_SOURCE:
            logger.warning("%s It is skipped.", message)
        if self._counts[source] == _LOGGED_PER_SOURCE + 1:
            logger.warning("More rows of %r are unusable; the summary counts them.", source)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_lines(self.path, [{"source": source, "index": index, "problem": problem}])

    def reasons(self, source: str | None = None) -> str:
        """Why rows could not be used, with how many: `"3 × 'has no image', 1 × 'has an empty answer'"`."""
        found = self._reasons.values() if source is None else [self._reasons.get(source, Counter())]
        counts = sum(found, Counter())
        return ", ".join(f"{count} × {reason!r}" for reason, count in counts.most_common(5)) or "none was reported"

    def summary(self) -> dict[str, int]:
        """Unusable rows by source; with a `path`, those that any process has met in this run or one it resumed."""
        seen = set(self._seen)
        if self.path is not None and self.path.is_file():
            # The last line may be torn, of a killed run.
            entries = (entry for _, entry in read_lines(self.path, skip_torn=True))
            seen |= {(entry["source"], entry["index"]) for entry in entries if {"source", "index"} <= entry.keys()}
        return dict(Counter(source for source, _ in sorted(seen)))


def _kind(problem: str) -> str:
    """A problem without what differs from row to row, so that equal ones can be counted."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|<[^>]* at 0x[0-9a-f]+>", "…", problem)[:120]
