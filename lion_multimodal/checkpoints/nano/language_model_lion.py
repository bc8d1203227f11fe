"""
The LLM of LION: transformers' T5 with a mixture of adapters beside every feed-forward sub-layer, and cross-attention
that keeps the keys and values of the encoder once per sample, however many beams or candidates read them.
"""

from typing import Any

import torch
from torch import nn
from transformers import EncoderDecoderCache, T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention, T5Block, T5LayerFF, T5Stack

from .configuration_lion import LionMixtureOfAdaptersConfig
from .mixture_of_adapters_lion import LionAdapter, MixtureOfAdapters, active_routing, route


try:  # where transformers 5 keeps, by class, how a model records attentions and hidden states
    from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY
except ImportError:
    _CAN_RECORD_REGISTRY = None


class LionT5LayerFF(T5LayerFF):
    """Feed-forward sub-layer with parallel adapters: `h + FFN(norm(h)) + mixture(h)`."""

    adapter: MixtureOfAdapters

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        adapted = self.adapter(hidden_states)
        hidden_states = super().forward(hidden_states)
        return hidden_states + adapted.to(hidden_states.dtype)


class LionT5CrossAttention(T5Attention):
    """
    Cross-attention of `rows` decoder rows over `batch_size` encoded samples, where `rows` is a multiple of `batch_size`
    and the rows of a sample stand next to each other: they become further query positions of that sample. T5's
    cross-attention has neither positions nor a causal mask, so nothing else changes.
    """

    def forward(self, hidden_states, mask=None, key_value_states=None, **kwargs):
        rows, length, hidden_size = hidden_states.shape
        batch_size = key_value_states.shape[0]
        if rows == batch_size:
            return super().forward(hidden_states, mask=mask, key_value_states=key_value_states, **kwargs)

        queries = hidden_states.reshape(batch_size, (rows // batch_size) * length, hidden_size)
        mask = None if mask is None else mask[:, :, :1]
        attended, *rest = super().forward(queries, mask=mask, key_value_states=key_value_states, **kwargs)
        # What follows is the position bias, which the next layers want as it is, and the attention weights.
        position_bias, *weights = rest
        weights = [None if w is None else self._per_row(w, rows, length) for w in weights]
        return attended.reshape(rows, length, hidden_size), position_bias, *weights

    @staticmethod
    def _per_row(weights: torch.Tensor, rows: int, length: int) -> torch.Tensor:
        batch_size, heads, _, keys = weights.shape
        weights = weights.view(batch_size, heads, rows // batch_size, length, keys)
        return weights.transpose(1, 2).reshape(rows, heads, length, keys)


class LionT5Block(T5Block):
    """A T5 block that remembers the routing of its forward pass until gradient checkpointing runs it again."""

    def __call__(self, *args, **kwargs):
        return super().__call__(*args, routing=active_routing(), **kwargs)

    def forward(self, *args, routing=None, **kwargs):
        # The second run may come from a thread of the autograd engine, where nothing is active.
        with route(routing):
            return super().forward(*args, **kwargs)


class LionT5Stack(T5Stack):
    """Encoder or decoder, which initialises its adapters too."""

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (LionAdapter, MixtureOfAdapters)):
            module.reset_parameters()


class LionT5ForConditionalGeneration(T5ForConditionalGeneration):
    """
    Args:
        config (`T5Config`): Sizes of the LLM.
        adapter_config ([`LionMixtureOfAdaptersConfig`], *optional*): The adapters; none by default.
    """

    def __init__(self, config: T5Config, adapter_config: LionMixtureOfAdaptersConfig | None = None):
        # transformers 5 says "untied" only by not scaling the decoder's outputs, and would tie `lm_head` all the same.
        untied = getattr(config, "scale_decoder_outputs", True) is False
        tied: Any = T5ForConditionalGeneration._tied_weights_keys
        if untied and isinstance(tied, dict):
            self._tied_weights_keys = {k: v for k, v in tied.items() if k != "lm_head.weight"}
        super().__init__(config)
        adapter_config = adapter_config or LionMixtureOfAdaptersConfig(adapters=[])
        adapters = adapter_config.adapters
        # Classes are changed in place: construction, initialisation and parameter names stay those of transformers.
        for stack in (self.encoder, self.decoder):
            stack.__class__ = LionT5Stack
            if _CAN_RECORD_REGISTRY is not None:
                _CAN_RECORD_REGISTRY[stack] = stack._can_record_outputs
        for block in (*self.encoder.block, *self.decoder.block):
            block.__class__ = LionT5Block
            if adapters:
                block.layer[-1].__class__ = LionT5LayerFF
                block.layer[-1].adapter = MixtureOfAdapters(
                    config.d_model, adapter_config.bottleneck_size, len(adapters)
                )
        for block in self.decoder.block:
            block.layer[1].EncDecAttention.__class__ = LionT5CrossAttention

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
