"""Data sets, whichever way they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets


FILE_FORMATS = {
    ".arrow": "arrow",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".tar": "webdataset",
}
"""Builders of `datasets` by the suffix of a file."""


def open_dataset(name: str, config: str | None = None, split: str | None = None, **options: Any) -> Any:
    """
    Open a directory that `save_to_disk` wrote, a data file or a pattern of data files (see `FILE_FORMATS`), a
    directory of data files, or a data set on the Hub.

    Args:
        name (`str`): Path, pattern or Hub name.
        config (`str`, *optional*): Which of its configurations.
        split (`str`, *optional*): Which of its splits; all of them by default, as a dict.
        options: `streaming`, `revision`, `data_files` and the like, of `datasets.load_dataset`.

    Returns:
        A `Dataset` or `IterableDataset`, or a dict of them.

    Raises:
        FileNotFoundError: `name` can only be a path, and there is nothing.
    """
    path = Path(name).expanduser()
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        saved = datasets.load_from_disk(str(path))
        return saved[split] if isinstance(saved, datasets.DatasetDict) and split in saved else saved
    if path.suffix in FILE_FORMATS and not path.is_dir():
        streaming = options.get("streaming", False)
        return datasets.load_dataset(FILE_FORMATS[path.suffix], data_files=str(path), split=split, streaming=streaming)
    if not path.exists() and (path.is_absolute() or name.startswith((".", "~"))):
        raise FileNotFoundError(f"there is no folder or file {name}")
    return datasets.load_dataset(str(path) if path.is_dir() else name, config, split=split, **options)
