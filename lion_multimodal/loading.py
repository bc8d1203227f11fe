"""Checkpoints, loaded whole or refused by name."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any


# Of each, the first one that is there is read.
_PROCESSOR_FILES = (
    ("processor_config.json", "preprocessor_config.json"),
    ("tokenizer.json", "spiece.model"),
    ("qformer_tokenizer/tokenizer.json", "qformer_tokenizer/vocab.txt"),
)


class CheckpointError(ValueError):
    """A checkpoint that is damaged or incomplete; the message names it, and the file if there is one to blame."""


@contextlib.contextmanager
def loading(source: str | os.PathLike) -> Iterator[None]:
    """
    Whatever goes wrong while `source` is loaded is an error that names it. Damaged files show in errors of many types,
    most of which name no file.

    Raises:
        CheckpointError, OSError: something went wrong.
    """
    name = os.fspath(source)
    try:
        yield
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and name in reason:
            raise
        damaged = damaged_files(name)
        if isinstance(error, RuntimeError) and not damaged:
            # transformers 5 says which weights do not fit in its log alone.
            with contextlib.suppress(Exception):
                damaged = weight_problems(name)[:3] or weight_problems(os.path.join(name, "tagger"))[:3]
        if damaged:
            reason = f"{'; '.join(damaged)} ({reason})"
        elif not isinstance(error, (OSError, ValueError)):
            reason = f"{type(error).__name__}: {reason}"
        raise CheckpointError(reason if name in reason else f"{name} cannot be loaded: {reason}") from error


def find_commit(name_or_path: str | os.PathLike, revision: str | None = None, file: str = "config.json") -> str | None:
    """
    The commit of a repo that a revision names now: all parts of a checkpoint are loaded from it, whatever is pushed
    meanwhile. `file` is one that the repo has.

    Returns:
        Its hash; `None` for a directory.

    Raises:
        OSError: there is no checkpoint at that place.
    """
    if Path(name_or_path).is_dir():
        return None
    from transformers.utils import cached_file

    cached = cached_file(os.fspath(name_or_path), file, revision=revision)
    found = re.search(r"/snapshots/([0-9a-f]{40})/", Path(cached or "").as_posix())
    return found.group(1) if found else None


def check_weights(model: Any, source: str | os.PathLike) -> None:
    """
    Raises:
        CheckpointError: the files lack weights of the model, or hold others than it has.
    """
    if problems := model.loading_problems():
        raise CheckpointError(f"{os.fspath(source)} is not whole: {'; '.join(problems)}")


def check_processor(processor: Any, model: Any, source: str | os.PathLike) -> None:
    """
    Raises:
        CheckpointError: the processor makes images of another size than the model reads.
    """
    made, size = processor.image_processor, model.config.vision_config.image_size
    if made.do_resize and made.size != {"height": size, "width": size}:
        raise CheckpointError(
            f"{os.fspath(source)}: `size` of the processor must be {size}, the model's, got {made.size}"
        )


def check_files(directory: str | os.PathLike) -> None:
    """
    Check the files of a LION checkpoint without loading their weights: names and shapes of the weights, tokenizers,
    processor. A directory of something else, or of quantised weights, is not looked at.

    Raises:
        CheckpointError: something is missing, unexpected or of another shape; the message names it.
    """
    from configuration_lion import LionConfig

    directory = Path(directory)
    with loading(directory):
        fields = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        if fields.get("model_type") != LionConfig.model_type:
            return
        problems = weight_problems(directory)
    for alternatives in _PROCESSOR_FILES:
        if not any((directory / file).is_file() for file in alternatives):
            problems.append(f"missing: the file {alternatives[0]}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{directory} is not whole: {'; '.join(problems[:5])}{more}")


def weight_problems(directory: str | os.PathLike) -> list[str]:
    """Names that a directory's configuration has and its weights have not, or the reverse, or of another shape."""
    from configuration_lion import LionConfig, RamConfig
    from lion_multimodal.conversion.checkpoint import expected_shapes
    from lion_multimodal.conversion.files import stored_tensors

    directory = Path(directory)
    fields = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in fields:
        return []  # whose names are those of the method
    if fields.get("model_type") == RamConfig.model_type:
        expected = _tagger_shapes(RamConfig.from_pretrained(directory))
    else:
        expected = expected_shapes(LionConfig.from_pretrained(directory))
    stored, problems = stored_tensors(directory)
    names = {name for name in stored if "relative_position_index" not in name}
    problems += [f"missing: {name}" for name in sorted(expected.keys() - names)]
    problems += [f"unexpected: {name}" for name in sorted(names - expected.keys())]
    for name in sorted(expected.keys() & names):
        shape = stored[name].tensors[name].shape
        if tuple(shape) != tuple(expected[name]):
            problems.append(f"{name} has the shape {list(shape)} and not {list(expected[name])}")
    return problems


def _tagger_shapes(config: Any) -> dict[str, Any]:
    import torch

    from modeling_lion import RamForImageTagging

    with torch.device("meta"):
        model = RamForImageTagging(config)
    return {name: tensor.shape for name, tensor in model.state_dict().items() if "relative_position_index" not in name}


def check_device(device: Any, name: str = "device") -> None:
    """
    Raises:
        ValueError: torch cannot compute on `device`, which `name` asked for.
    """
    if device is None:
        return
    import torch

    reason = "it holds no numbers"
    try:
        usable = bool(torch.ones(1, device=device).cpu() == 1)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        usable, reason = False, (str(error).strip() or type(error).__name__).splitlines()[0]
    if not usable:
        raise ValueError(f"{name} {str(device)!r} cannot be used: {reason}")


def damaged_files(source: str | os.PathLike) -> list[str]:
    """What is wrong with the files of a directory that cannot be read as what they are, a sentence each."""
    from safetensors import SafetensorError, safe_open

    directory, found = Path(source), []
    if not directory.is_dir():
        return []
    for file in sorted(directory.rglob("*.safetensors")):
        try:
            with safe_open(file, "pt") as content:
                content.keys()
        except (OSError, SafetensorError) as error:
            found.append(f"{file} is no safetensors file, or only a part of one: {error}")
    for file in sorted(directory.rglob("*.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            found.append(f"{file} is no JSON file, or only a part of one: {error}")
        else:
            if not isinstance(content, dict):
                found.append(f"{file} must hold a JSON object, got {type(content).__name__}")
    return found
