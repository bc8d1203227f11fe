"""
The LLM of LION: T5 with a mixture of adapters beside every feed-forward sub-layer, and cross-attention that keeps the
keys and values of the encoder once per sample, however many beams or candidates read them.

Read top to bottom: norm, attention, feed-forward, block, stack, model. Parameter names are those of transformers' T5.
The level of every sample comes in as `routing` and is handed from the model to its stacks, blocks and adapters.
"""

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedModel, T5Config
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
)

from .configuration_lion import LionMixtureOfAdaptersConfig
from .attention_lion import FLEX_TAKES_BIAS, MultiHeadAttention
from .mixture_of_adapters_lion import LevelRouting, LionAdapter, MixtureOfAdapters


# The cache of keys and values, in outputs and in generation: transformers 5.24 gave it another name.
_CACHE_FIELD = "cache" if "cache" in Seq2SeqLMOutput.__dataclass_fields__ else "past_key_values"
_IGNORED_LABEL = -100


def ties_output_layer(config: T5Config) -> bool:
    """Whether `lm_head` is the embeddings, as in the first T5; its inputs are scaled then."""
    # transformers 5 says "untied" only by not scaling them, and transformers 4 has no such field.
    return bool(getattr(config, "scale_decoder_outputs", config.tie_word_embeddings))


def linear(in_features: int, out_features: int, std: float) -> nn.Linear:
    """A layer without bias that knows the standard deviation of its first weights."""
    layer = nn.Linear(in_features, out_features, bias=False)
    layer.initializer_std = std
    return layer


def embedding(num_embeddings: int, embedding_dim: int, std: float) -> nn.Embedding:
    """Embeddings that know the standard deviation of their first weights."""
    layer = nn.Embedding(num_embeddings, embedding_dim)
    layer.initializer_std = std
    return layer


class LionT5LayerNorm(nn.Module):
    """Root mean square norm: a scale, no shift, no mean."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        size, weight = self.weight.shape, self.weight
        if hidden_states.dtype == weight.dtype:
            return F.rms_norm(hidden_states, size, weight, self.eps)
        # The residual stream is wider than the weights under float16, and may be narrower under autocast.
        return weight * F.rms_norm(hidden_states.float(), size, eps=self.eps).to(weight.dtype)


class LionT5Attention(MultiHeadAttention):
    """What self- and cross-attention share: four projections, and scores without a factor."""

    def __init__(self, config: T5Config):
        super().__init__(config, config.d_kv, config.dropout_rate, scaling=1.0)
        width, inner_width = config.d_model, config.num_heads * config.d_kv
        self.q = linear(width, inner_width, std=(width * config.d_kv) ** -0.5)
        self.k = linear(width, inner_width, std=width**-0.5)
        self.v = linear(width, inner_width, std=width**-0.5)
        self.o = linear(inner_width, width, std=inner_width**-0.5)


class LionT5SelfAttention(LionT5Attention):
    """
    Attention of a sequence to itself. The first block of a stack learns how far apart positions attend to one another,
    and its bias serves all blocks.

    Args:
        config (`T5Config`): Sizes.
        layer_idx (`int`): The block's number, by which it finds its part of a cache.
        is_decoder (`bool`): Whether positions see only those before them.
    """

    def __init__(self, config: T5Config, layer_idx: int, is_decoder: bool):
        super().__init__(config)
        self.layer_idx = layer_idx
        self.is_decoder = is_decoder
        self.num_buckets = config.relative_attention_num_buckets
        self.max_distance = config.relative_attention_max_distance
        self.has_relative_attention_bias = layer_idx == 0
        if self.has_relative_attention_bias:
            self.relative_attention_bias = embedding(self.num_buckets, config.num_heads, std=config.d_model**-0.5)

    def bucket(self, distance: torch.Tensor) -> torch.Tensor:
        """
        Number of the bucket of each distance (position of the key minus position of the query). Half of a direction's
        buckets hold one distance each, the others ever more, up to `max_distance`.
        """
        num_buckets, offset = self.num_buckets, 0
        if self.is_decoder:
            distance = (-distance).clamp(min=0)
        else:
            num_buckets //= 2
            offset = (distance > 0).long() * num_buckets
            distance = distance.abs()
        exact = num_buckets // 2
        scale = (num_buckets - exact) / math.log(self.max_distance / exact)
        # (Of at least 1: the logarithm's result is not used below `exact`, but must be a number.)
        far = exact + (torch.log(distance.clamp(min=1).float() / exact) * scale).long()
        return offset + torch.where(distance < exact, distance, far.clamp(max=num_buckets - 1))

    def make_bias(
        self, positions: torch.Tensor, key_length: int, attention_mask: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        """
        Args:
            positions (`torch.LongTensor` of shape `(query_length,)`): Of the queries.
            key_length (`int`): Number of keys, which start at position 0.
            attention_mask (`torch.Tensor` of shape `(rows, at most key_length)`, *optional*): 0 = not to be seen.

        Returns:
            `torch.Tensor` of shape `(rows or 1, num_heads, query_length, key_length)`, to be added to the scores.
        """
        distance = torch.arange(key_length, device=positions.device)[None, :] - positions[:, None]
        bias = self.relative_attention_bias(self.bucket(distance))  # (query_length, key_length, num_heads)
        bias = bias.permute(2, 0, 1).unsqueeze(0).to(dtype)  # (1, num_heads, query_length, key_length)
        hidden = distance[None, None] > 0 if self.is_decoder else None  # (1, 1, query_length, key_length)
        if attention_mask is not None:
            # A static cache is longer than the mask; what is still empty comes after every query.
            padding = F.pad(attention_mask == 0, (0, key_length - attention_mask.shape[1]))[:, None, None]
            hidden = padding if hidden is None else hidden | padding
        # Contiguous, because the implementations of attention ask for it: once here instead of in every block.
        return (bias if hidden is None else bias.masked_fill(hidden, torch.finfo(dtype).min)).contiguous()

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_bias: torch.Tensor | None,
        positions: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Returns the attended states `(rows, length, d_model)`, the bias for the blocks to come, and the weights."""
        query = self.split_heads(self.q(hidden_states))  # (rows, num_heads, length, d_kv)
        key = self.split_heads(self.k(hidden_states))
        value = self.split_heads(self.v(hidden_states))
        if past_key_values is not None:  # (rows, num_heads, key_length, d_kv)
            cache = past_key_values.self_attention_cache
            key, value = cache.update(key, value, self.layer_idx, {"cache_position": positions})
        if self.has_relative_attention_bias:
            attention_bias = self.make_bias(positions, key.shape[2], attention_mask, query.dtype)
        attended, weights = self.attend(query, key, value, attention_bias, output_attentions)
        return self.o(attended), attention_bias, weights


class LionT5CrossAttention(LionT5Attention):
    """
    Attention of `rows` decoder rows to `batch_size` encoded samples, where `rows` is a multiple of `batch_size` and the
    rows of a sample stand next to each other: they become further query positions of that sample. There are neither
    positions nor a causal mask here, so nothing else changes, and a sample's keys and values are kept once.
    """

    def __init__(self, config: T5Config, layer_idx: int):
        super().__init__(config)
        self.layer_idx = layer_idx

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_bias: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the attended states `(rows, length, d_model)`, and the weights."""
        if past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
            layer = past_key_values.cross_attention_cache.layers[self.layer_idx]
            key, value = layer.keys, layer.values
        else:
            key = self.split_heads(self.k(encoder_hidden_states))  # (batch_size, num_heads, encoder_length, d_kv)
            value = self.split_heads(self.v(encoder_hidden_states))
            if past_key_values is not None:
                key, value = past_key_values.cross_attention_cache.update(key, value, self.layer_idx)
                past_key_values.is_updated[self.layer_idx] = True
        rows, length, _ = hidden_states.shape
        batch_size = key.shape[0]
        query = self.q(hidden_states).reshape(batch_size, rows // batch_size * length, -1)
        query = self.split_heads(query)  # (batch_size, num_heads, rows of a sample * length, d_kv)
        attended, weights = self.attend(query, key, value, attention_bias, output_attentions)
        if weights is not None:
            weights = weights.unflatten(2, (-1, length)).transpose(1, 2).flatten(0, 1)
        return self.o(attended.reshape(rows, length, -1)), weights


class LionT5DenseActDense(nn.Module):
    """Feed-forward layer, gated or plain."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.is_gated = config.is_gated_act
        for name in ("wi_0", "wi_1") if self.is_gated else ("wi",):
            self.add_module(name, linear(config.d_model, config.d_ff, std=config.d_model**-0.5))
        self.wo = linear(config.d_ff, config.d_model, std=config.d_ff**-0.5)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.act = ACT2FN[config.dense_act_fn]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.is_gated:
            gate, hidden_states = self.act(self.wi_0(hidden_states)), self.wi_1(hidden_states)  # (rows, length, d_ff)
            # In place where no gradient needs it: on a CPU, new memory of that size takes longer than the product.
            hidden_states = gate * hidden_states if torch.is_grad_enabled() else gate.mul_(hidden_states)
        else:
            hidden_states = self.act(self.wi(hidden_states))
        hidden_states = self.dropout(hidden_states)
        # Under float16 `wo` stays in float32; the weights of quantised layers are integers.
        if self.wo.weight.is_floating_point():
            hidden_states = hidden_states.to(self.wo.weight.dtype)
        return self.wo(hidden_states)  # (rows, length, d_model)


class LionT5Layer(nn.Module):
    """What the sub-layers of a block share: each stands behind a norm and beside a residual."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.layer_norm = LionT5LayerNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)


class LionT5LayerSelfAttention(LionT5Layer):
    """Self-attention sub-layer: `h + attention(norm(h))`."""

    def __init__(self, config: T5Config, layer_idx: int, is_decoder: bool):
        super().__init__(config)
        self.SelfAttention = LionT5SelfAttention(config, layer_idx, is_decoder)

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Arguments are those of [`LionT5SelfAttention`]."""
        attended, attention_bias, weights = self.SelfAttention(self.layer_norm(hidden_states), *args, **kwargs)
        return hidden_states + self.dropout(attended), attention_bias, weights


class LionT5LayerCrossAttention(LionT5Layer):
    """Cross-attention sub-layer: `h + attention(norm(h), encoder)`."""

    def __init__(self, config: T5Config, layer_idx: int):
        super().__init__(config)
        self.EncDecAttention = LionT5CrossAttention(config, layer_idx)

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Arguments are those of [`LionT5CrossAttention`]."""
        attended, weights = self.EncDecAttention(self.layer_norm(hidden_states), *args, **kwargs)
        return hidden_states + self.dropout(attended), weights


class LionT5LayerFF(LionT5Layer):
    """Feed-forward sub-layer with parallel adapters: `h + FFN(norm(h)) + mixture(h)`."""

    def __init__(self, config: T5Config, adapter_config: LionMixtureOfAdaptersConfig):
        super().__init__(config)
        self.DenseReluDense = LionT5DenseActDense(config)
        self.adapter: MixtureOfAdapters | None = None
        if adapter_config.adapters:
            self.adapter = MixtureOfAdapters(
                config.d_model, adapter_config.bottleneck_size, len(adapter_config.adapters)
            )

    @property
    def needs_routing(self) -> bool:
        """Whether what is added depends on the level."""
        return self.adapter is not None and len(self.adapter.adapters) > 1

    def forward(self, hidden_states: torch.Tensor, routing: LevelRouting | None = None) -> torch.Tensor:
        forwarded = self.dropout(self.DenseReluDense(self.layer_norm(hidden_states)))  # (rows, length, d_model)
        if self.adapter is None:
            return hidden_states + forwarded
        adapted = self.adapter(hidden_states, routing)
        hidden_states = hidden_states + forwarded
        return hidden_states + adapted.to(hidden_states.dtype)


def clamp_float16(hidden_states: torch.Tensor) -> torch.Tensor:
    """Bring what has left the range of float16 back into it."""
    if hidden_states.dtype != torch.float16:
        return hidden_states
    largest = torch.finfo(torch.float16).max
    bound = torch.where(torch.isinf(hidden_states).any(), largest - 1000, largest)
    return torch.clamp(hidden_states, min=-bound, max=bound)


class LionT5Block(GradientCheckpointingLayer):
    """Self-attention, cross-attention (in the decoder) and feed-forward."""

    def __init__(self, config: T5Config, adapter_config: LionMixtureOfAdaptersConfig, layer_idx: int, is_decoder: bool):
        super().__init__()
        self.is_decoder = is_decoder
        self.layer = nn.ModuleList([LionT5LayerSelfAttention(config, layer_idx, is_decoder)])
        if is_decoder:
            self.layer.append(LionT5LayerCrossAttention(config, layer_idx))
        self.layer.append(LionT5LayerFF(config, adapter_config))

    # What needs a gradient comes by position, which re-entrant gradient checkpointing asks for.
    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_bias: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        *,
        positions: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_attention_bias: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        output_attentions: bool = False,
        routing: LevelRouting | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Returns states `(rows, length, d_model)`, the self-attention's bias, and both attentions' weights."""
        hidden_states, attention_bias, weights = self.layer[0](
            hidden_states, attention_bias, positions, attention_mask, past_key_values, output_attentions
        )
        hidden_states = clamp_float16(hidden_states)
        cross_weights = None
        if self.is_decoder:
            hidden_states, cross_weights = self.layer[1](
                hidden_states, encoder_hidden_states, encoder_attention_bias, past_key_values, output_attentions
            )
            hidden_states = clamp_float16(hidden_states)
        hidden_states = clamp_float16(self.layer[-1](hidden_states, routing))
        return hidden_states, attention_bias, weights, cross_weights


class LionT5PreTrainedModel(PreTrainedModel):
    config_class = T5Config
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = FLEX_TAKES_BIAS
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _no_split_modules = ["LionT5Block"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    # Under float16 only: T5's residual stream and `wo` outgrow its range (transformers issue 20287).
    _keep_in_fp32_modules = ["wo"]

    def _init_weights(self, module: nn.Module) -> None:
        factor = self.config.initializer_factor
        if isinstance(module, LionT5LayerNorm):
            nn.init.constant_(module.weight, factor)
        elif isinstance(module, LionAdapter | MixtureOfAdapters):
            module.reset_parameters()
        elif hasattr(module, "initializer_std"):
            nn.init.normal_(module.weight, std=factor * module.initializer_std)


class LionT5Stack(LionT5PreTrainedModel):
    """
    Encoder or decoder.

    Args:
        config (`T5Config`): Sizes.
        embed_tokens (`nn.Embedding`): The embeddings, which both stacks share.
        adapter_config ([`LionMixtureOfAdaptersConfig`]): The adapters.
        is_decoder (`bool`): Whether positions see only those before them, and an encoder's output.
    """

    def __init__(
        self,
        config: T5Config,
        embed_tokens: nn.Embedding,
        adapter_config: LionMixtureOfAdaptersConfig,
        is_decoder: bool,
    ):
        super().__init__(config)
        self.is_decoder = is_decoder
        self.embed_tokens = embed_tokens
        depth = config.num_decoder_layers if is_decoder else config.num_layers
        self.block = nn.ModuleList(LionT5Block(config, adapter_config, index, is_decoder) for index in range(depth))
        self.final_layer_norm = LionT5LayerNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        routing: LevelRouting | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(rows, length)`), or
            inputs_embeds (`torch.Tensor` of shape `(rows, length, d_model)`): What the stack reads.
            attention_mask (`torch.Tensor` of shape `(rows, length)`, *optional*):
                1 = read it. In a decoder with a cache, the positions in the cache come first.
            encoder_hidden_states (`torch.Tensor` of shape `(batch_size, encoder_length, d_model)`, *optional*):
                What a decoder attends to; `rows` is a multiple of `batch_size`.
            encoder_attention_mask (`torch.Tensor` of shape `(batch_size, encoder_length)`, *optional*): 1 = read it.
            past_key_values (`EncoderDecoderCache`, *optional*): What a decoder has read before.
            routing ([`LevelRouting`], *optional*): The levels of the batch; needed with adapters of several levels.
        """
        if (input_ids is None) == (inputs_embeds is None):
            prefix = "decoder_" if self.is_decoder else ""
            raise ValueError(f"Exactly one of `{prefix}input_ids` and `{prefix}inputs_embeds` must be given.")
        for name, mask in (("attention_mask", attention_mask), ("encoder_attention_mask", encoder_attention_mask)):
            if mask is not None and mask.dim() != 2:
                raise ValueError(f"`{name}` must be of two dimensions (rows, length), got {tuple(mask.shape)}.")
        if past_key_values is not None and not isinstance(past_key_values, EncoderDecoderCache):
            raise ValueError(
                f"`past_key_values` must be an `EncoderDecoderCache`, got {type(past_key_values).__name__}."
            )
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return_dict = config.return_dict if return_dict is None else return_dict
        use_cache = self.is_decoder and (config.use_cache if use_cache is None else use_cache)
        if self.gradient_checkpointing and self.training:
            past_key_values, use_cache = None, False  # a second run would add to the cache again
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        if not self.is_decoder:
            past_key_values = None

        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        hidden_states = self.dropout(inputs_embeds)  # (rows, length, d_model)
        start = 0 if past_key_values is None else past_key_values.get_seq_length()
        length = hidden_states.shape[1]
        positions = torch.arange(length, device=hidden_states.device) + start  # (length,)
        # (The start is a tensor in a static cache.)
        if attention_mask is not None and isinstance(start, int) and attention_mask.shape[1] != start + length:
            name = "decoder_attention_mask" if self.is_decoder else "attention_mask"
            raise ValueError(f"`{name}` must have {start + length} columns, got {attention_mask.shape[1]}.")
        if attention_mask is not None and not self.is_decoder and _is_full(attention_mask):
            attention_mask = None
        encoder_attention_bias = None
        if encoder_attention_mask is not None:  # (batch_size, 1, 1, encoder_length)
            hidden = (encoder_attention_mask == 0)[:, None, None]
            encoder_attention_bias = torch.zeros(hidden.shape, dtype=hidden_states.dtype, device=hidden.device)
            encoder_attention_bias.masked_fill_(hidden, torch.finfo(hidden_states.dtype).min)

        attention_bias = None
        all_states, all_weights, all_cross_weights = [], [], []
        for block in self.block:
            all_states.append(hidden_states)
            hidden_states, attention_bias, weights, cross_weights = block(
                hidden_states,
                attention_bias,
                encoder_hidden_states,
                positions=positions,
                attention_mask=attention_mask,
                encoder_attention_bias=encoder_attention_bias,
                past_key_values=past_key_values,
                output_attentions=output_attentions,
                routing=routing,
            )
            all_weights.append(weights)
            all_cross_weights.append(cross_weights)
        hidden_states = self.dropout(self.final_layer_norm(hidden_states))  # (rows, length, d_model)
        all_states.append(hidden_states)

        outputs = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states,
            **{_CACHE_FIELD: past_key_values if use_cache else None},
            hidden_states=tuple(all_states) if output_hidden_states else None,
            attentions=tuple(all_weights) if output_attentions else None,
            cross_attentions=tuple(all_cross_weights) if output_attentions and self.is_decoder else None,
        )
        return outputs if return_dict else outputs.to_tuple()


def _is_full(attention_mask: torch.Tensor) -> bool:
    """Whether there is nothing to leave out; False where a graph is being made, which must fit every mask."""
    return not torch.compiler.is_compiling() and not attention_mask.is_meta and bool((attention_mask != 0).all())


class LionT5ForConditionalGeneration(LionT5PreTrainedModel, GenerationMixin):
    """
    Args:
        config (`T5Config`): Sizes of the LLM.
        adapter_config ([`LionMixtureOfAdaptersConfig`], *optional*): The adapters; none by default.
    """

    _tied_weights_keys: dict[str, str] = {
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    }
    # In the checkpoints of the first T5s, and without an influence on anything.
    _keys_to_ignore_on_load_unexpected = ["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"]

    def __init__(self, config: T5Config, adapter_config: LionMixtureOfAdaptersConfig | None = None):
        super().__init__(config)
        adapter_config = adapter_config or LionMixtureOfAdaptersConfig(adapters=[])
        if not ties_output_layer(config):
            self._tied_weights_keys = {k: v for k, v in self._tied_weights_keys.items() if k != "lm_head.weight"}
        self.shared = embedding(config.vocab_size, config.d_model, std=1.0)
        self.encoder = LionT5Stack(config, self.shared, adapter_config, is_decoder=False)
        self.decoder = LionT5Stack(config, self.shared, adapter_config, is_decoder=True)
        self.lm_head = linear(config.d_model, config.vocab_size, std=1.0)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.shared

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.shared = value
        self.encoder.set_input_embeddings(value)
        self.decoder.set_input_embeddings(value)

    def get_encoder(self, *args: Any, **kwargs: Any) -> LionT5Stack:
        return self.encoder

    def get_decoder(self, *args: Any, **kwargs: Any) -> LionT5Stack:
        return self.decoder

    @property
    def needs_routing(self) -> bool:
        """Whether what the adapters add depends on the level of a sample."""
        return any(block.layer[-1].needs_routing for block in (*self.encoder.block, *self.decoder.block))

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """`labels` `(rows, length)`, shifted by one position to the right behind the start token."""
        start = labels.new_full((labels.shape[0], 1), self.config.decoder_start_token_id)
        shifted = torch.cat([start, labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == _IGNORED_LABEL, self.config.pad_token_id)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        routing: LevelRouting | None = None,
        cache: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput | tuple:
        """
        As in transformers' `T5ForConditionalGeneration`, and:

        Args:
            cache (`EncoderDecoderCache`, *optional*): What transformers 5.24 calls `past_key_values`.
            routing ([`LevelRouting`], *optional*): The levels of the batch; needed with adapters of several levels.
        """
        if past_key_values is not None and cache is not None:
            raise ValueError(
                "`cache` is what transformers 5.24 calls `past_key_values`: only one of them must be given."
            )
        past_key_values = cache if past_key_values is None else past_key_values
        # Generation of transformers 4 tells the positions, which the cache knows as well.
        unknown = sorted(name for name, value in kwargs.items() if value is not None and name != "cache_position")
        if unknown:
            raise TypeError(f"{type(self).__name__}.forward has no arguments named {unknown}.")
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            raise ValueError("`labels` or `decoder_input_ids` must be given: the decoder has nothing to read.")
        recorded = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                return_dict=True,
                routing=routing,
                **recorded,
            )
        elif not isinstance(encoder_outputs, BaseModelOutput | BaseModelOutputWithPastAndCrossAttentions):
            encoder_outputs = BaseModelOutput(*encoder_outputs)

        decoder_outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            past_key_values=past_key_values,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask,
            use_cache=use_cache,
            return_dict=True,
            routing=routing,
            **recorded,
        )
        hidden_states = decoder_outputs.last_hidden_state  # (rows, length, d_model)
        if ties_output_layer(self.config):
            hidden_states = hidden_states * self.config.d_model**-0.5
        logits = self.lm_head(hidden_states)  # (rows, length, vocab_size)

        loss = None
        if labels is not None:
            loss = F.cross_entropy(
                logits.flatten(0, 1).float(), labels.flatten().to(logits.device), ignore_index=_IGNORED_LABEL
            )
        outputs = Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            **{_CACHE_FIELD: decoder_outputs[_CACHE_FIELD] if _CACHE_FIELD in decoder_outputs else None},
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if return_dict else outputs.to_tuple()

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        routing: LevelRouting | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of one step's `forward`; `routing` is the same at every step."""
        past = kwargs.get(_CACHE_FIELD)
        if past is not None:
            for cache in (past.self_attention_cache, past.cross_attention_cache):
                # transformers makes a cache as deep as the encoder. Layers are empty until their first use.
                missing = self.config.num_decoder_layers - len(cache.layers)
                if cache.layers and missing > 0 and past.get_seq_length() == 0:
                    cache.layers.extend(copy.deepcopy(cache.layers[-1]) for _ in range(missing))
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        return {**inputs, "routing": routing}

    def create_masks_for_generate(self, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """The mask as it is: the decoder's first block makes one bias of it, of the positions and of causality."""
        return attention_mask

    # The next two are what `generate` offers models to override; see the tests of beams and caches.
    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor, dict[str, Any]]:
        """Repeat the decoder's rows for beams and return sequences, but not what the cross-attention reads."""
        if model_kwargs.get("encoder_outputs") is None:
            raise ValueError("`encoder_outputs` must be prepared before the inputs are expanded for generation.")
        shared: dict[str, Any] = {
            k: model_kwargs.pop(k) for k in ("encoder_outputs", "attention_mask") if k in model_kwargs
        }
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=False, input_ids=input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **shared}

    def _reorder_cache(self, past_key_values: EncoderDecoderCache, beam_idx: torch.LongTensor) -> EncoderDecoderCache:
        """Beams never leave their sample, so only the self-attention cache has anything to reorder."""
        past_key_values.self_attention_cache.reorder_cache(beam_idx)
        return past_key_values
