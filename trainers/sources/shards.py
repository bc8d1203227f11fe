"""Files of rows, each written whole or not at all."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol


_ROWS_AT_ONCE = 2000


class _Writer(Protocol):
    def write(self, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class _Jsonl:
    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open("w", encoding="utf-8", errors="backslashreplace")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema(
            {
                "id": pa.string(),
                "image": pa.string(),
                "prompt": pa.string(),
                "completion": pa.list_(pa.string()),
                "level": pa.string(),
                "coco_id": pa.int64(),
            }
        )
        self._table = pa.Table
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(self._table.from_pylist(self._rows, self._schema))
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._file.close()


class _WebDataset:
    """A row is a few members of a tar with the same stem; `datasets` makes a column of what stands behind it."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w")
        self._count = 0

    def write(self, row: dict[str, Any]) -> None:
        image = row["image"]
        texts = {"prompt.txt": row["prompt"], "completion.json": json.dumps(row["completion"], ensure_ascii=False)}
        texts |= {"level.txt": row["level"], "id.txt": row["id"]}
        if row["coco_id"] is not None:
            texts["coco_id.txt"] = str(row["coco_id"])
        else:  # a column has to be there in all rows
            texts["coco_id.txt"] = ""
        # Whatever its format, readers go by its first bytes; a column has one name.
        self._add("jpg", image if isinstance(image, bytes) else Path(image).read_bytes())
        for name, text in texts.items():
            self._add(name, text.encode("utf-8", "backslashreplace"))
        self._count += 1

    def _add(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(f"{self._count:08d}.{name}")
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))

    def close(self) -> None:
        self._tar.close()


FORMATS: dict[str, tuple[str, Callable[[Path], _Writer]]] = {
    "parquet": ("parquet", _Parquet),
    "jsonl": ("jsonl", _Jsonl),
    "webdataset": ("tar", _WebDataset),
}
"""Suffix and writer by format."""


class Shards:
    """
    The rows of one kind and split, in numbered files; an unfinished one has a hidden name.

    Args:
        folder (`Path`): Where they are written.
        split (`str`): The first part of their names, by which `datasets` knows it.
        format (`str`): Among [`FORMATS`].
        count (`int`): How many there are already. Others that are there are removed.
    """

    def __init__(self, folder: Path, split: str, format: str, count: int = 0) -> None:
        self.folder = folder
        self.split = split
        self.suffix, self._open = FORMATS[format]
        self.count = count
        self._writer: _Writer | None = None
        folder.mkdir(parents=True, exist_ok=True)
        kept = {self._path(number).name for number in range(count)}
        for path in [*folder.glob(f"{split}-*"), *folder.glob(f".{split}-*")]:
            if path.name not in kept:
                path.unlink()

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.split}-{number:05d}.{self.suffix}"

    @property
    def _unfinished(self) -> Path:
        return self.folder / f".{self._path(self.count).name}.part"

    def write(self, row: dict[str, Any]) -> None:
        """Add a row to the file that is being written."""
        if self._writer is None:
            self._writer = self._open(self._unfinished)
        self._writer.write(row)

    def finish(self) -> None:
        """Finish the file that is being written, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            os.replace(self._unfinished, self._path(self.count))
            self.count += 1

    def abandon(self) -> None:
        """Leave the file that is being written as it is."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
