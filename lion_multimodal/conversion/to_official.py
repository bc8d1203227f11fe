"""A checkpoint of this package as a state dict in the names of the authors' code."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from configuration_lion.configuration_lion import LionConfig
from configuration_lion.configuration_ram import RamConfig
from lion_multimodal.conversion.checkpoint import expected_shapes
from lion_multimodal.conversion.files import TensorInfo, stored_tensors, write_safetensors
from lion_multimodal.conversion.layout import read_json
from lion_multimodal.conversion.names import is_tied_copy, split
from lion_multimodal.conversion.plan import ConversionError
from lion_multimodal.conversion.ram import to_official_ram
from modeling_lion.modeling_ram import RamForImageTagging
from trainers.atomic import atomic_file


_CONFIG = "config.json"
_EMBEDDINGS = "t5_model.shared.weight"
_EMBEDDING_COPIES = tuple(f"t5_model.{stack}.embed_tokens.weight" for stack in ("encoder", "decoder"))
_POSITION_IDS = "Qformer.bert.embeddings.position_ids"


def to_official(directory: str | os.PathLike, output: str | os.PathLike) -> dict[str, TensorInfo]:
    """
    Write a LION checkpoint, or a tagger, as one safetensors file with official names, for comparison with the authors'
    code.

    Every name of the official state dict is there, tied copies and position ids included, so that it loads strictly. Of
    a tagger, only the constants are not there that the official loader drops.

    Args:
        directory (`str` or `os.PathLike`): A checkpoint of this package.
        output (`str` or `os.PathLike`): The file; it must not exist.

    Returns:
        `dict[str, TensorInfo]`: what was written.

    Raises:
        FileExistsError: there is something at `output`.
        OSError, ValueError: the directory is no checkpoint, or one that the official code has no place for.
    """
    directory, output = Path(directory), Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists already")
    if not (directory / _CONFIG).is_file():
        raise FileNotFoundError(f"{directory} is no checkpoint: it has no {_CONFIG}")
    fields = read_json(directory / _CONFIG)
    model_type = fields.get("model_type")
    read: Callable[[str], torch.Tensor]
    if model_type == RamConfig.model_type:
        official = to_official_ram(RamForImageTagging.from_pretrained(directory, dtype="auto"))
        read = official.__getitem__
        tensors = {name: TensorInfo(tensor.shape, tensor.dtype) for name, tensor in official.items()}
    elif model_type == LionConfig.model_type:
        tensors, read = _official_lion(directory, LionConfig.from_pretrained(directory))
    else:
        raise ValueError(f"{directory} holds neither a LION nor its tagger, but a model of the type {model_type!r}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as partial:
        write_safetensors(partial, tensors, read)
    return tensors


def _official_lion(directory: Path, config: LionConfig) -> tuple[dict[str, TensorInfo], Callable[[str], torch.Tensor]]:
    stored, problems = stored_tensors(directory)
    expected = expected_shapes(config)
    problems += [f"missing: {name}" for name in expected.keys() - stored.keys()]
    problems += [f"unexpected: {name}" for name in stored.keys() - expected.keys()]
    if problems:
        raise ConversionError(problems)
    ours: dict[str, str] = {}
    tensors: dict[str, TensorInfo] = {}
    for name, file in stored.items():
        info = file.tensors[name]
        for official_name, part in split(name, torch.zeros(info.shape, dtype=info.dtype, device="meta")).items():
            ours[official_name] = name
            tensors[official_name] = TensorInfo(part.shape, part.dtype)
    for copy in _EMBEDDING_COPIES:
        ours[copy], tensors[copy] = ours[_EMBEDDINGS], tensors[_EMBEDDINGS]
    positions = torch.arange(config.qformer_config.max_position_embeddings).unsqueeze(0)
    if "qformer" in config.visual_branches:
        tensors[_POSITION_IDS] = TensorInfo(positions.shape, positions.dtype)

    def read(official_name: str) -> torch.Tensor:
        if official_name == _POSITION_IDS:
            return positions
        name = ours[official_name]
        parts = split(name, stored[name].read(name))
        return next(iter(parts.values())) if is_tied_copy(official_name) else parts[official_name]

    return tensors, read
