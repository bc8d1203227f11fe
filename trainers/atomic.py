"""Files and folders that are there whole or not at all, whenever the process that writes them is killed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


PARTIAL_SUFFIX = ".partial"
"""What unfinished files (before their suffix) and folders have in their names; the next run replaces them."""


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """
    A path beside `path`, with the same suffix, to write a file to. When the block ends, the file is on the disk and
    takes its name; of one that was not written to its end, an earlier `path` is left as it was.

    Args:
        path (`str` or `os.PathLike`): The file; its folder exists.
    """
    path = Path(path)
    partial = path.with_name(f"{path.stem}{PARTIAL_SUFFIX}{path.suffix}")
    try:
        yield partial
        if not partial.stat().st_mode & 0o077:
            _open_to_readers(partial, _mode_of_new_files(partial.parent))
        _flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _flush(path.parent)


@contextmanager
def atomic_directory(path: str | os.PathLike, replace: bool = False) -> Iterator[Path]:
    """
    A new folder beside `path` to write to. When the block ends, all that is in it is on the disk and it takes its name.

    Args:
        path (`str` or `os.PathLike`): The folder; those above it are made if need be.
        replace (`bool`, *optional*, defaults to `False`): Whether an earlier folder is deleted then.

    Raises:
        FileExistsError: there is something at that place, and it is not an empty folder.
    """
    path = Path(path)
    if not replace and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already and is not empty")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for entry in sorted(partial.rglob("*"), reverse=True):  # files before the folders that name them
            _open_to_readers(entry, partial.stat().st_mode)
            _flush(entry)
        _flush(partial)
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)  # also over an empty folder
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _flush(path.parent)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: Any, indent: int = 2) -> None:
    """Write a JSON file in UTF-8, whole or not at all."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """
    What a JSON file holds.

    Raises:
        ValueError: the file is torn or no JSON; it is named.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file, or only a part of one: {error}") from error


def _mode_of_new_files(folder: Path) -> int:
    with TemporaryDirectory(dir=folder) as inner:
        file = Path(inner) / "file"
        file.touch()
        return file.stat().st_mode


def _open_to_readers(file: Path, mode: int) -> None:
    """
    Let those read a file who may read what is made with `mode`: safetensors 0.8 leaves its files to their owner alone,
    so that nobody else could load a checkpoint.
    """
    if not file.is_file() or file.is_symlink():
        return
    before = file.stat().st_mode
    readable = before | (mode & 0o444)
    if readable != before:  # not all file systems know permissions
        file.chmod(readable)


def _flush(path: Path) -> None:
    """To the disk: a name must not get there before the content does."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:  # some file systems have no such thing for folders
        if not path.is_dir():
            raise
    finally:
        os.close(handle)
