"""Conversion of official RAM checkpoints (`ram_swin_large_14m.pth`) to [`RamForImageTagging`]."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from configuration_lion.configuration_ram import RamConfig
from modeling_lion.modeling_ram import RamForImageTagging


# What an official file may hold besides the tagger: the caption model of Tag2Text, what of BERT the tagging head does
# not use, and constants that Swin computes itself.
_NOT_NEEDED = re.compile(
    r"(text_decoder|tag_encoder)\."
    r"|tagging_head\.(embeddings|encoder\.layer\.\d+\.attention)\."
    r"|visual_encoder\..*\.(relative_position_index|attn_mask)$"
)

_MODULES = {
    r"visual_encoder\.patch_embed\.proj": "vision_model.embeddings.patch_embeddings.projection",
    r"visual_encoder\.patch_embed\.norm": "vision_model.embeddings.norm",
    r"visual_encoder\.norm": "vision_model.layernorm",
    r"visual_encoder\.layers\.(\d+)\.downsample\.(norm|reduction)": r"vision_model.encoder.layers.\1.downsample.\2",
    r"image_proj": "image_projection",
    r"wordvec_proj": "label_projection",
    r"fc": "classifier",
}

_SWIN_BLOCK = re.compile(r"visual_encoder\.layers\.(\d+)\.blocks\.(\d+)\.(.+)")
# Parts of a Swin block, as transformers 5 and as transformers 4 name them.
_SWIN_BLOCK_PARTS = {
    "norm1": ("layernorm_before", "layernorm_before"),
    "norm2": ("layernorm_after", "layernorm_after"),
    "attn.relative_position_bias_table": (
        "attention.relative_position_bias.relative_position_bias_table",
        "attention.self.relative_position_bias_table",
    ),
    "attn.proj": ("attention.o_proj", "attention.output.dense"),
    "mlp.fc1": ("mlp.fc1", "intermediate.dense"),
    "mlp.fc2": ("mlp.fc2", "output.dense"),
}
_SWIN_QKV = (
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    ("attention.self.query", "attention.self.key", "attention.self.value"),
)

_HEAD_LAYER = re.compile(r"tagging_head\.encoder\.layer\.(\d+)\.(.+)")
_HEAD_LAYER_PARTS = {
    "crossattention.self.query": "attention.query",
    "crossattention.self.key": "attention.key",
    "crossattention.self.value": "attention.value",
    "crossattention.output.dense": "attention.output",
    "crossattention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "output_norm",
}


def convert_ram_checkpoint(state_dict: Mapping[str, Any], config: RamConfig) -> dict[str, torch.Tensor]:
    """
    Rename an official RAM state dict to the names of [`RamForImageTagging`].

    Accepts the content of the official file as it is: the weights may lie under `"model"`, old files say `vision_multi`
    for `tagging_head`, and the parts that belong to captioning or that Swin computes itself are left out by name.

    Args:
        state_dict (`Mapping`): official names to tensors, or a checkpoint with these under `"model"`.
        config (`RamConfig`): sizes of the model. Thresholds and tag lists are its data, not the state dict's; should
            the state dict hold `class_threshold` nonetheless, the two must agree.

    Returns:
        `dict[str, torch.Tensor]`: a complete state dict of `RamForImageTagging(config)` under the installed
        transformers, in the dtypes of the input.

    Raises:
        ValueError: parameters are missing, unexpected, given twice or of the wrong shape (all are listed), or
            thresholds differ.
    """
    if isinstance(state_dict.get("model"), Mapping):
        state_dict = state_dict["model"]
    with torch.device("meta"):
        expected = RamForImageTagging(config).state_dict()
    transformers_4 = any(name.endswith("attention.self.query.weight") for name in expected)

    # transformers 4 has this constant of Swin in the state dict; official files may lack it.
    index = _relative_position_index(config.vision_config.window_size)
    converted = {name: index.clone() for name in expected if name.endswith("relative_position_index")}
    unexpected, repeated, wrong_shape = [], [], []
    for official_name, tensor in state_dict.items():
        name = re.sub(r"^vision_multi\.", "tagging_head.", official_name)
        if _NOT_NEEDED.match(name):
            continue
        if name == "class_threshold":
            _check_thresholds(tensor, config)
            continue
        for target, value in _rename(name, tensor, transformers_4):
            if target not in expected:
                unexpected.append(official_name)
            elif target in converted:
                repeated.append(official_name)
            elif value.shape != expected[target].shape:
                wrong_shape.append(f"{official_name} {tuple(value.shape)}, expected {tuple(expected[target].shape)}")
            else:
                converted[target] = value
    missing = [name for name in expected if name not in converted]
    problems = {"missing": missing, "unexpected": unexpected, "given twice": repeated, "wrong shape": wrong_shape}
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(dict.fromkeys(names))}" for kind, names in problems.items() if names)
        raise ValueError(f"the RAM state dict does not fit the configuration: {listed}")
    return converted


def _rename(name: str, tensor: torch.Tensor, transformers_4: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Our names and tensors for one official tensor: three for a fused qkv, else one. An unknown name is kept."""
    if name == "label_embed":
        yield "label_embeddings.weight", tensor
        return
    if match := _SWIN_BLOCK.fullmatch(name):
        prefix = f"vision_model.encoder.layers.{match[1]}.blocks.{match[2]}"
        part, suffix = _split_part(match[3])
        if part == "attn.qkv":
            for target, chunk in zip(_SWIN_QKV[transformers_4], tensor.chunk(3), strict=False):
                yield f"{prefix}.{target}{suffix}", chunk.clone()
            return
        if part in _SWIN_BLOCK_PARTS:
            yield f"{prefix}.{_SWIN_BLOCK_PARTS[part][transformers_4]}{suffix}", tensor
            return
    elif match := _HEAD_LAYER.fullmatch(name):
        part, suffix = _split_part(match[2])
        if part in _HEAD_LAYER_PARTS:
            yield f"tagging_head.layers.{match[1]}.{_HEAD_LAYER_PARTS[part]}{suffix}", tensor
            return
    else:
        module, suffix = _split_part(name)
        for pattern, target in _MODULES.items():
            if match := re.fullmatch(pattern, module):
                yield match.expand(target) + suffix, tensor
                return
    yield name, tensor


def _split_part(name: str) -> tuple[str, str]:
    """`attn.proj.weight` to (`attn.proj`, `.weight`); a bare parameter has no suffix."""
    match = re.fullmatch(r"(.+)(\.(?:weight|bias))", name)
    return (match[1], match[2]) if match else (name, "")


def _relative_position_index(window_size: int) -> torch.Tensor:
    """(window_size**2, window_size**2): for two positions in a window, the row of the bias table for their offset."""
    positions = torch.cartesian_prod(torch.arange(window_size), torch.arange(window_size))
    offsets = positions[:, None] - positions[None, :] + window_size - 1
    return offsets[..., 0] * (2 * window_size - 1) + offsets[..., 1]


def _check_thresholds(thresholds: torch.Tensor, config: RamConfig) -> None:
    expected = torch.tensor(config.thresholds)
    if thresholds.shape != expected.shape or not torch.allclose(thresholds.float().cpu(), expected, atol=1e-3):
        raise ValueError(
            "class_threshold of the state dict differs from config.thresholds; "
            "build the configuration with thresholds=state_dict['class_threshold'].tolist()"
        )


def to_official_ram(model: RamForImageTagging) -> dict[str, torch.Tensor]:
    """
    The state dict of a tagger in official names. What Swin computes itself (`relative_position_index`, `attn_mask`) is
    not in it: the official loader drops these, too.
    """
    state_dict = model.state_dict()
    transformers_4 = any(name.endswith("attention.self.query.weight") for name in state_dict)
    block_parts = {ours[transformers_4]: official for official, ours in _SWIN_BLOCK_PARTS.items()}
    head_parts = {ours: official for official, ours in _HEAD_LAYER_PARTS.items()}
    official: dict[str, torch.Tensor] = {}
    for name, tensor in state_dict.items():
        if name.endswith("relative_position_index"):
            continue
        if name == "label_embeddings.weight":
            official["label_embed"] = tensor
        elif match := re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.blocks\.(\d+)\.(.+)", name):
            prefix = f"visual_encoder.layers.{match[1]}.blocks.{match[2]}"
            part, suffix = _split_part(match[3])
            if part in _SWIN_QKV[transformers_4]:
                owner = name.removesuffix(part + suffix)
                fused = [state_dict[owner + each + suffix] for each in _SWIN_QKV[transformers_4]]
                official[f"{prefix}.attn.qkv{suffix}"] = torch.cat(fused)
            else:
                official[f"{prefix}.{block_parts[part]}{suffix}"] = tensor
        elif match := re.fullmatch(r"tagging_head\.layers\.(\d+)\.(.+)", name):
            part, suffix = _split_part(match[2])
            official[f"tagging_head.encoder.layer.{match[1]}.{head_parts[part]}{suffix}"] = tensor
        else:
            official[_official_module(name)] = tensor
    return official


def _official_module(name: str) -> str:
    module, suffix = _split_part(name)
    if match := re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.downsample\.(norm|reduction)", module):
        return f"visual_encoder.layers.{match[1]}.downsample.{match[2]}{suffix}"
    return {ours: official.replace("\\", "") for official, ours in _MODULES.items()}[module] + suffix


__all__ = ["convert_ram_checkpoint", "to_official_ram"]
