"""What layout official weights are of: the configuration, read from their names and shapes."""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from configuration_lion.configuration_lion import LEVELS, SHARED_ADAPTER, LionConfig
from configuration_lion.configuration_ram import RamConfig


Shapes = Mapping[str, torch.Size]

# Weights don't show how many heads share a width. These are the released widths; LION's aggregator always has 16.
_VISION_HEADS = {1408: 16}
_QFORMER_HEADS = {768: 12}
_RELEASED_DEPTH = 39
# The sides of images that Swin was released for, by its window; where the file has masks, they tell.
_SWIN_IMAGE_SIZES = {12: 384, 7: 224}
_TAGGING_HEADS = 4

RELEASED = ("flan-t5-xl", "flan-t5-xxl")

TAG_FILES = {
    "tags": "ram_tag_list.txt",
    "tags_zh": "ram_tag_list_chinese.txt",
    "thresholds": "ram_tag_list_threshold.txt",
}
"""What the files with a tagger's names and thresholds are called in RAM's release (`ram/data`)."""


def infer_lion_config(
    shapes: Shapes, text_config: Mapping[str, Any], bert_config: Mapping[str, Any] | None = None
) -> LionConfig:
    """
    The configuration of official weights: which branches and adapters there are, and how large everything is.

    Args:
        shapes (`Mapping[str, torch.Size]`): Of all tensors, by their official names.
        text_config (`Mapping`): `config.json` of the T5. The exact GELU takes the place of its activation, as in the
            official code.
        bert_config (`Mapping`, *optional*): `config.json` of the BERT that the Q-Former is made of, if it is at hand.

    Raises:
        ValueError: weights that LION needs are not there, or a size that weights don't show and that is not known from
            the released models.
    """
    kept = {name: value for name, value in text_config.items() if name not in ("architectures", "model_type")}
    branches = [
        branch
        for branch, owner in (("qformer", "Qformer."), ("aggregator", "fusion_adapter."))
        if any(name.startswith(owner) for name in shapes)
    ]
    if not branches:
        raise ValueError("there is neither a Q-Former (Qformer.*) nor a vision aggregator (fusion_adapter.*)")
    fields: dict[str, Any] = {
        "vision_config": _vision_config(shapes),
        "text_config": {**kept, "dense_act_fn": "gelu"},
        "visual_branches": branches,
        "adapter_config": _adapter_config(shapes, branches),
    }
    if "qformer" in branches:
        fields["qformer_config"] = _qformer_config(shapes, bert_config or {})
        fields["num_query_tokens"] = _shape(shapes, "query_tokens")[1]
    if "aggregator" in branches:
        fields["aggregator_config"] = _aggregator_config(shapes)
    return LionConfig(**fields)


def released_name(config: LionConfig) -> str | None:
    """`"flan-t5-xl"` or `"flan-t5-xxl"` where that is the LLM, else None."""
    sizes = ("d_model", "d_ff", "d_kv", "num_layers", "num_decoder_layers", "num_heads", "vocab_size")
    for name in RELEASED:
        preset = LionConfig.from_preset(name).text_config
        if all(getattr(preset, size) == getattr(config.text_config, size) for size in sizes):
            return name
    return None


def infer_ram_config(shapes: Shapes, **names: Any) -> RamConfig:
    """
    The configuration of an official RAM checkpoint.

    Args:
        shapes (`Mapping[str, torch.Size]`): Of its tensors, by their official names.
        names: `tags`, `tags_zh` and `thresholds` (see [`read_tag_files`]).

    Raises:
        ValueError: weights that RAM needs are not there, or the lists don't fit them.
    """
    shapes = {re.sub(r"^vision_multi\.", "tagging_head.", name): shape for name, shape in shapes.items()}
    embed_dim, _, patch_size, _ = _shape(shapes, "visual_encoder.patch_embed.proj.weight")
    stages = _count(shapes, r"visual_encoder\.layers\.(\d+)\.")
    blocks = [_count(shapes, rf"visual_encoder\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)]
    tables = [
        _shape(shapes, f"visual_encoder.layers.{stage}.blocks.0.attn.relative_position_bias_table")
        for stage in range(stages)
    ]
    window_size = (math.isqrt(tables[0][0]) + 1) // 2
    mask = shapes.get("visual_encoder.layers.0.blocks.1.attn_mask")
    if mask is not None:
        image_size = math.isqrt(mask[0]) * window_size * patch_size
    elif window_size in _SWIN_IMAGE_SIZES:
        image_size = _SWIN_IMAGE_SIZES[window_size]
    else:
        raise ValueError(f"the size of RAM's images can't be told from weights with a window of {window_size}")
    num_tags, projection_dim = _shape(shapes, "label_embed")
    return RamConfig(
        vision_config={
            "image_size": image_size,
            "patch_size": patch_size,
            "embed_dim": embed_dim,
            "depths": blocks,
            "num_heads": [heads for _, heads in tables],
            "window_size": window_size,
        },
        hidden_size=_shape(shapes, "fc.weight")[1],
        num_hidden_layers=_count(shapes, r"tagging_head\.encoder\.layer\.(\d+)\.crossattention\."),
        num_attention_heads=_TAGGING_HEADS,
        intermediate_size=_shape(shapes, "tagging_head.encoder.layer.0.intermediate.dense.weight")[0],
        projection_dim=projection_dim,
        num_tags=num_tags,
        **names,
    )


def read_tag_files(
    tags: str | os.PathLike, tags_zh: str | os.PathLike | None = None, thresholds: str | os.PathLike | None = None
) -> dict[str, Any]:
    """
    Names and thresholds of a tagger, one a line.

    Args:
        tags (`str` or `os.PathLike`): The English names, or the folder that has all files under their names in RAM's
            release (`TAG_FILES`).
        tags_zh, thresholds (`str` or `os.PathLike`, *optional*): The Chinese names, and the probabilities above which
            tags are reported. By default those in the folder `tags`, if there are any.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a threshold is no number.
    """
    given = {"tags": tags, "tags_zh": tags_zh, "thresholds": thresholds}
    files = {field: Path(path) for field, path in given.items() if path is not None}
    folder = files["tags"]
    if folder.is_dir():
        files["tags"] = folder / TAG_FILES["tags"]
        for field in ("tags_zh", "thresholds"):
            if field not in files and (folder / TAG_FILES[field]).is_file():
                files[field] = folder / TAG_FILES[field]
    names: dict[str, Any] = {}
    for field, path in files.items():
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path} with the {field} of the tagger")
        # Spaces at the end of lines are part of the official names.
        names[field] = path.read_text(encoding="utf-8").splitlines()
    if "thresholds" in names:
        try:
            names["thresholds"] = [float(line) for line in names["thresholds"]]
        except ValueError as error:
            raise ValueError(f"{files['thresholds']} must hold one number a line: {error}") from error
    return names


def read_json(path: Path) -> dict[str, Any]:
    """
    A JSON object.

    Raises:
        ValueError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _vision_config(shapes: Shapes) -> dict[str, Any]:
    hidden_size, _, patch_size, _ = _shape(shapes, "visual_encoder.patch_embed.proj.weight")
    positions = _shape(shapes, "visual_encoder.pos_embed")[1]
    return {
        "hidden_size": hidden_size,
        "num_attention_heads": _heads("vision_config", _VISION_HEADS, hidden_size),
        # The public tower has one block more than LION uses.
        "num_hidden_layers": min(_count(shapes, r"visual_encoder\.blocks\.(\d+)\."), _RELEASED_DEPTH),
        "intermediate_size": _shape(shapes, "visual_encoder.blocks.0.mlp.fc1.weight")[0],
        "image_size": math.isqrt(positions - 1) * patch_size,
        "patch_size": patch_size,
    }


def _qformer_config(shapes: Shapes, bert_config: Mapping[str, Any]) -> dict[str, Any]:
    vocab_size, hidden_size = _shape(shapes, "Qformer.bert.embeddings.word_embeddings.weight")
    layers = _count(shapes, r"Qformer\.bert\.encoder\.layer\.(\d+)\.")
    crossing = _indices(shapes, r"Qformer\.bert\.encoder\.layer\.(\d+)\.crossattention\.")
    frequency = crossing[1] - crossing[0] if len(crossing) > 1 else layers
    heads = bert_config.get("num_attention_heads") or _heads("qformer_config", _QFORMER_HEADS, hidden_size)
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "cross_attention_frequency": frequency,
        "intermediate_size": _shape(shapes, "Qformer.bert.encoder.layer.0.intermediate.dense.weight")[0],
        "max_position_embeddings": _shape(shapes, "Qformer.bert.embeddings.position_embeddings.weight")[0],
    }


def _aggregator_config(shapes: Shapes) -> dict[str, Any]:
    depth = _count(shapes, r"fusion_adapter\.blocks\.(\d+)\.")
    if depth != 2:
        raise ValueError(
            f"the vision aggregator has {depth} layers, and weights don't show which vision blocks they look at: "
            "released ones have 2"
        )
    return {"intermediate_size": _shape(shapes, "fusion_adapter.blocks.0.intermediate.dense.weight")[0]}


def _adapter_config(shapes: Shapes, branches: list[str]) -> dict[str, Any]:
    first = "t5_model.encoder.block.0.layer.1.adapter.adapters"
    count = len({name for name in shapes if re.fullmatch(rf"{re.escape(first)}\.\d+\.down_proj\.weight", name)})
    if count == 0:
        return {"adapters": []}
    if count > len(LEVELS):
        raise ValueError(f"there are {count} adapters beside each feed-forward layer, and LION knows {len(LEVELS)}")
    of_branch = {"qformer": "image_level", "aggregator": "region_level"}
    one = of_branch[branches[0]] if len(branches) == 1 else SHARED_ADAPTER
    return {
        "adapters": list(LEVELS) if count == len(LEVELS) else [one],
        "bottleneck_size": _shape(shapes, f"{first}.0.down_proj.weight")[0],
    }


def _heads(owner: str, known: Mapping[int, int], hidden_size: int) -> int:
    if hidden_size not in known:
        raise ValueError(
            f"`{owner}.num_attention_heads` can't be told from weights of the width {hidden_size}, which no released "
            "model has: give a LION configuration"
        )
    return known[hidden_size]


def _shape(shapes: Shapes, name: str) -> torch.Size:
    if name not in shapes:
        raise ValueError(f"the sizes can't be told, because {name} is in none of the files")
    return shapes[name]


def _count(names: Iterable[str], pattern: str) -> int:
    return max(_indices(names, pattern), default=-1) + 1


def _indices(names: Iterable[str], pattern: str) -> list[int]:
    compiled = re.compile(pattern)
    return sorted({int(match[1]) for match in map(compiled.match, names) if match})
