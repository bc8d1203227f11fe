"""
State dicts of the released LION checkpoints in the names of this package.

Official names are those of `LION-FlanT5-*.pth`; ours are transformers' own for every part that transformers has.
"""

import re
from collections.abc import Mapping

import torch

from configuration_lion.configuration_lion import LionConfig
from modeling_lion.conversion_ram import convert_ram_checkpoint
from modeling_lion.modeling_lion import LionForConditionalGeneration


__all__ = ["convert_lion_checkpoint", "convert_ram_checkpoint"]

# Not parameters of LION: the tower's classifier and final norm, BERT's head, buffers and tied copies of embeddings.
_IGNORED = re.compile(
    r"visual_encoder\.(head|norm|fc_norm)\."
    r"|Qformer\.cls\."
    r"|Qformer\.bert\.embeddings\.position_ids$"
    r"|t5_model\.(encoder|decoder)\.embed_tokens\."
    r"|t5_model\.decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\."
)
_VISION_BLOCK = re.compile(r"visual_encoder\.blocks\.(\d+)\.")

_NEW_NAMES = [
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.projection."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.", r"vision_model.encoder.layers.\1.self_attn."),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
    (r"^ln_vision\.", "vision_model.post_layernorm."),
    (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "qformer.embeddings.layernorm."),
    (r"^Qformer\.bert\.(.*attention)\.self\.", r"qformer.\1.attention."),
    (r"^Qformer\.bert\.", "qformer."),
    (r"^query_tokens$", "query_tokens.weight"),
    (r"^t5_proj\.", "language_projection."),
    (r"^fusion_adapter\.blocks\.(\d+)\.(\w*attention)\.self\.", r"vision_aggregator.layers.\1.\2."),
    (r"^fusion_adapter\.blocks\.(\d+)\.(\w*attention)\.output\.dense\.", r"vision_aggregator.layers.\1.\2.dense."),
    (
        r"^fusion_adapter\.blocks\.(\d+)\.(\w*attention)\.output\.LayerNorm\.",
        r"vision_aggregator.layers.\1.\2.layer_norm.",
    ),
    (r"^fusion_adapter\.blocks\.(\d+)\.intermediate\.dense\.", r"vision_aggregator.layers.\1.intermediate."),
    (r"^fusion_adapter\.blocks\.(\d+)\.output\.dense\.", r"vision_aggregator.layers.\1.dense."),
    (r"^fusion_adapter\.blocks\.(\d+)\.output\.LayerNorm\.", r"vision_aggregator.layers.\1.layer_norm."),
    (r"^ln_adapter\.", "aggregator_norm."),
    (r"^adapter_proj\.0\.", "aggregator_projection.fc1."),
    (r"^adapter_proj\.2\.", "aggregator_projection.fc2."),
    (r"^soft_prompt_hint$", "soft_prompt.weight"),
    (r"^t5_model\.", "language_model."),
]
_RENAMED = [(re.compile(pattern), replacement) for pattern, replacement in _NEW_NAMES]

# Parts that official checkpoints keep in several tensors and this package in one.
_QKV_BIAS = re.compile(r"(vision_model\.encoder\.layers\.\d+\.self_attn)\.(q|v)_bias$")
_ROUTER = re.compile(r"(.*\.adapter)\.router_ratio(\d+)$")


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name, changed = pattern.subn(replacement, name)
        if changed:
            return name
    return name


def expected_shapes(config: LionConfig) -> dict[str, torch.Size]:
    """Name and shape of every parameter that a checkpoint of `config` holds (tied copies left out)."""
    with torch.device("meta"):
        model = LionForConditionalGeneration(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return {name: shape for name, shape in shapes.items() if not name.endswith("coder.embed_tokens.weight")}


def convert_lion_checkpoint(
    state_dict: Mapping[str, torch.Tensor], config: LionConfig, strict: bool = True
) -> dict[str, torch.Tensor]:
    """
    Rename an official LION state dict for [`LionForConditionalGeneration`]. Vision blocks beyond `config`'s depth (the
    public tower file holds 40, LION uses 39) and heads that LION has no use for are left out.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): Official names, with every part that `config` has.
        config ([`LionConfig`]): The layout to convert for.
        strict (`bool`, *optional*, defaults to `True`):
            Whether every parameter must be there. If not, parameters may be missing, but still none may be unexpected.

    Returns:
        `dict[str, torch.Tensor]` for `load_state_dict`; dtypes are kept.

    Raises:
        ValueError: parameters that are missing, unexpected or of the wrong shape, all listed.
    """
    converted: dict[str, torch.Tensor] = {}
    query_value_biases: dict[str, dict[str, torch.Tensor]] = {}
    router_ratios: dict[str, dict[int, torch.Tensor]] = {}
    for official_name, tensor in state_dict.items():
        block = _VISION_BLOCK.match(official_name)
        if _IGNORED.match(official_name) or (block and int(block[1]) >= config.vision_config.num_hidden_layers):
            continue
        name = _rename(official_name)
        if match := _QKV_BIAS.match(name):
            query_value_biases.setdefault(match[1], {})[match[2]] = tensor
        elif match := _ROUTER.match(name):
            router_ratios.setdefault(match[1], {})[int(match[2])] = tensor
        else:
            converted[name] = tensor
    problems = []
    for attention, biases in query_value_biases.items():
        if biases.keys() != {"q", "v"}:
            problems.append(f"only one of the query and value biases: {attention}")
            continue
        # The tower's keys have no bias.
        converted[f"{attention}.qkv.bias"] = torch.cat([biases["q"], torch.zeros_like(biases["q"]), biases["v"]])
    for mixture, ratios in router_ratios.items():
        converted[f"{mixture}.router_ratios"] = torch.stack([ratios[k] for k in sorted(ratios)])

    expected = expected_shapes(config)
    if strict:
        problems += [f"missing: {name}" for name in expected if name not in converted]
    problems += [f"unexpected: {name}" for name in converted if name not in expected]
    problems += [
        f"wrong shape: {name} is {tuple(tensor.shape)}, expected {tuple(expected[name])}"
        for name, tensor in converted.items()
        if name in expected and tensor.shape != expected[name]
    ]
    if problems:
        raise ValueError(
            f"`state_dict` does not fit `config` in {len(problems)} places:\n  " + "\n  ".join(sorted(problems))
        )
    return converted
