"""Which files of a directory make up a repo, and whether they are complete."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any


CARD = "README.md"
CHECKPOINT = "checkpoint"
ADAPTER = "adapter"
CONFIG = {CHECKPOINT: "config.json", ADAPTER: "adapter_config.json"}
WEIGHTS = {CHECKPOINT: "model.safetensors", ADAPTER: "adapter_model.safetensors"}

_SUFFIXES = frozenset({".jinja", ".json", ".md", ".model", ".py", ".safetensors", ".txt"})
_IMAGES = frozenset({".gif", ".jpeg", ".jpg", ".png", ".webp"})
_NAMES = frozenset({"LICENSE", "NOTICE"})
_PICKLED = frozenset({".bin", ".ckpt", ".h5", ".msgpack", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"})
# What a training run leaves behind, with paths, host names and settings of the machine it ran on.
_OF_TRAINING = frozenset(
    {
        "base_figures.json",
        "finetune_result.json",
        "recipe.json",
        "rehearsal.json",
        "stage_result.json",
        "trainer_state.json",
        "training_args.json",
    }
)
_FOLDERS_OF_TRAINING = re.compile(r"checkpoint-\d+|global_step\d+|runs|logs|tags|wandb|tensorboard|.*\.partial")
_INDEX = ".index.json"
_SHARDS = r"(?:-\d+-of-\d+)?\.(?:bin|safetensors)(?:\.index\.json)?"
_ANY_WEIGHTS = {
    CHECKPOINT: re.compile("(?:pytorch_)?model" + _SHARDS),
    ADAPTER: re.compile("adapter_model" + _SHARDS),
}
_RELATIVE_IMPORT = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)


@dataclass(frozen=True)
class Selection:
    """
    The files of a directory that go into a repo.

    Attributes:
        kind: `"checkpoint"` or `"adapter"`.
        files: where they lie, by their paths in the repo.
        left_out: why others do not go, by the same.
    """

    kind: str
    files: Mapping[str, Path]
    left_out: Mapping[str, str] = field(default_factory=dict)


def select(directory: str | os.PathLike) -> Selection:
    """
    The files of a checkpoint's or an adapter's directory that belong into a repo. What training left there does not,
    nor does anything pickled, hidden or of an unknown kind.

    Raises:
        ValueError: the directory holds neither a checkpoint nor an adapter, or an incomplete one.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(f"`directory` must be that of a checkpoint or an adapter, and there is none at {directory}")
    kind = next((kind for kind, config in CONFIG.items() if (directory / config).is_file()), None)
    if kind is None:
        raise ValueError(
            f"`directory` must hold a checkpoint ({CONFIG[CHECKPOINT]}) or an adapter ({CONFIG[ADAPTER]}), and "
            f"{directory} holds neither"
        )
    files, left_out = {}, {}
    for path in _walk(directory):
        name = path.relative_to(directory).as_posix()
        reason = _reason_to_leave_out(path, directory)
        if reason:
            left_out[name] = reason
        else:
            files[name] = path
    _check_weights(directory, kind, files)
    if kind == CHECKPOINT:
        _check_code(directory, files)
    return Selection(kind, files, left_out)


def read_json(path: Path) -> Any:
    """
    What a JSON file holds.

    Raises:
        ValueError: it is none; the file is named.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path.name} is not JSON in UTF-8") from None


def stale_files(remote: Iterable[str], selection: Selection) -> list[str]:
    """
    The weights in a repo that a new version leaves without a use: of another number of shards, or pickled. The
    libraries might load them in place of the new ones.
    """
    weights = _ANY_WEIGHTS[selection.kind]
    folders = {PurePosixPath(file).parent for file in selection.files if weights.fullmatch(PurePosixPath(file).name)}
    return sorted(
        file
        for file in set(remote) - set(selection.files)
        if PurePosixPath(file).parent in folders and weights.fullmatch(PurePosixPath(file).name)
    )


def read_safetensors_header(path: Path) -> dict[str, Any]:
    """
    Names, shapes and types of a file's tensors, and its `__metadata__`.

    Raises:
        ValueError: it is no such file, or it ends too early.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length >= size:
                raise ValueError
            header: dict[str, Any] = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (struct.error, ValueError, AttributeError, KeyError, TypeError):
        raise ValueError(f"{path.name} is not a complete safetensors file") from None
    if size != 8 + length + max(ends, default=0):
        raise ValueError(f"{path.name} is not a complete safetensors file: {size} bytes")
    return header


def _walk(directory: Path) -> Iterator[Path]:
    """All files in sorted order; the folders of training runs, and linked ones, as a whole."""
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if not path.is_dir() or path.is_symlink() or _FOLDERS_OF_TRAINING.fullmatch(path.name):
            yield path
        else:
            yield from _walk(path)


def _reason_to_leave_out(path: Path, directory: Path) -> str | None:
    if path.is_symlink() and not _stays_inside(path, directory):
        return "a link that leads out of the directory"
    if path.is_dir():
        return "a link to a folder" if path.is_symlink() else "a training run's"
    if not path.exists():
        return "a link that leads nowhere"
    if path.suffix in _PICKLED:
        return "pickled, or not known to be free of pickles"
    if ".partial" in path.suffixes:
        return "unfinished"
    if path.name in _OF_TRAINING or ".tfevents." in path.name:
        return "a training run's"
    if path.name in _NAMES or path.suffix in _SUFFIXES or path.suffix in _IMAGES:
        return None
    return "of a kind that no checkpoint needs"


def _stays_inside(path: Path, directory: Path) -> bool:
    """Whether a link leads to a place in the directory, or to where the Hub's cache keeps a snapshot's files."""
    target, root = path.resolve(), directory.resolve()
    return target.is_relative_to(root) or (
        root.parent.name == "snapshots" and target.parent == root.parent.parent / "blobs"
    )


def read_text(path: Path) -> str:
    """
    What a text file holds.

    Raises:
        ValueError: it is not in UTF-8; the file is named.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        ) from None


def _check_weights(directory: Path, kind: str, files: Mapping[str, Path]) -> None:
    name = WEIGHTS[kind]
    if name not in files and f"{name}{_INDEX}" not in files:
        raise ValueError(f"{directory} is incomplete: it has no {name} (weights of other formats are not pushed)")
    for file, path in files.items():
        if path.suffix == ".safetensors":
            read_safetensors_header(path)
        elif file.endswith(_INDEX):
            weight_map = read_json(path).get("weight_map")
            if not weight_map:
                raise ValueError(f"{directory} is incomplete: {file} names no weights")
            folder = PurePosixPath(file).parent
            missing = sorted(shard for shard in set(weight_map.values()) if (folder / shard).as_posix() not in files)
            if missing:
                raise ValueError(f"{directory} is incomplete: {file} names {missing[0]}, which is not there")


def _check_code(directory: Path, files: Mapping[str, Path]) -> None:
    """Whether all code is there that `config.json` names, with what that imports from beside it."""
    config = read_json(directory / CONFIG[CHECKPOINT])
    values = [value for entry in (config.get("auto_map") or {}).values() for value in _names(entry)]
    values += [pipeline["impl"] for pipeline in (config.get("custom_pipelines") or {}).values()]
    # A name of another repo stands in front of `--`: that code does not travel with this one.
    wanted = [f"{value.partition('.')[0]}.py" for value in values if "--" not in value]
    seen: set[str] = set()
    while wanted:
        file = wanted.pop()
        if file in seen:
            continue
        seen.add(file)
        if file not in files:
            raise ValueError(f"{directory} is incomplete: its code needs {file}, which is not there")
        wanted += [f"{module}.py" for module in _RELATIVE_IMPORT.findall(read_text(files[file]))]


def _names(entry: Any) -> list[str]:
    return [entry] if isinstance(entry, str) else [name for name in entry or () if name]
