"""Rows of a benchmark, from the Hub or from a local folder, read as examples."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from PIL import Image
from tqdm import tqdm

from lion_multimodal.evaluation.benchmark import Benchmark, Example, HubDataset
from lion_multimodal.evaluation.benchmarks.row import ImageCell, Row, decode_image
from trainers.json_lines import read_lines
from trainers.record import RECORD_ERRORS, describe_problem


logger = logging.getLogger(__name__)

ANNOTATION_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
"""Kinds of annotation files that a local folder may hold."""

IMAGE_FOLDER = "images"
"""Folder below a benchmark's local folder that file names of images are relative to."""

_ID_COLUMNS = ("question_id", "questionId", "id", "index", "image_id", "img_id", "imgid", "cocoid", "filename")


class DataUnavailableError(ValueError):
    """A benchmark's dataset is not there, cannot be read, or lacks columns."""


class Examples(Sequence[Example]):
    """
    The examples of a benchmark, in the order of its rows.

    Attributes:
        benchmark: the benchmark.
        source: where they come from: dataset, configuration, split, revision and fingerprint on the Hub, or folder,
            files and their SHA-256.
        unusable: what was left out: `{"row": number from 0, "id": name, "reason": text}`.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        examples: Sequence[Example],
        source: dict[str, Any],
        unusable: list[dict[str, Any]],
    ) -> None:
        self.benchmark = benchmark
        self.source = source
        self.unusable = unusable
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        return self._examples[index]


def read_examples(
    benchmark: Benchmark, data_dir: str | os.PathLike | None = None, limit: int | None = None
) -> Examples:
    """
    Read the examples of a benchmark.

    Rows that cannot be used are left out, with a warning each, and are listed in `unusable`.

    Args:
        benchmark: the benchmark.
        data_dir: folder with a folder for each benchmark, `DATA_DIR/NAME`, that holds the annotation file (parquet,
            jsonl, json, csv or tsv, its columns those of one of the benchmark's sources) and, where images are not
            embedded, the folder `images`. By default, rows come from the Hub.
        limit: read no more examples than that.

    Raises:
        DataUnavailableError: the dataset or a column that is needed is not there.
        ValueError: `limit` is not positive.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if data_dir is None:
        dataset, table = _read_hub(benchmark)
    else:
        dataset, table = _read_local(benchmark, Path(data_dir), limit is not None)
    examples: list[Example] = []
    unusable: list[dict[str, Any]] = []
    rows_by_id: dict[str, int] = {}
    title = f"{benchmark.name}: reading"
    for row in tqdm(table.rows(), title, len(table), unit="row", leave=False, disable=not sys.stderr.isatty()):
        try:
            found = list(dataset.read_row(row))
            for example in found:
                _check_text(example)
        except RECORD_ERRORS as error:
            _leave_out(unusable, table.name, row.number, _row_id(row), describe_problem(error))
            continue
        for example in found:
            if example.id in rows_by_id:
                reason = f"its id is that of row {rows_by_id[example.id]} as well"
                _leave_out(unusable, table.name, row.number, example.id, reason)
                continue
            rows_by_id[example.id] = row.number
            examples.append(replace(example, tags=_row_tags(row)) if example.tags is None else example)
        if limit is not None and len(examples) >= limit:
            break
    if not examples:
        reason = f" (the first: row {unusable[0]['row']}: {unusable[0]['reason']})" if unusable else ""
        raise DataUnavailableError(f"{table.name} has no row that {benchmark.name} can use{reason}")
    return Examples(benchmark, examples[:limit], table.source, unusable)


def load_image(example: Example) -> Image.Image:
    """
    The image of an example, decoded as LION's processor does, in RGB.

    Raises:
        ValueError: it is missing or cannot be decoded; names the example.
    """
    try:
        return decode_image(example.image)
    except ValueError as error:
        reason = str(error).removeprefix("the image cannot be read: ")
        raise ValueError(f"the image of {example.id} cannot be read: {reason}") from error


def _check_text(example: Example) -> None:
    """What JSON calls `"\\ud83d"`, half of a pair, is no character: no tokenizer takes it, and no file in UTF-8."""
    asked: dict[str, Any] = {"id": example.id, "image": example.image_id, "question": example.instruction}
    asked |= {"candidates": example.candidates, "tags": example.tags, **example.metric_inputs}
    for name, value in asked.items():
        try:
            json.dumps(value, ensure_ascii=False, default=repr).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name!r} holds a lone surrogate, \\u{ord(error.object[error.start]):04x}, which is no character"
            ) from None


def _leave_out(unusable: list[dict[str, Any]], name: str, number: int, identifier: str, reason: str) -> None:
    unusable.append({"row": number, "id": identifier, "reason": reason})
    logger.warning("%s, row %d (%s) is left out: %s", name, number, identifier, reason)


def _row_id(row: Row) -> str:
    for column in _ID_COLUMNS:
        if isinstance(row.get(column), str | int):
            return str(row[column])
    return f"row {row.number}"


def _row_tags(row: Row) -> str | None:
    tags = row.get("tags")
    if isinstance(tags, str):
        return tags
    if isinstance(tags, Sequence) and all(isinstance(tag, str) for tag in tags):
        return ", ".join(tags)
    return None


class _ParquetRows:
    """
    The rows of Parquet files, read a few at a time: for those who want the first ones alone.

    Args:
        files: the files.
    """

    batch_size = 32

    def __init__(self, files: Sequence[Path]) -> None:
        from pyarrow.parquet import ParquetFile

        self.files = [ParquetFile(path) for path in files]
        self.column_names = list(self.files[0].schema_arrow.names)

    def __len__(self) -> int:
        return sum(file.metadata.num_rows for file in self.files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for file in self.files:
            for batch in file.iter_batches(self.batch_size):
                yield from batch.to_pylist()


class _Table:
    """
    Rows without their images, which stay where they are until they are asked for.

    Args:
        name: what messages call it.
        data: a `datasets.Dataset`, a list of rows, or [`_ParquetRows`].
        source: as in `Examples`.
        image_folder: as in `Row`.
    """

    def __init__(self, name: str, data: Any, source: dict[str, Any], image_folder: Path | None = None) -> None:
        import datasets

        self.name = name
        self.source = source
        self.image_folder = image_folder
        self.present: dict[str, Any] = {}
        self.joined: dict[str, tuple[Any, str, dict[str, int], str]] = {}
        if isinstance(data, datasets.Dataset):
            for column, feature in data.features.items():
                if isinstance(feature, datasets.Image):
                    data = data.cast_column(column, datasets.Image(decode=False))
                elif not (isinstance(feature, dict) and set(feature) == {"bytes", "path"}):
                    if getattr(feature, "dtype", None) not in ("binary", "large_binary"):
                        continue
                self.present[column] = data.data.column(column).is_valid().to_numpy()
            self.light = data.remove_columns(list(self.present))
        else:
            self.light = data
        self.data = data

    @property
    def columns(self) -> set[str]:
        """All columns; of a list, those of any of its rows."""
        if isinstance(self.data, list):
            return set().union(*self.data)
        return set(self.data.column_names)

    def join(self, table: _Table, key: str, row_key: str, column: str) -> None:
        """Take the images of another table: `column` of the row there whose `key` is this one's `row_key`."""
        keys = table.data[key] if not isinstance(table.data, list) else [row[key] for row in table.data]
        self.joined[column] = (table, row_key, {str(value): index for index, value in enumerate(keys)}, column)

    def __len__(self) -> int:
        return len(self.data)

    def row(self, index: int) -> Row:
        return self._row(index, self.light[index])

    def _row(self, index: int, found_values: Mapping[str, Any]) -> Row:
        values = dict(found_values)
        for column, present in self.present.items():
            values[column] = ImageCell(self.data, column, index) if present[index] else None
        for column, (table, row_key, indices, key_column) in self.joined.items():
            found = indices.get(str(values.get(row_key)))
            values[column] = None if found is None else table.row(found)[key_column]
        return Row(values, index, self.image_folder, None if isinstance(self.data, _ParquetRows) else self.data)

    def rows(self) -> Iterator[Row]:
        if isinstance(self.data, _ParquetRows):
            return (self._row(index, values) for index, values in enumerate(self.data))
        return (self.row(index) for index in range(len(self)))


def _read_hub(benchmark: Benchmark) -> tuple[HubDataset, _Table]:
    reasons: list[str] = []
    for dataset in benchmark.sources:
        if dataset.local_only:
            continue
        try:
            return dataset, _load_from_hub(dataset)
        except DataUnavailableError as error:
            reasons.append(str(error))
            logger.warning("%s: %s", benchmark.name, error)
    hints = [f"{dataset.path}: {dataset.note}" for dataset in benchmark.sources if dataset.local_only]
    if not reasons:
        raise DataUnavailableError(
            f"{benchmark.name} is read from a local folder only; give one with --data-dir ({'; '.join(hints)})"
        )
    raise DataUnavailableError(f"{benchmark.name} cannot be read from the Hub: {'; '.join(reasons)}")


def _load_from_hub(dataset: HubDataset) -> _Table:
    table = _load_hub_table(dataset, dataset.name, dataset.split)
    images = dataset.image_table
    needed = {*dataset.columns} if images is None else {*dataset.columns} - {images.column} | {images.row_key}
    _check_columns(table, needed)
    if images is not None:
        image_rows = _load_hub_table(dataset, images.name, images.split)
        _check_columns(image_rows, {images.key, images.column})
        table.join(image_rows, images.key, images.row_key, images.column)
        table.source["pictures"] = image_rows.source
    return table


def _load_hub_table(dataset: HubDataset, name: str | None, split: str) -> _Table:
    import datasets

    from trainers.opening import open_dataset

    full_name = f"{dataset.path}{f' ({name})' if name else ''}, split {split}"
    try:
        data = open_dataset(dataset.path, name, split, data_dir=dataset.folder, revision=dataset.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        message = " ".join(str(error).split())
        raise DataUnavailableError(f"the dataset {full_name} is not available: {message}") from error
    # The cache keeps the datasets of the Hub in folders that are named after their commits.
    commits = [re.search(r"[/\\]([0-9a-f]{40})[/\\]", file["filename"]) for file in data.cache_files]
    source = {
        "dataset": dataset.path,
        "config": name,
        "split": split,
        "revision": commits[0].group(1) if commits and commits[0] else dataset.revision,
        "fingerprint": data._fingerprint,
        "rows": len(data),
    }
    return _Table(full_name, data, source)


def _check_columns(table: _Table, needed: set[str]) -> None:
    if missing := sorted(needed - table.columns):
        raise DataUnavailableError(
            f"{table.name} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"it has {', '.join(sorted(table.columns))}"
        )


def _read_local(benchmark: Benchmark, data_dir: Path, first_rows: bool = False) -> tuple[HubDataset, _Table]:
    folder = data_dir / benchmark.name
    if not folder.is_dir():
        raise DataUnavailableError(f"{benchmark.name}: there is no folder {folder}")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in ANNOTATION_SUFFIXES)
    if not files:
        raise DataUnavailableError(
            f"{benchmark.name}: {folder} holds no annotation file ({', '.join(ANNOTATION_SUFFIXES)})"
        )
    source = {
        "folder": str(folder),
        "files": [path.name for path in files],
        "sha256": _sha256(files),
    }
    contents = {path.name: _read_json(path) for path in files if path.suffix == ".json"}
    if contents and len(contents) == len(files):
        for dataset in benchmark.sources:
            rows = None if dataset.unpack is None else _unpack(folder, dataset, contents)
            if rows is not None:
                return dataset, _local_table(folder, rows, dataset, source)
    image_names = {dataset.image_table.name for dataset in benchmark.sources if dataset.image_table}
    image_paths = [path for path in files if path.stem.split("-0")[0] in image_names]
    rows = _read_files([path for path in files if path not in image_paths], first_rows)
    table = _Table(str(folder), rows, source)
    image_rows = _Table(f"{folder} (images)", _read_files(image_paths), {}) if image_paths else None
    reasons = []
    for dataset in benchmark.sources:
        try:
            images = dataset.image_table
            if images is None or image_rows is None:
                _check_columns(table, {*dataset.columns} - ({images.column} if images else set()))
            else:
                _check_columns(table, {*dataset.columns} - {images.column} | {images.row_key})
                _check_columns(image_rows, {images.key, images.column})
        except DataUnavailableError as error:
            reasons.append(f"as {dataset.path}: {error}")
            continue
        found = _local_table(folder, table.data, dataset, source)
        if images is not None and image_rows is not None:
            image_rows.image_folder = folder / IMAGE_FOLDER
            found.join(image_rows, images.key, images.row_key, images.column)
        return dataset, found
    raise DataUnavailableError(f"{benchmark.name}: no schema fits. {'. '.join(dict.fromkeys(reasons))}")


def _unpack(folder: Path, dataset: HubDataset, contents: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    assert dataset.unpack is not None
    try:
        return dataset.unpack(contents)
    except RECORD_ERRORS as error:
        raise DataUnavailableError(f"{folder} is not like {dataset.path}: {describe_problem(error)}") from error


def _local_table(folder: Path, data: Any, dataset: HubDataset, source: dict[str, Any]) -> _Table:
    source = {**source, "schema": dataset.path, "rows": len(data)}
    return _Table(str(folder), data, source, folder / IMAGE_FOLDER)


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _read_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte-order mark is no part of it
        return json.loads(text)
    except OSError as error:
        raise DataUnavailableError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        try:
            return _jsonl_rows(path)  # POPE's files hold an object a line, although their names end in .json
        except ValueError:
            raise DataUnavailableError(f"{path} cannot be read: {error}") from error


def _read_files(files: Sequence[Path], first_rows: bool = False) -> Any:
    """
    The rows of annotation files of one kind: of Parquet files a `Dataset`, which makes an Arrow file of all of them
    first, or [`_ParquetRows`] where only the first ones are wanted; else a list.
    """
    suffixes = {path.suffix for path in files}
    if len(suffixes) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise DataUnavailableError(f"the annotation files must be of one kind, got {names}")
    if suffixes == {".parquet"}:
        import datasets

        try:
            if first_rows:
                return _ParquetRows(files)
            return datasets.Dataset.from_parquet([str(path) for path in files])
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise DataUnavailableError(f"{files[0].parent} cannot be read: {error}") from error
    return [row for path in files for row in _READERS[path.suffix](path)]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    rows = _read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise DataUnavailableError(f"{path} must hold a list of objects")
    return rows


def _jsonl_rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [row for _, row in read_lines(path)]
    except ValueError as error:
        raise DataUnavailableError(str(error)) from error


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    # MMBench's tables hold images in base64.
    csv.field_size_limit(2**31 - 1)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter=delimiter))
    except (OSError, ValueError, csv.Error) as error:
        raise DataUnavailableError(f"{path} cannot be read: {error}") from error
    # Cells are text; those that are lists or numbers in other formats are written as JSON.
    return [{key: _csv_value(value) for key, value in row.items() if key} for row in rows]


def _csv_value(value: str | None) -> Any:
    if value is None or value == "":
        return None
    if value[0] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


_READERS = {".json": _json_rows, ".jsonl": _jsonl_rows, ".csv": _csv_rows, ".tsv": _csv_rows}
