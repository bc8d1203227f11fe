"""
Files of weights: official ones read tensor by tensor, ours written file by file.

Mapped pages of a file count as a process's memory for as long as the mapping lives. So readers give theirs up again and
again.
"""

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainers.atomic import atomic_directory


logger = logging.getLogger(__name__)

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_MIN_FREE = 64 * 2**20
_WRAPPERS = ("model", "state_dict")
# Read anew after so many bytes: a mapping keeps every page in memory that was touched.
_BYTES_PER_MAPPING = 256 * 2**20


@dataclass(frozen=True)
class TensorInfo:
    """Shape and type of a tensor in a file."""

    shape: torch.Size
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


class WeightFile:
    """A file of named tensors. `tensors` describes them, `read` gives one."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.tensors = self._describe()

    def _describe(self) -> dict[str, TensorInfo]:
        raise NotImplementedError

    def read(self, name: str) -> torch.Tensor:
        """The tensor, which may be a view of the file: copy what is to be kept."""
        raise NotImplementedError

    def release(self) -> None:
        """Give back the memory that reading took."""


class SafetensorsFile(WeightFile):
    """A safetensors file, opened for every tensor."""

    def _describe(self) -> dict[str, TensorInfo]:
        tensors = {}
        with self._open() as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                view = file.get_slice(name)
                if view.get_dtype() not in _DTYPES:
                    raise ValueError(f"{self.path}: {name} is of the type {view.get_dtype()}, which LION does not know")
                tensors[name] = TensorInfo(torch.Size(view.get_shape()), _DTYPES[view.get_dtype()])
        return tensors

    def read(self, name: str) -> torch.Tensor:
        with self._open() as file:
            return file.get_tensor(name)

    def metadata(self) -> dict[str, str]:
        with self._open() as file:
            return file.metadata() or {}

    def _open(self) -> Any:
        try:
            return safe_open(self.path, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{self.path} is not a whole safetensors file: {error}") from error


class PickleFile(WeightFile):
    """
    A file that `torch.save` wrote: a state dict, or one under `"model"` or `"state_dict"` beside an optimiser and the
    like, which are left alone. Nothing in it is executed.

    Files of the zip format (since torch 1.6) are mapped. Older ones can only be read as a whole; `release` drops them.
    """

    def __init__(self, path: str | os.PathLike):
        self._state_dict: Mapping[str, torch.Tensor] | None = None
        self._bytes_read = 0
        self._mapped = zipfile.is_zipfile(path)
        super().__init__(path)

    def _describe(self) -> dict[str, TensorInfo]:
        tensors = {}
        for name, value in self._load().items():
            if not isinstance(value, torch.Tensor):
                raise ValueError(f"{self.path}: {name} is no tensor but {type(value).__name__}")
            tensors[name] = TensorInfo(value.shape, value.dtype)
        self.release()
        return tensors

    def read(self, name: str) -> torch.Tensor:
        tensor = self._load()[name]
        self._bytes_read += self.tensors[name].num_bytes
        if self._mapped and self._bytes_read > _BYTES_PER_MAPPING:
            self.release()  # what the caller holds keeps its mapping until it is done with it
        return tensor

    def release(self) -> None:
        self._state_dict, self._bytes_read = None, 0

    def _load(self) -> Mapping[str, torch.Tensor]:
        if self._state_dict is None:
            try:
                content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=self._mapped or None)
            except pickle.UnpicklingError as error:
                raise ValueError(
                    f"{self.path} is not loaded, because it holds more than tensors and plain values, or is damaged: "
                    f"{str(error).partition('. ')[0]}"
                ) from error
            except (RuntimeError, EOFError, struct.error) as error:
                raise ValueError(f"{self.path} is not a whole file of torch.save: {error}") from error
            for wrapper in _WRAPPERS:
                if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
                    content = content[wrapper]
            if not isinstance(content, Mapping):
                raise ValueError(f"{self.path} holds no state dict but {type(content).__name__}")
            self._state_dict = content
        return self._state_dict


def open_weights(path: str | os.PathLike) -> WeightFile:
    """
    A file of weights, by its content.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is neither of safetensors nor of `torch.save`, or damaged, or not safe to load.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        start = file.read(9)
    # Eight bytes of length, then a JSON object.
    return SafetensorsFile(path) if start[8:] == b"{" else PickleFile(path)


def find_weights(directory: str | os.PathLike) -> list[Path]:
    """
    The files of weights that transformers would load from `directory`, shards in their order; none if there are none.

    Raises:
        ValueError: an index names files that are not there.
    """
    directory = Path(directory)
    for single in (_SINGLE, "pytorch_model.bin"):
        index = directory / f"{single}.index.json"
        if index.is_file():
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            shards = [directory / name for name in sorted(set(weight_map.values()))]
            lacking = [shard.name for shard in shards if not shard.is_file()]
            if lacking:
                raise ValueError(f"{directory} lacks {', '.join(lacking)}, named in {index.name}")
            return shards
        if (directory / single).is_file():
            return [directory / single]
    return []


def write_safetensors(
    path: str | os.PathLike,
    tensors: Mapping[str, TensorInfo],
    read: Callable[[str], torch.Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """
    Write one safetensors file, whose tensors are in memory at the same time.

    Args:
        path (`str` or `os.PathLike`): The file, replaced if it exists.
        tensors (`Mapping[str, TensorInfo]`): What goes in.
        read (`Callable[[str], torch.Tensor]`): Gives a tensor by its name, of that shape and type.
        metadata (`Mapping[str, str]`, *optional*): Goes beside the format's `{"format": "pt"}`.
    """
    values = {}
    for name, info in tensors.items():
        tensor = read(name).detach()
        if TensorInfo(tensor.shape, tensor.dtype) != info:
            raise ValueError(f"{name} is not {info}, as announced, but {tensor.shape} of {tensor.dtype}")
        # A part of something larger would keep it in memory, and the format knows no shared tensors.
        is_part = tensor.untyped_storage().nbytes() != info.num_bytes
        values[name] = tensor.clone(memory_format=torch.contiguous_format) if is_part else tensor.contiguous()
    save_file(values, path, {"format": "pt", **(metadata or {})})


def write_shards(
    directory: str | os.PathLike,
    tensors: Mapping[str, TensorInfo],
    read: Callable[[str], torch.Tensor],
    max_shard_size: int,
) -> list[str]:
    """
    Write `model.safetensors`, or shards and `model.safetensors.index.json`, as transformers names them.

    Args:
        directory (`str` or `os.PathLike`): Where; it exists.
        tensors, read: As in [`write_safetensors`].
        max_shard_size (`int`): Bytes of tensors in a file, unless a single one is larger.

    Returns:
        `list[str]`: the names of the files of tensors.
    """
    directory = Path(directory)
    split = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda info: info.num_bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    for file, names in split.filename_to_tensors.items():
        write_safetensors(directory / file, {name: tensors[name] for name in names}, read)
        logger.info("Wrote %s with %d tensors.", file, len(names))
    if split.is_sharded:
        parameters = sum(info.shape.numel() for info in tensors.values())
        index = {
            "metadata": {"total_parameters": parameters, **split.metadata},
            "weight_map": split.tensor_to_filename,
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (directory / _INDEX).write_text(text, encoding="utf-8")
    return list(split.filename_to_tensors)


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The values of a tensor as they stand in a safetensors file."""
    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def checksum(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's values."""
    return hashlib.sha256(as_bytes(tensor)).hexdigest()


def parse_size(text: str) -> int:
    """
    Bytes of `"5GB"`, `"500 MB"` or `"2GiB"`.

    Raises:
        ValueError: it is no such size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B", text.strip(), re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise ValueError(f"a size such as 5GB or 500MB was expected, got {text!r:.100}")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def release(files: Iterable[WeightFile]) -> None:
    """Give back the memory that reading `files` took."""
    for file in files:
        file.release()


def stored_tensors(directory: Path) -> tuple[dict[str, WeightFile], list[str]]:
    """By name of the parameter, the file of a checkpoint that it is in; and what is there twice."""
    files: dict[str, WeightFile] = {}
    problems = []
    for path in find_weights(directory):
        file = open_weights(path)
        problems += [f"twice: {name}" for name in file.tensors if name in files]
        files |= dict.fromkeys(file.tensors, file)
    return files, problems


@contextmanager
def new_directory(directory: str | os.PathLike, num_bytes: int = 0) -> Iterator[Path]:
    """
    A directory that gets its name when it is complete: until then, and after an error, there is none.

    What an interrupted run has left under the name with `.partial` is replaced.

    Raises:
        FileExistsError: there is something at that place already.
        OSError: the disk has no room for `num_bytes`.
    """
    with atomic_directory(directory) as partial:
        free = shutil.disk_usage(partial).free
        if free < num_bytes + _MIN_FREE:
            raise OSError(f"{partial.parent} has {free / 1e9:.1f} GB of room, and {num_bytes / 1e9:.1f} GB are needed")
        yield partial


def reveal(unfinished: Path) -> None:
    """Move weights out of a folder to where they are looked for, their index last."""
    for file in sorted(unfinished.iterdir(), key=lambda file: file.suffix == ".json"):
        file.rename(unfinished.parent / file.name)
    unfinished.rmdir()
