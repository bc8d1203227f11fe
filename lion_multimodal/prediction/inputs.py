"""
What is asked: images from files, addresses, folders, patterns, rows, shards and datasets, each with its questions.

Everything is read as it is needed, in the same order every time.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import math
import os
import tarfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from lion_multimodal.prediction.drawings import is_address
from modeling_lion.extras_lion import needs_extra
from processing_lion.levels_lion import LEVELS, infer_level
from processing_lion.prompts_lion import format_prompt
from trainers.json_lines import read_lines
from trainers.rows import IMAGE_COLUMNS, SPEAKERS, read_image_source, read_prompt, split_exchanges


EXTRA = "evaluation"
"""The extra that installs what Parquet files and datasets are read and written with."""

ROW_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet", ".tar", ".tsv")
"""Suffixes of files that hold rows, rather than an image."""

_ID_COLUMNS = ("id", "question_id")
_EXPRESSION_COLUMNS = ("expression", "phrase")
# Formats that Pillow knows by name and does not decode, or decodes by starting another program.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
# A text this long is the image itself, in base64.
_LONGEST_NAME = 1000
_BATCH = 64


@dataclass(frozen=True)
class Prompt:
    """
    What is asked about an image; None where that is to be what others say.

    Args:
        prompt (`str`, *optional*): The instruction.
        tags (*optional*): A comma-separated string or a list of strings; False for no tag sentence.
        level (`str`, *optional*): `"image_level"`, `"region_level"` or `"auto"`.
        id (`str` or `int`, *optional*): What it is called.
    """

    prompt: str | None = None
    tags: Any = None
    level: str | None = None
    id: str | int | None = None

    def over(self, other: Prompt) -> Prompt:
        """This question, with what it leaves open taken from `other`."""
        return Prompt(
            other.prompt if self.prompt is None else self.prompt,
            other.tags if self.tags is None else self.tags,
            other.level if self.level in (None, "auto") else self.level,
            other.id if self.id is None else self.id,
        )


@dataclass(frozen=True)
class Row:
    """
    An image that an input gives.

    Args:
        id (`str` or `int`): What it is called.
        image (`str`): How records name the image.
        source: What `load_image` takes.
        question ([`Prompt`]): What its own input asks about it.
        error (`str`, *optional*): What is wrong with the row, if it cannot be asked.
    """

    id: str | int
    image: str
    source: Any = None
    question: Prompt = field(default_factory=Prompt)
    error: str | None = None


@dataclass(frozen=True)
class Request:
    """
    A question about an image, or a row that cannot be asked.

    Args:
        number (`int`): Its place among all requests.
        row_number (`int`): Its row's place among all rows.
        key (`Hashable`): The same for requests about the same image.
        row ([`Row`]): The image, under the request's name.
        question ([`Prompt`]): What is asked, with nothing left open but prompt and tags.
        drawing (`str`, *optional*): Where the image with the answer's boxes is drawn.
    """

    number: int
    row_number: int
    key: Hashable
    row: Row
    question: Prompt
    drawing: str | None = None


class Source(Protocol):
    """
    Rows that can be read any number of times.

    Attributes:
        name (`str`): As the user gave it.
        holds_images (`bool`): Whether the images are part of it, rather than files or addresses.
        total (`int`, *optional*): How many rows there are, where that is known without reading them.
    """

    name: str
    holds_images: bool
    total: int | None

    def __iter__(self) -> Iterator[Row]: ...

    def describe(self) -> dict[str, Any]:
        """What must be the same for a run to go on: contents of rows, names and sizes of files of images."""
        ...


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the image files that the Pillow in use decodes."""
    import PIL.Image

    PIL.Image.init()
    known = PIL.Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in PIL.Image.OPEN and kind not in _NOT_DECODED)


# --- Files of images ---


class Files:
    """Files and addresses of images, by their names."""

    holds_images = False

    def __init__(self, name: str, names: Sequence[str]):
        self.name = name
        self.names = names
        self.total: int | None = len(names)

    def __iter__(self) -> Iterator[Row]:
        for name in self.names:
            address = is_address(name) or name[:5].lower() == "file:" or len(name) > _LONGEST_NAME
            yield Row(name, name, name if address else Path(name))

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name in self.names:
            try:
                size = None if is_address(name) else os.stat(os.path.expanduser(name)).st_size
            except (OSError, ValueError):
                size = None
            digest.update(f"{name}\0{size}\0".encode("utf-8", "backslashreplace"))
        return {"images": len(self.names), "sha256": digest.hexdigest()}


def find_images(folder: str) -> list[str]:
    """
    All image files below a folder, sorted by their paths; hidden ones are left out. Linked folders are part of it, and
    none is entered twice, so that a link upwards ends somewhere.
    """
    found: list[tuple[str, str]] = []
    entered = {os.path.realpath(folder)}
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        subfolders = []
        with os.scandir(os.path.join(folder, inside)) as entries:
            for entry in entries:
                path = f"{inside}/{entry.name}" if inside else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    subfolders.append(path)
                elif os.path.splitext(entry.name)[1].lower() in image_suffixes():
                    found.append((path, os.path.join(folder, *path.split("/"))))
        new = []
        for path in sorted(subfolders):
            real = os.path.realpath(os.path.join(folder, path))
            if real not in entered:
                entered.add(real)
                new.append(path)
        waiting += reversed(new)  # the first is the next to be entered
    return [file for _, file in sorted(found)]


# --- Rows ---


def read_record(record: Mapping[str, Any], number: int, place: str, folder: Path) -> Iterator[Row]:
    """
    The rows of a record: one, or one for each of a conversation's questions.

    Args:
        record (`Mapping`): With columns by the names that `trainers.row_formats` knows.
        number (`int`): Its number, by which it is called unless it has a name of its own.
        place (`str`): Where it stands, for messages and for images without a name.
        folder (`Path`): What names of files are relative to.
    """
    own = next((record[name] for name in _ID_COLUMNS if not _is_missing(record.get(name))), number)
    if not isinstance(own, (str, int)):
        own = str(own)
    try:
        name, source = _find_image(record, place, folder)
    except (TypeError, ValueError) as error:
        yield Row(own, place, error=str(error))
        return
    try:
        questions = _find_questions(record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"can't be read ({type(error).__name__}: {error})"
        yield Row(own, name, source, error=reason)
        return
    for turn, question in enumerate(questions):
        yield Row(own if len(questions) == 1 else f"{own}:{turn}", name, source, question)


def _no_image_column(name: str, columns: Sequence[str]) -> str:
    return f"{name}: no image column among {list(columns)[:12]}; expected one of {', '.join(IMAGE_COLUMNS)}"


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _find_image(record: Mapping[str, Any], place: str, folder: Path) -> tuple[str, Any]:
    """How an image is called, and what `load_image` takes."""
    value = next((record[name] for name in IMAGE_COLUMNS if not _is_missing(record.get(name))), None)
    if value is None or (isinstance(value, Sequence) and not value):
        value = read_image_source(record)
    if isinstance(value, (list, tuple)):
        if len(value) != 1:
            raise ValueError(f"has {len(value)} images; LION reads one")
        value = value[0]
    name = None
    if isinstance(value, Mapping):
        name = next((value[k] for k in ("path", "file_name", "url") if isinstance(value.get(k), str)), None)
        value = name if value.get("bytes") is None else value["bytes"]
    if value is None or value == "":
        raise ValueError(f"has no image; its columns are {list(record)[:12]}")
    if isinstance(value, str):
        if len(value) > _LONGEST_NAME:
            return place, value
        if is_address(value) or value[:5].lower() == "file:":
            return (place if value[:5].lower() == "data:" else value), value
        return value, folder / os.path.expanduser(value)
    return name or place, value


def _find_questions(record: Mapping[str, Any]) -> list[Prompt]:
    tags, level = _find_tags(record), record.get("level")
    if _is_missing(level):
        level = None
    elif level not in ("auto", *LEVELS):
        raise ValueError(f"has the level {level!r:.40}; expected {', '.join(sorted(LEVELS))} or auto")
    prompts: list[str | None] = []
    if not _is_missing(record.get("prompt")):
        prompts = [read_prompt(record["prompt"])]
    elif not _is_missing(record.get("question")):
        question = read_prompt(record["question"])
        # As in training: in LION's own wording for questions, unless it is about a place.
        about_place = infer_level(question) == "region_level"
        prompts = [question if about_place or not question else format_prompt("vqa", question=question)]
    elif not _is_missing(record.get("messages")):
        prompts = _users_turns(record["messages"])
    elif not _is_missing(record.get("conversations")):
        turns = record["conversations"]
        messages = [{"role": SPEAKERS.get(turn["from"], turn["from"]), "content": str(turn["value"])} for turn in turns]
        prompts = _users_turns(messages)
    else:
        expression = next((record[n] for n in _EXPRESSION_COLUMNS if not _is_missing(record.get(n))), None)
        prompts = [None if expression is None else format_prompt("rec", expression=str(expression))]
    if not prompts:
        raise ValueError("has no message of a user")
    return [Prompt(prompt or None, tags, level) for prompt in prompts]


def _users_turns(messages: Any) -> list[str | None]:
    """What a user asks; LION has no memory of earlier turns, so that each is a question of its own."""
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise ValueError(f"has a conversation that is no list but {type(messages).__name__}")
    # A question that waits for its answer is one, too.
    answered = []
    for message in messages:
        answered.append(message)
        if message["role"] == "user":
            answered.append({"role": "assistant", "content": "?"})
    return [prompt for prompt, _ in split_exchanges(answered)]


def _find_tags(record: Mapping[str, Any]) -> Any:
    tags = record.get("tags")
    if tags is None or (isinstance(tags, float) and math.isnan(tags)):
        return None
    if isinstance(tags, str) and tags[:1] == "[" and tags[-1:] == "]":
        try:
            tags = json.loads(tags)
        except ValueError:
            pass
    if isinstance(tags, str) or (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        return tags
    raise ValueError(f"has tags that are neither a string nor a list of strings: {tags!r:.80}")


class RowFile:
    """Rows of a JSON Lines, JSON, CSV or TSV file."""

    holds_images = False

    def __init__(self, name: str, image_folder: str | None = None):
        self.name = name
        self.path = Path(name).expanduser()
        self.folder = self.path.parent if image_folder is None else Path(image_folder).expanduser()
        self.total: int | None = None
        if self.path.suffix.lower() in (".csv", ".tsv"):
            self._check_columns()

    def _check_columns(self) -> None:
        try:
            with self._open() as lines:
                columns = next(self._parse(lines), [])
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.name}: not UTF-8 text ({error.reason})") from None
        if not set(columns) & set(IMAGE_COLUMNS):
            raise ValueError(
                f"{self.name}: no image column among {columns[:12]}; expected one of {list(IMAGE_COLUMNS)}"
            )

    def _open(self) -> io.TextIOWrapper:
        return self.path.open(encoding="utf-8-sig", newline="")

    def _parse(self, lines: Iterable[str]) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter="\t" if self.path.suffix.lower() == ".tsv" else ",")

    def __iter__(self) -> Iterator[Row]:
        kind = self.path.suffix.lower()
        records = self._lines() if kind == ".jsonl" else self._list() if kind == ".json" else self._table()
        for number, record in records:
            place = f"{self.name}#{number}"
            if isinstance(record, str):
                yield Row(number, place, error=record)
            else:
                yield from read_record(record, number, place, self.folder)

    def _lines(self) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
        with self.path.open("rb") as lines:
            number = 0
            for place, line in enumerate(lines):
                line = line.removeprefix(b"\xef\xbb\xbf") if place == 0 else line
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                    problem = None if isinstance(record, dict) else "is no JSON object"
                except ValueError as error:
                    problem = f"is no JSON: {error}"
                yield number, problem or record
                number += 1

    def _list(self) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
        try:
            content = json.loads(self.path.read_bytes().decode("utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{self.name}: not JSON: {error}") from None
        if not isinstance(content, list):
            raise ValueError(f"{self.name}: expected a list of objects, got {type(content).__name__}")
        for number, record in enumerate(content):
            yield number, record if isinstance(record, dict) else "is no JSON object"

    def _table(self) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
        with self._open() as lines:
            try:
                table = self._parse(lines)
                columns = next(table, [])
                for number, cells in enumerate(cells for cells in table if cells):
                    # What a cell leaves blank is missing, as there is no other way to say so.
                    yield number, {name: cell for name, cell in zip(columns, cells) if cell.strip()}
            except (UnicodeDecodeError, csv.Error) as error:
                raise ValueError(f"{self.name}: cannot be read as UTF-8 text with columns: {error}") from None

    def describe(self) -> dict[str, Any]:
        digest, rows = hashlib.sha256(), 0
        with self.path.open("rb") as lines:
            for line in lines:
                digest.update(line)
                rows += bool(line.strip())
        if self.path.suffix.lower() == ".jsonl":
            self.total = rows
        return {"rows": self.path.name, "sha256": digest.hexdigest()}


class ParquetFile:
    """Rows of a Parquet file, read a few at a time."""

    holds_images = True

    def __init__(self, name: str, image_folder: str | None = None):
        with needs_extra(EXTRA, "reading Parquet files", "pyarrow"):
            import pyarrow
            import pyarrow.parquet
        self.name = name
        self.path = Path(name).expanduser()
        self.folder = self.path.parent if image_folder is None else Path(image_folder).expanduser()
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                self.columns = [column for column in file.schema_arrow.names if column in _columns()]
                names, self.total = file.schema_arrow.names, file.metadata.num_rows
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{name}: cannot be read as Parquet: {error}") from None
        if not set(names) & {*IMAGE_COLUMNS, "messages"}:
            raise ValueError(_no_image_column(name, names))

    def __iter__(self) -> Iterator[Row]:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH, columns=self.columns):
                for record in batch.to_pylist():
                    yield from read_record(record, number, f"{self.name}#{number}", self.folder)
                    number += 1

    def describe(self) -> dict[str, Any]:
        return {"rows": self.path.name, "size": self.path.stat().st_size, "number": self.total}


def _columns() -> frozenset[str]:
    """Columns that are read."""
    texts = ("prompt", "question", "messages", "conversations", "tags", "level")
    return frozenset((*IMAGE_COLUMNS, *_ID_COLUMNS, *_EXPRESSION_COLUMNS, *texts))


class TarShard:
    """Samples of a WebDataset shard: members of a tar file that follow one another with the same stem."""

    holds_images = True

    def __init__(self, name: str, image_folder: str | None = None):
        self.name = name
        self.total: int | None = None
        self.path = Path(name).expanduser()
        self.folder = self.path.parent if image_folder is None else Path(image_folder).expanduser()
        if not tarfile.is_tarfile(self.path):
            raise ValueError(f"{name}: no tar file, or a damaged one")

    def __iter__(self) -> Iterator[Row]:
        number = 0
        for key, parts in self._samples():
            place = f"{self.name}/{key}"
            try:
                record = self._record(key, parts)
            except ValueError as error:
                yield Row(key, place, error=str(error))
            else:
                yield from read_record(record, number, place, self.folder)
            number += 1

    def _samples(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        key: str | None = None
        parts: dict[str, bytes] = {}
        try:
            # One member after the other; none is written anywhere.
            with tarfile.open(self.path, "r|*") as tar:
                for member in tar:
                    folder, _, file = member.name.rpartition("/")
                    stem, dot, suffix = file.partition(".")
                    if not member.isfile() or not stem or not dot:
                        continue
                    stem = f"{folder}/{stem}" if folder else stem
                    if stem != key:
                        if key is not None:
                            yield key, parts
                        key, parts = stem, {}
                    content = tar.extractfile(member)
                    assert content is not None
                    parts[suffix.lower()] = content.read()
        except tarfile.TarError as error:
            raise ValueError(f"{self.name}: cannot be read as a tar file: {error}") from None
        if key is not None:
            yield key, parts

    @staticmethod
    def _record(key: str, parts: Mapping[str, bytes]) -> dict[str, Any]:
        record: dict[str, Any] = {"id": key}
        if "json" in parts:
            content = json.loads(parts["json"])
            if not isinstance(content, dict):
                raise ValueError("its json member holds no object")
            # How the image was called before it became a member is no place to look for it.
            record |= {name: value for name, value in content.items() if name not in IMAGE_COLUMNS}
        for name in ("id", "question", "prompt", "level", "tags"):
            content = parts.get(f"{name}.txt", parts.get(name))
            if content is not None:
                record[name] = content.decode("utf-8").strip()
        image = next((suffix for suffix in parts if f".{suffix.rpartition('.')[2]}" in image_suffixes()), None)
        if image is not None:
            record["image"] = {"bytes": parts[image], "path": f"{key}.{image}"}
        return record

    def describe(self) -> dict[str, Any]:
        return {"rows": self.path.name, "size": self.path.stat().st_size}


class DatasetRows:
    """Rows of a dataset on the Hub, which are streamed, or of one that `save_to_disk` wrote."""

    holds_images = True

    def __init__(self, name: str, image_folder: str | None = None):
        with needs_extra(EXTRA, "reading datasets", "datasets"):
            import datasets

            from trainers.opening import open_dataset
        self.name = name
        self.folder = Path("." if image_folder is None else image_folder).expanduser()
        path, split = name, None
        if not os.path.isdir(os.path.expanduser(name)) and ":" in name:
            path, _, split = name.rpartition(":")
        local = os.path.isdir(os.path.expanduser(path))
        self.commit = None if local else _dataset_commit(path)
        options = {} if self.commit is None else {"revision": self.commit}
        try:
            loaded = open_dataset(path, split=split, streaming=True, **options)
            if isinstance(loaded, dict):
                if split is None and len(loaded) == 1:
                    split = next(iter(loaded))
                if split not in loaded:
                    raise ValueError(f"choose a split as NAME:SPLIT; there are {', '.join(map(str, loaded))}")
                loaded = loaded[split]
        except Exception as error:  # whatever the Hub, or a file of it, has to say
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{name!r} can't be read as a dataset: {reason}") from error
        columns = loaded.column_names
        if columns is not None and not set(columns) & {*IMAGE_COLUMNS, "messages"}:
            raise ValueError(_no_image_column(name, columns))
        if columns is not None and loaded.features is not None:
            loaded = loaded.select_columns([column for column in columns if column in _columns()])
            undecoded = datasets.Image(decode=False)
            for column, feature in loaded.features.items():
                # Undecoded, so that a broken image is one row's problem.
                if isinstance(feature, datasets.Image):
                    loaded = loaded.cast_column(column, undecoded)
                elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
                    loaded = loaded.cast_column(column, datasets.List(undecoded))
        self._rows = loaded
        self._split = split
        self._fingerprint = getattr(loaded, "_fingerprint", None) if local else None
        splits = getattr(loaded.info, "splits", None) or {}
        number = len(loaded) if hasattr(loaded, "__len__") else getattr(splits.get(split), "num_examples", None)
        self.total: int | None = number or None

    def __iter__(self) -> Iterator[Row]:
        for number, record in enumerate(self._rows):
            yield from read_record(record, number, f"{self.name}#{number}", self.folder)

    def describe(self) -> dict[str, Any]:
        return {"dataset": self.name, "split": self._split, "revision": self.commit, "rows": self.total}


def _dataset_commit(name: str) -> str | None:
    """The commit that a Hub dataset has now, so that a run that goes on reads the same rows; None without the Hub."""
    import huggingface_hub

    try:
        return huggingface_hub.HfApi().dataset_info(name).sha
    except Exception:  # offline, or no such dataset, which opening it tells better
        return None


# --- All of it ---


def open_input(argument: str, image_folder: str | None = None) -> Source:
    """
    What a command line's argument stands for: a file or an address of an image, a folder, a pattern, a file of rows, a
    shard, or `hub:NAME[:SPLIT]`.

    Raises:
        ValueError, OSError: there is no such thing, or nothing in it.
    """
    if argument.startswith("hub:"):
        return DatasetRows(argument.removeprefix("hub:"), image_folder)
    if is_address(argument) or argument[:5].lower() == "file:":
        return Files(argument, [argument])
    path = os.path.expanduser(argument)
    if os.path.isdir(path):
        return _open_folder(argument, image_folder)
    if not os.path.lexists(path) and len(path) <= _LONGEST_NAME and glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True))
        if not found:
            raise FileNotFoundError(f"no file matches {argument}")
        return _Several(argument, found, image_folder)
    suffix = os.path.splitext(path)[1].lower()
    if suffix in ROW_SUFFIXES or path.endswith(("/", os.sep)):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file or folder {argument}")
        if suffix == ".parquet":
            return ParquetFile(argument, image_folder)
        return (TarShard if suffix == ".tar" else RowFile)(argument, image_folder)
    return Files(argument, [argument])


def _open_folder(argument: str, image_folder: str | None) -> Source:
    path = os.path.expanduser(argument)
    if any(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_dict.json")):
        return DatasetRows(argument, image_folder)
    names = find_images(path)
    if not names:
        others = sorted({os.path.splitext(name)[1].lower() for name in os.listdir(path)} & set(ROW_SUFFIXES))
        hint = f"; for its rows, give '{os.path.join(argument, '*' + others[0])}'" if others else ""
        raise ValueError(f"the folder {argument} holds no image{hint}")
    return Files(argument, names)


class _Several:
    """What a pattern finds: files of images together, rows file by file."""

    def __init__(self, name: str, found: Sequence[str], image_folder: str | None):
        self.name = name
        self.parts: list[Source] = []
        images: list[str] = []
        for path in found:
            if os.path.isdir(path):
                images += find_images(path) if not path.endswith(os.sep) else []
                continue
            if os.path.splitext(path)[1].lower() in ROW_SUFFIXES:
                if images:
                    self.parts.append(Files(name, images))
                    images = []
                self.parts.append(open_input(glob.escape(path) if glob.has_magic(path) else path, image_folder))
            else:
                images.append(path)
        if images:
            self.parts.append(Files(name, images))
        if not self.parts:
            raise ValueError(f"what matches {name} holds no image")
        totals = [part.total for part in self.parts]
        self.total = None if None in totals else sum(total or 0 for total in totals)
        self.holds_images = any(part.holds_images for part in self.parts)

    def __iter__(self) -> Iterator[Row]:
        for part in self.parts:
            yield from part

    def describe(self) -> dict[str, Any]:
        return {"pattern": self.name, "parts": [part.describe() for part in self.parts]}


def read_prompts(file: str) -> list[Prompt]:
    """
    The questions of a file: JSON Lines with `prompt` and, if they are its own, `tags`, `level` and `id` (by the suffix
    `.jsonl`), or else a prompt a line.

    Raises:
        ValueError, OSError: there is none, or a line cannot be read; it is named.
    """
    path = Path(file).expanduser()
    questions: list[Prompt] = []
    if path.suffix.lower() == ".jsonl":
        for number, record in read_lines(path):
            unknown = sorted(set(record) - {"prompt", "tags", "level", "id"})
            if unknown or not isinstance(record.get("prompt"), str) or not record["prompt"].strip():
                raise ValueError(
                    f"{file}, line {number}: expected `prompt`, and maybe `tags`, `level` and `id`, got {list(record)}"
                )
            try:
                (question,) = _find_questions(record)
            except ValueError as error:
                raise ValueError(f"{file}, line {number} {error}") from None
            name = record.get("id")
            if name is not None and not isinstance(name, (str, int)):
                raise ValueError(f"{file}, line {number}: `id` must be a string or a number, got {name!r:.40}")
            questions.append(question.over(Prompt(id=len(questions) if name is None else name)))
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from None
        questions = [Prompt(line.strip()) for line in lines if line.strip()]
        questions = [question.over(Prompt(id=number)) for number, question in enumerate(questions)]
    if not questions:
        raise ValueError(f"{file} holds no prompt")
    names = [str(question.id) for question in questions]
    if len(set(names)) < len(names):
        raise ValueError(f"{file}: several prompts have the id {max(names, key=names.count)!r}")
    return questions


class Inputs:
    """
    All that is asked.

    Args:
        sources (`Sequence[Source]`): Where images come from, in this order.
        default ([`Prompt`]): What is asked about images whose own input leaves that open.
        prompts (`Sequence[Prompt]`, *optional*): All asked about every image, in place of its own input's question.
        no_tags (`bool`, *optional*, defaults to `False`): Whether the tag sentence is left out everywhere.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        default: Prompt | None = None,
        prompts: Sequence[Prompt] = (),
        no_tags: bool = False,
    ):
        self.sources = list(sources)
        self.default = default or Prompt()
        self.prompts = list(prompts)
        self.no_tags = no_tags
        self._drawings: Sequence[str] | None = None

    @property
    def total(self) -> int | None:
        """How many rows there are, where that is known."""
        totals = [source.total for source in self.sources]
        return None if None in totals else sum(total or 0 for total in totals)

    def requests(self) -> Iterator[Request]:
        """Every question about every image."""
        number, image, before = 0, -1, None
        for row_number, row in enumerate(row for source in self.sources for row in source):
            # The questions of a conversation share what holds their image.
            image += row.source is None or row.source is not before
            before = row.source
            key = str(row.source) if isinstance(row.source, (str, Path)) else image
            for question in self._questions(row):
                name = row.id if question.id is None else f"{row.id}#{question.id}"
                drawing = None if self._drawings is None else self._drawings[number]
                asked = Row(name, row.image, row.source, row.question, row.error)
                yield Request(number, row_number, key, asked, question, drawing)
                number += 1

    def _questions(self, row: Row) -> Iterator[Prompt]:
        for prompt in self.prompts or [row.question]:
            own = prompt if not self.prompts else prompt.over(Prompt(tags=row.question.tags))
            asked = own.over(self.default)
            tags = False if self.no_tags else asked.tags
            yield Prompt(asked.prompt, tags, asked.level or "auto", asked.id)

    def draw_to(self, name: Callable[[Sequence[str]], Sequence[Any]]) -> None:
        """
        Have every answer drawn to a file of its own.

        Args:
            name (`Callable`): Gives files for the names of images.

        Raises:
            ValueError: the images have no names of their own.
        """
        for source in self.sources:
            if source.holds_images:
                raise ValueError(f"--draw names drawings after files, and {source.name} holds its images itself")
        names = [
            str(request.row.source) if isinstance(request.row.source, (str, Path)) else request.row.image
            for request in self.requests()
        ]
        self._drawings = [str(file) for file in name(names)]

    def describe(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        return {
            "inputs": [source.describe() for source in self.sources],
            "prompt": self.default.prompt,
            "tags": self.default.tags,
            "level": self.default.level,
            "prompts_file": [
                [question.prompt, question.tags, question.level, question.id] for question in self.prompts
            ],
            "no_tags": self.no_tags,
        }
