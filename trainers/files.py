"""Small files that are written whole or not at all, and checkpoints that count only when they are complete."""

import json
import logging
import math
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from trainers.atomic import atomic_file


logger = logging.getLogger(__name__)

_CHECKPOINT = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
_WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
# Sharded training writes a folder of shards instead.
_WEIGHT_FOLDERS = ("pytorch_model_fsdp_*", "global_step*")


def write_whole(path: str | os.PathLike, content: str | bytes | Callable[[Path], Any]) -> Path:
    """
    Write a file so that it is there whole or not at all, whenever the process is killed.

    Args:
        path (`str` or `Path`): The file; an earlier one is replaced.
        content (`str`, `bytes` or `Callable`): What to write, or a function that writes it to the path it is given.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def read_result(path: str | os.PathLike) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none, or a torn one, which is then made again."""
    path = Path(path)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, got {type(content).__name__}")
    except ValueError as error:
        logger.warning("%s is torn (%s), and is made again.", path, error)
        return None
    return content


def refuse_earlier_run(directory: str | os.PathLike, result: str) -> None:
    """
    Raises:
        ValueError: `directory` holds checkpoints of a training, or the file `result` of a finished one.
    """
    directory = Path(directory)
    if any(directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*")) or (directory / result).is_file():
        raise ValueError(f"{directory} holds an earlier run: resume it, or choose another `output_dir`.")


def find_last_checkpoint(directory: str | os.PathLike, num_processes: int = 1) -> str | None:
    """
    The newest complete checkpoint of a training. One that was being written when the training was killed is passed
    over (and named).

    Args:
        directory (`str` or `Path`): The training's output directory.
        num_processes (`int`): How many processes go on with it; each of several needs its random state.
    """
    directory = Path(directory)
    steps = [int(m[1]) for m in map(_CHECKPOINT.fullmatch, os.listdir(directory)) if m] if directory.is_dir() else []
    for step in sorted(steps, reverse=True):
        checkpoint = directory / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        problem = find_checkpoint_problem(checkpoint, num_processes)
        if problem is None:
            return str(checkpoint)
        logger.warning("%s is incomplete and is passed over: %s.", checkpoint, problem)
    return None


def find_checkpoint_problem(checkpoint: str | os.PathLike, num_processes: int = 1) -> str | None:
    """What an incomplete checkpoint lacks, or None. Reads the ends of files, no weights."""
    checkpoint = Path(checkpoint)
    # The trainer writes it last.
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())
        if not isinstance(state["global_step"], int):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        return f"{TRAINER_STATE_NAME} is missing or torn"
    if not any((checkpoint / name).is_file() for name in _WEIGHTS) and not any(
        any(checkpoint.glob(pattern)) for pattern in _WEIGHT_FOLDERS
    ):
        return "it holds no weights"
    for file in checkpoint.glob("*.safetensors"):
        if not _is_whole_safetensors(file):
            return f"{file.name} is torn"
    index = checkpoint / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{index.name} is torn"
        missing = sorted(shard for shard in shards if not (checkpoint / shard).is_file())
        if missing:
            return f"{missing[0]} is missing"
    for file in [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]:
        if not zipfile.is_zipfile(file):  # the table of contents of what torch saves stands at its end
            return f"{file.name} is torn"
    saved_states = bool(list(checkpoint.glob("rng_state*.pth")))
    if num_processes > 1 and saved_states:
        for index_ in range(num_processes):
            if not (checkpoint / f"rng_state_{index_}.pth").is_file():
                return f"rng_state_{index_}.pth is missing"
    return None


def _is_whole_safetensors(file: Path) -> bool:
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        size = file.stat().st_size
        if not 0 < length <= size - 8:
            return False
        try:
            header = json.loads(content.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError):
            return False
    return size == 8 + length + max(ends, default=0)


def finished_state(checkpoint: str | os.PathLike, max_steps: int, num_train_epochs: float) -> TrainerState | None:
    """The state of a checkpoint after which no step is left to do; None where there is one."""
    state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
    if max_steps > 0:
        return state if state.global_step >= max_steps else None
    done = state.global_step >= state.max_steps and (state.epoch or 0) >= num_train_epochs - 1e-6
    return state if done and not math.isinf(num_train_epochs) else None
