"""The names of parameters in official LION checkpoints and in this package, both ways."""

import re
from collections.abc import Mapping

import torch


# Official name beside ours; the first pair that fits counts, in either direction. `{n}` is a number, `{rest}` whatever
# follows.
_PAIRS = [
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj.{rest}", "vision_model.embeddings.patch_embedding.{rest}"),
    ("visual_encoder.blocks.{n}.norm1.{rest}", "vision_model.encoder.layers.{n}.layer_norm1.{rest}"),
    ("visual_encoder.blocks.{n}.norm2.{rest}", "vision_model.encoder.layers.{n}.layer_norm2.{rest}"),
    ("visual_encoder.blocks.{n}.attn.proj.{rest}", "vision_model.encoder.layers.{n}.self_attn.projection.{rest}"),
    ("visual_encoder.blocks.{n}.attn.{rest}", "vision_model.encoder.layers.{n}.self_attn.{rest}"),
    ("visual_encoder.blocks.{n}.mlp.{rest}", "vision_model.encoder.layers.{n}.mlp.{rest}"),
    ("ln_vision.{rest}", "vision_model.post_layernorm.{rest}"),
    ("Qformer.bert.embeddings.LayerNorm.{rest}", "qformer.embeddings.layernorm.{rest}"),
    (
        "Qformer.bert.encoder.layer.{n}.attention.self.{rest}",
        "qformer.encoder.layer.{n}.attention.attention.{rest}",
    ),
    (
        "Qformer.bert.encoder.layer.{n}.crossattention.self.{rest}",
        "qformer.encoder.layer.{n}.crossattention.attention.{rest}",
    ),
    ("Qformer.bert.{rest}", "qformer.{rest}"),
    ("query_tokens", "query_tokens.weight"),
    ("t5_proj.{rest}", "language_projection.{rest}"),
    *(
        pair
        for attention in ("attention", "crossattention")
        for pair in (
            (
                f"fusion_adapter.blocks.{{n}}.{attention}.output.dense.{{rest}}",
                f"vision_aggregator.layers.{{n}}.{attention}.dense.{{rest}}",
            ),
            (
                f"fusion_adapter.blocks.{{n}}.{attention}.output.LayerNorm.{{rest}}",
                f"vision_aggregator.layers.{{n}}.{attention}.layer_norm.{{rest}}",
            ),
            (
                f"fusion_adapter.blocks.{{n}}.{attention}.self.{{rest}}",
                f"vision_aggregator.layers.{{n}}.{attention}.{{rest}}",
            ),
        )
    ),
    ("fusion_adapter.blocks.{n}.intermediate.dense.{rest}", "vision_aggregator.layers.{n}.intermediate.{rest}"),
    ("fusion_adapter.blocks.{n}.output.dense.{rest}", "vision_aggregator.layers.{n}.dense.{rest}"),
    ("fusion_adapter.blocks.{n}.output.LayerNorm.{rest}", "vision_aggregator.layers.{n}.layer_norm.{rest}"),
    ("ln_adapter.{rest}", "aggregator_norm.{rest}"),
    ("adapter_proj.0.{rest}", "aggregator_projection.fc1.{rest}"),
    ("adapter_proj.2.{rest}", "aggregator_projection.fc2.{rest}"),
    ("soft_prompt_hint", "soft_prompt.weight"),
    ("t5_model.{rest}", "language_model.{rest}"),
]


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{n\}", r"(?P<n>\d+)").replace(r"\{rest\}", r"(?P<rest>.+)"))


_TO_OURS = [(_pattern(official), ours) for official, ours in _PAIRS]
_TO_OFFICIAL = [(_pattern(ours), official) for official, ours in _PAIRS]

# No parameters of LION: the tower's classifier and final norm, BERT's head, and buffers.
_NOT_NEEDED = re.compile(
    r"visual_encoder\.(head|lm_head|norm|fc_norm)\."
    r"|visual_encoder\.mask_token$"
    r"|Qformer\.cls\."
    r"|Qformer\.bert\.embeddings\.position_ids$"
    r"|t5_model\.decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\."
)
_TIED_COPY = re.compile(r"t5_model\.(encoder|decoder)\.embed_tokens\.weight$")
_VISION_BLOCK = re.compile(r"visual_encoder\.blocks\.(\d+)\.")

# What official checkpoints keep in several tensors and this package in one.
_QKV_BIAS = re.compile(r"(?P<owner>vision_model\.encoder\.layers\.\d+\.self_attn)\.(?P<part>q|v)_bias")
_ROUTER = re.compile(r"(?P<owner>.*\.adapter)\.router_ratio(?P<part>\d+)")

WHOLE = ""
"""The part of a parameter that official checkpoints keep in one tensor, too."""


def is_not_needed(official_name: str, num_vision_blocks: int) -> bool:
    """Whether a tensor of an official checkpoint is nothing of LION's, such as vision blocks beyond its depth."""
    block = _VISION_BLOCK.match(official_name)
    return bool(_NOT_NEEDED.match(official_name)) or (block is not None and int(block[1]) >= num_vision_blocks)


def is_tied_copy(official_name: str) -> bool:
    """Whether a tensor is a further copy of the LLM's input embeddings."""
    return _TIED_COPY.match(official_name) is not None


def to_our_name(official_name: str) -> tuple[str, str]:
    """Our parameter, and which part of it the tensor is: `WHOLE`, `"q"` or `"v"`, or the number of a router ratio."""
    if is_tied_copy(official_name):
        return "language_model.shared.weight", WHOLE
    name = _rename(official_name, _TO_OURS)
    if match := _QKV_BIAS.fullmatch(name):
        return f"{match['owner']}.qkv.bias", match["part"]
    if match := _ROUTER.fullmatch(name):
        return f"{match['owner']}.router_ratios", match["part"]
    return name, WHOLE


def to_official_names(name: str, shape: torch.Size) -> dict[str, str]:
    """Official names of the parts of our parameter `name`."""
    if name.startswith("vision_model.") and name.endswith(".qkv.bias"):
        parts = {part: f"{name.removesuffix('qkv.bias')}{part}_bias" for part in ("q", "v")}
    elif name.endswith(".adapter.router_ratios"):
        parts = {str(k): f"{name.removesuffix('s')}{k}" for k in range(1, shape[0] + 1)}
    else:
        parts = {WHOLE: name}
    return {part: _rename(part_name, _TO_OFFICIAL) for part, part_name in parts.items()}


def join(name: str, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """
    Our parameter, of its official parts.

    Raises:
        ValueError: a part is missing.
    """
    if WHOLE in parts:
        return parts[WHOLE]
    if name.endswith(".qkv.bias"):
        if parts.keys() != {"q", "v"}:
            raise ValueError(f"only one of the query and value biases: {name.removesuffix('.qkv.bias')}")
        # The tower's keys have no bias.
        return torch.cat([parts["q"], torch.zeros_like(parts["q"]), parts["v"]])
    return torch.stack([parts[k] for k in sorted(parts, key=int)])


def split(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    The official tensors, by their names, that our parameter `name` stands for.

    Raises:
        ValueError: keys of the vision tower have a bias, for which the official tower has no place.
    """
    names = to_official_names(name, tensor.shape)
    if WHOLE in names:
        return {names[WHOLE]: tensor}
    if name.endswith(".qkv.bias"):
        query, key, value = tensor.chunk(3)
        if not key.is_meta and key.any():
            raise ValueError(f"{name}: the bias of the keys is not zero, and the official vision tower has none")
        return {names["q"]: query, names["v"]: value}
    return {names[str(k + 1)]: ratio for k, ratio in enumerate(tensor)}


def _rename(name: str, templates: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in templates:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict())
    return name
