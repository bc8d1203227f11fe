"""The annotation files of a source, read in a stream. Nothing in them is executed."""

from __future__ import annotations

import io
import json
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers.record import Record


logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 64


class Inputs:
    """
    The files of one form of a source.

    Args:
        files (`Mapping[str, Sequence[Path]]`): By role, in order.
        context (`Mapping[str, Any]`, *optional*): What is known from elsewhere: `held_out`, sets of COCO ids by name.
    """

    def __init__(self, files: Mapping[str, Sequence[Path]], context: Mapping[str, Any] | None = None) -> None:
        self.files = files
        self.context = dict(context or {})

    def json_items(self, role: str, path: str) -> Iterator[Any]:
        """
        The items of a list within JSON files, one after the other, none of the files in memory as a whole.

        Args:
            role (`str`): Which files.
            path (`str`): Where the list is, as `ijson` writes it: `"item"` for a list on its own, `"annotations.item"`
                for one in a field.

        Raises:
            ValueError: a file is no JSON; it is named.
        """
        import ijson

        for file in self.files[role]:
            with file.open("rb") as stream:
                yield from _named(ijson.items(stream, path, use_float=True), file)

    def json_entries(self, role: str) -> Iterator[tuple[str, Any]]:
        """The fields of JSON files that hold one object each, with their values. Raises as [`json_items`]."""
        import ijson

        for file in self.files[role]:
            with file.open("rb") as stream:
                yield from _named(ijson.kvitems(stream, "", use_float=True), file)

    def parquet_rows(self, role: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """
        The rows of Parquet files.

        Args:
            role (`str`): Which files.
            columns (`Sequence[str]`, *optional*): Columns to read; by default all.

        Raises:
            ValueError: a file is not Parquet, or a column is missing; it is named.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        for file in self.files[role]:
            try:
                with pq.ParquetFile(file) as table:
                    if missing := sorted(set(columns or ()) - set(table.schema_arrow.names)):
                        raise ValueError(f"lacks the columns {missing}; it has {table.schema_arrow.names}")
                    for batch in table.iter_batches(_ROWS_AT_ONCE, columns=columns and list(columns)):
                        yield from batch.to_pylist()
            except (pa.ArrowException, ValueError) as error:
                raise ValueError(f"{file} cannot be read: {error}") from error

    def pickled(self, role: str) -> list[Any]:
        """
        The lists that pickles hold, joined. Only plain containers, numbers and texts are built; a pickle that asks for
        anything else is refused before it gets it.

        Raises:
            ValueError: a file holds something else than a list of plain values.
        """
        return [item for file in self.files[role] for item in _read_list(file)]


def _named(items: Iterator[Any], file: Path) -> Iterator[Any]:
    import ijson

    try:
        yield from items
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no JSON: {' '.join(str(error).split())}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Builds containers, numbers and texts, for which a pickle needs to name no class and no function."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"asks for {module_name}.{global_name}, which is not loaded")


def read_plain_pickle(file: Path) -> Any:
    """
    What a pickle holds, if it is made of plain containers, numbers and texts.

    Raises:
        ValueError: it asks for a class or a function, or is no pickle. Nothing of it has been executed.
    """
    content = file.read_bytes()
    # Those of REFER were written by Python 2: its strings are bytes, in UTF-8 where they aren't ASCII, or in Latin-1.
    for encoding in ("utf-8", "latin-1"):
        try:
            return _PlainUnpickler(io.BytesIO(content), encoding=encoding).load()
        except UnicodeDecodeError:
            continue
        except Exception as error:  # a damaged pickle can raise anything
            raise ValueError(f"{file} is no pickle of plain values: {error}") from error
    raise ValueError(f"{file} is no pickle of plain values")


def _read_list(file: Path) -> list[Any]:
    if file.suffix == ".json":
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is no JSON: {error}") from error
    else:
        content = read_plain_pickle(file)
    if not isinstance(content, list):
        raise ValueError(f"{file} must hold a list, got {type(content).__name__}")
    return content


def numbered(records: Iterator[Any]) -> Iterator[Record]:
    """Records with their numbers; something that is no mapping becomes a record that lacks every field."""
    for number, record in enumerate(records):
        yield Record(record if isinstance(record, Mapping) else {}, number)
