"""Unmasked multi-head attention by the implementation that a configuration names: what aggregator and tagger share."""

from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Explicit matrix products behind the interface of transformers' attention functions; softmax in float32."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float
) -> torch.Tensor:
    """
    Scaled dot-product attention of every query to every key, as `module.config` asks for ("sdpa", "eager", ...).

    Args:
        module (`nn.Module`): The attention layer, with `config` and `is_causal = False`.
        query (`torch.Tensor` of shape `(batch_size, num_heads, num_queries, head_dim)`)
        key, value (`torch.Tensor` of shape `(batch_size, num_heads, num_keys, head_dim)`)
        dropout (`float`): Dropout of the attention weights; only applied in training.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_queries, num_heads * head_dim)`.
    """
    function = eager_attention_forward
    if module.config._attn_implementation not in (None, "eager"):
        function = ALL_ATTENTION_FUNCTIONS[module.config._attn_implementation]
    attended, _ = function(
        module,
        query,
        key,
        value,
        attention_mask=None,
        scaling=query.shape[-1] ** -0.5,
        dropout=dropout if module.training else 0.0,
    )
    return attended.flatten(2)
