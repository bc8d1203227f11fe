"""Multi-head attention by the implementation that a configuration names: what all of LION's own layers share."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


# Whether flex attention adds a bias of every head (transformers 5) or would leave it out without a word.
FLEX_TAKES_BIAS = "position_bias" in inspect.signature(ALL_ATTENTION_FUNCTIONS["flex_attention"]).parameters

_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_1", "sve_bf16", "bf16")

# On a CPU in bfloat16, explicit products are quicker than PyTorch's fused attention for few queries to many keys: so
# many numbers (of all samples and heads) that float32 copies of them, 4 MiB, no longer stay in a core's cache.
_FEW_QUERIES, _MANY_KEYS = 8, 2**20


def cpu_multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16: others take many times as long as in float32."""
    # Older versions of PyTorch do not tell what a processor can do.
    capabilities: Mapping[str, bool | int] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in _BFLOAT16_INSTRUCTIONS)


class MultiHeadAttention(nn.Module):
    """
    The heads of an attention layer. A subclass holds the projections and knows what attends to what.

    Args:
        config (`PretrainedConfig`): Names the implementation of attention ("sdpa", "eager", ...).
        head_dim (`int`): Width of a head.
        dropout (`float`): Dropout of the attention weights; only applied in training.
        scaling (`float`, *optional*): Factor of the scores. Defaults to `head_dim ** -0.5`.
    """

    def __init__(self, config: Any, head_dim: int, dropout: float, scaling: float | None = None):
        super().__init__()
        self.config = config
        self.head_dim = head_dim
        self.attention_dropout = dropout
        self.scaling = scaling
        # transformers' attention functions read it: a causal mask is part of the bias here.
        self.is_causal = False

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """`(batch_size, length, num_heads * head_dim)` to `(batch_size, num_heads, length, head_dim)`."""
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See [`attend_with_weights`]; the weights only where they are asked for."""
        dropout, scaling = self.attention_dropout, self.scaling
        attended, weights = attend_with_weights(self, query, key, value, dropout, bias, scaling, output_attentions)
        return attended, weights if output_attentions else None


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Explicit matrix products behind the interface of transformers' attention functions; softmax in float32."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling  # (batch_size, num_heads, num_queries, num_keys)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def attend_with_weights(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    bias: torch.Tensor | None = None,
    scaling: float | None = None,
    output_attentions: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Dot-product attention, as `module.config` asks for ("sdpa", "eager", "flex_attention", ...).

    Args:
        module (`nn.Module`): The attention layer, with `config` and `is_causal = False`.
        query (`torch.Tensor` of shape `(batch_size, num_heads, num_queries, head_dim)`)
        key, value (`torch.Tensor` of shape `(batch_size, num_heads, num_keys, head_dim)`)
        dropout (`float`): Dropout of the attention weights; only applied in training.
        bias (`torch.Tensor`, *optional*):
            Added to the scores; its shape is that of the scores, or 1 in any of the first three dimensions.
        scaling (`float`, *optional*): Factor of the scores. Defaults to `head_dim ** -0.5`.
        output_attentions (`bool`):
            Whether the weights must be there. Only the eager implementation makes them, so it is used then.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_queries, num_heads * head_dim)`, and the weights
        `(batch_size, num_heads, num_queries, num_keys)`, or None where none are made.
    """
    implementation = module.config._attn_implementation
    arguments: dict[str, Any] = {"attention_mask": bias}
    if output_attentions or implementation in (None, "eager"):
        function = eager_attention_forward
    else:
        function = ALL_ATTENTION_FUNCTIONS[implementation]
        if implementation == "flex_attention" and bias is not None:
            # What it takes as a mask is the same for all heads.
            bias = bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
            arguments = {"attention_mask": None, "position_bias": bias}
    arguments["scaling"] = query.shape[-1] ** -0.5 if scaling is None else scaling
    arguments["dropout"] = dropout if module.training else 0.0
    if implementation == "sdpa" and not output_attentions:
        if _is_quicker_explicit(query, key, arguments["dropout"]):
            return _attend_of_few_queries(query, key, value, bias, arguments["scaling"]).flatten(2), None
        if _is_quicker_in_float32(query, key, value):
            return _attend_in_float32(function, module, query, key, value, **arguments).flatten(2), None
    attended, weights = function(module, query, key, value, **arguments)
    return attended.flatten(2), weights if function is eager_attention_forward else None


def _is_quicker_explicit(query: torch.Tensor, key: torch.Tensor, dropout: float) -> bool:
    """Whether explicit products in bfloat16 are the quickest: the steps of a decoder of many rows, without gradient."""
    if query.device.type != "cpu" or query.dtype != torch.bfloat16 or torch.is_grad_enabled() or dropout:
        return False
    # (A graph is for sizes of all kinds.)
    if torch.compiler.is_compiling() or query.shape[2] > _FEW_QUERIES or key.numel() <= _MANY_KEYS:
        return False
    return cpu_multiplies_bfloat16()


def _attend_of_few_queries(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Explicit products in bfloat16, as precise as fused; `(batch_size, num_queries, num_heads, head_dim)`."""
    query, key = query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
    # Of a score, bfloat16 holds eight bits. A second product holds the next eight: what the first has rounded away.
    scores = torch.bmm(query, key)  # (batch_size * num_heads, num_queries, num_keys)
    rounded_away = torch.baddbmm(scores, query, key, beta=-1)
    scores = scores.float().add_(rounded_away).mul_(scaling).unflatten(0, value.shape[:2])
    if bias is not None:
        scores.add_(bias)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)  # (batch_size, num_heads, num_queries, num_keys)
    return torch.matmul(weights, value).transpose(1, 2)


def _is_quicker_in_float32(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """
    On a CPU, PyTorch's fused attention takes about three times as long in half precision as in float32 where there is
    one query, as in every step of a decoder, and up to three times as long backward.
    """
    if query.device.type != "cpu" or query.dtype not in (torch.bfloat16, torch.float16):
        return False
    is_trained = torch.is_grad_enabled() and any(states.requires_grad for states in (query, key, value))
    return is_trained or query.shape[2] == 1


def _attend_in_float32(
    function: Callable[..., Any],
    module: nn.Module,
    *states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **arguments: Any,
) -> torch.Tensor:
    """One of transformers' attention functions on query, key, value and mask in float32; its result in their type."""
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    # Autocast would take them back to half precision.
    with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
        wide = [values.float() for values in states]
        return function(module, *wide, attention_mask=attention_mask, **arguments)[0].to(states[0].dtype)


def attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float
) -> torch.Tensor:
    """[`attend_with_weights`] of every query to every key, without the weights."""
    return attend_with_weights(module, query, key, value, dropout)[0]
