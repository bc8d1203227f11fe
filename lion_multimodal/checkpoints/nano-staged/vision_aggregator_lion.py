"""
The vision aggregator (paper section 3.2; official `fusion_adapter`): two BERT-style layers that refine the vision
tower's last features by looking at its earlier ones.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_lion import LionVisionAggregatorConfig
from .attention_lion import MultiHeadAttention


class LionZeroInitLinear(nn.Linear):
    """A linear layer that starts at zero, so that its residual branch starts by adding nothing."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class LionVisionAggregatorAttention(MultiHeadAttention):
    """Multi-head attention over image tokens, with output dense, residual and post-norm. No mask: all tokens count."""

    def __init__(self, config: LionVisionAggregatorConfig, hidden_size: int):
        super().__init__(config, hidden_size // config.num_attention_heads, config.dropout)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.dense = LionZeroInitLinear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """Both are `(batch_size, num_patches + 1, hidden_size)`; without `context` the tokens attend to themselves."""
        context = hidden_states if context is None else context
        query = self.split_heads(self.query(hidden_states))  # (batch_size, num_heads, num_patches + 1, head_dim)
        key = self.split_heads(self.key(context))
        value = self.split_heads(self.value(context))
        attended, _ = self.attend(query, key, value)
        attended = self.dropout(self.dense(attended))  # (batch_size, num_patches + 1, hidden_size)
        return self.layer_norm(attended + hidden_states)


class LionVisionAggregatorLayer(GradientCheckpointingLayer):
    """Self-attention, cross-attention to an earlier vision block, feed-forward; each with a post-norm."""

    def __init__(self, config: LionVisionAggregatorConfig, hidden_size: int):
        super().__init__()
        self.attention = LionVisionAggregatorAttention(config, hidden_size)
        self.crossattention = LionVisionAggregatorAttention(config, hidden_size)
        self.intermediate = nn.Linear(hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dense = LionZeroInitLinear(config.intermediate_size, hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        hidden_states = self.crossattention(self.attention(hidden_states), context)
        widened = self.activation(self.intermediate(hidden_states))  # (batch_size, num_patches + 1, intermediate_size)
        forwarded = self.dense(widened)  # (batch_size, num_patches + 1, hidden_size)
        return self.layer_norm(self.dropout(forwarded) + hidden_states)


class LionVisionAggregator(nn.Module):
    """
    The output dense of every attention and feed-forward starts at zero: a new aggregator only normalises.

    Args:
        config ([`LionVisionAggregatorConfig`]): Sizes; one layer for each of `context_layers`.
        hidden_size (`int`): Width of the vision tower.
    """

    def __init__(self, config: LionVisionAggregatorConfig, hidden_size: int):
        super().__init__()
        depth = len(config.context_layers or ())
        self.layers = nn.ModuleList(LionVisionAggregatorLayer(config, hidden_size) for _ in range(depth))

    def forward(self, query_states: torch.Tensor, context_states: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            query_states (`torch.Tensor` of shape `(batch_size, num_patches + 1, hidden_size)`):
                Output of the vision block `query_layer`.
            context_states (`Sequence[torch.Tensor]`): Outputs of the blocks `context_layers`, each of that shape.
        """
        for layer, context in zip(self.layers, context_states, strict=True):
            query_states = layer(query_states, context)
        return query_states
