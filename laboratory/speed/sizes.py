"""Models of the benchmark: random weights, the same ones on both sides of a comparison."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, T5ForConditionalGeneration

from configuration_lion.configuration_lion import LionConfig
from modeling_lion.mixture_of_adapters_lion import LionAdapter
from modeling_lion.modeling_lion import LionForConditionalGeneration


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measured models and of what they read."""

    vision_blocks: int = 39
    vision_width: int = 256
    vision_heads: int = 4
    image_size: int = 224
    qformer_layers: int = 12
    qformer_width: int = 256
    qformer_heads: int = 4
    d_model: int = 768
    d_ff: int = 2048
    t5_layers: int = 12
    t5_heads: int = 12
    vocab_size: int = 32128
    qformer_vocab_size: int = 30523
    text_tokens: int = 50
    instruction_tokens: int = 20
    answer_tokens: int = 20
    training_batch_size: int = 2

    @property
    def image_token_id(self) -> int:
        """The token that stands for a visual token in InstructBLIP's text; the random texts don't hold it."""
        return self.vocab_size - 1


BASE = Sizes()
TINY = Sizes(
    vision_blocks=4,
    vision_width=16,
    vision_heads=2,
    image_size=28,
    qformer_layers=2,
    qformer_width=16,
    qformer_heads=2,
    d_model=32,
    d_ff=64,
    t5_layers=2,
    t5_heads=2,
    vocab_size=300,
    qformer_vocab_size=300,
    text_tokens=7,
    instruction_tokens=5,
    answer_tokens=4,
)


def lion_config(
    sizes: Sizes, adapters: Sequence[str], branches: Sequence[str] = ("qformer", "aggregator")
) -> LionConfig:
    """The configuration of a LION of these sizes."""
    config = LionConfig(
        vision_config={
            "hidden_size": sizes.vision_width,
            "intermediate_size": 4 * sizes.vision_width,
            "num_hidden_layers": sizes.vision_blocks,
            "num_attention_heads": sizes.vision_heads,
            "image_size": sizes.image_size,
            "patch_size": 14,
        },
        qformer_config={
            "vocab_size": sizes.qformer_vocab_size,
            "hidden_size": sizes.qformer_width,
            "num_hidden_layers": sizes.qformer_layers,
            "num_attention_heads": sizes.qformer_heads,
            "intermediate_size": 4 * sizes.qformer_width,
        },
        text_config={
            "vocab_size": sizes.vocab_size,
            "d_model": sizes.d_model,
            "d_kv": sizes.d_model // sizes.t5_heads,
            "d_ff": sizes.d_ff,
            "num_layers": sizes.t5_layers,
            "num_decoder_layers": sizes.t5_layers,
            "num_heads": sizes.t5_heads,
        },
        aggregator_config={"num_attention_heads": sizes.vision_heads},
        adapter_config={"adapters": list(adapters)},
        visual_branches=list(branches),
    )
    # InstructBLIP has one epsilon for the tower and the norm behind it.
    config.qformer_input_layer_norm_eps = config.vision_config.layer_norm_eps
    return config


def make_lion(
    sizes: Sizes,
    adapters: Sequence[str],
    branches: Sequence[str] = ("qformer", "aggregator"),
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LionForConditionalGeneration:
    """A LION with random weights; its adapters change nothing yet."""
    torch.manual_seed(0)
    return cast(LionForConditionalGeneration(lion_config(sizes, adapters, branches)), device, dtype).eval()


def cast(model: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """Move a model; under float16 what transformers keeps in float32 on loading stays so."""
    model = model.to(device, dtype)
    if dtype == torch.float16:
        for name, module in model.named_modules():
            if name.endswith(".wo") or name.endswith(".adapter"):
                module.float()
    return model


def randomize_adapters(model: nn.Module) -> None:
    """Give the adapters' up-projections, which start as zeros, some weights."""
    for module in model.modules():
        if isinstance(module, LionAdapter):
            nn.init.normal_(module.up_proj.weight, std=0.02)


def share_weights(source: nn.Module, target: nn.Module, renamed: dict[str, str] | None = None) -> nn.Module:
    """
    Put the very tensors of `source` into `target`; what `target` doesn't have (adapters) is left out.

    Raises:
        RuntimeError: `target` has a parameter that `source` lacks.
    """
    wanted = set(target.state_dict())
    state = {(renamed or {}).get(name, name): tensor for name, tensor in source.state_dict().items()}
    target.load_state_dict({name: tensor for name, tensor in state.items() if name in wanted}, assign=True)
    return target.to(next(source.parameters()).device).eval()


def make_t5(lion: LionForConditionalGeneration) -> T5ForConditionalGeneration:
    """transformers' T5 with the weights of a LION's LLM, without its adapters."""
    config = copy.deepcopy(lion.config.text_config)
    if not T5ForConditionalGeneration._supports_sdpa:
        config._attn_implementation = "eager"  # the only one that transformers 4 has for it
    return share_weights(lion.language_model, T5ForConditionalGeneration(config))


def make_without_adapters(lion: LionForConditionalGeneration, sizes: Sizes) -> LionForConditionalGeneration:
    """The same LION without adapters."""
    config = lion_config(sizes, adapters=(), branches=lion.config.visual_branches)
    return share_weights(lion, LionForConditionalGeneration(config))


def make_instructblip(lion: LionForConditionalGeneration, sizes: Sizes) -> InstructBlipForConditionalGeneration:
    """transformers' InstructBLIP with the weights of a LION that has only the Q-Former's branch."""
    config = InstructBlipConfig(
        vision_config=lion.config.vision_config.to_dict(),
        qformer_config=lion.config.qformer_config.to_dict(),
        text_config=lion.config.text_config.to_dict(),
        num_query_tokens=lion.config.num_query_tokens,
        image_token_index=sizes.image_token_id,
    )
    return share_weights(
        lion, InstructBlipForConditionalGeneration(config), renamed={"query_tokens.weight": "query_tokens"}
    )


def make_inputs(sizes: Sizes, batch_size: int, device: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random pictures and instructions of full length, the same ones at every call."""
    generator = torch.Generator().manual_seed(1)

    def tokens(length: int, vocab_size: int) -> torch.Tensor:
        return torch.randint(2, vocab_size - 2, (batch_size, length), generator=generator)

    pixel_values = torch.randn(batch_size, 3, sizes.image_size, sizes.image_size, generator=generator)
    input_ids = tokens(sizes.text_tokens, sizes.vocab_size)
    qformer_input_ids = tokens(sizes.instruction_tokens, sizes.qformer_vocab_size)
    inputs = {
        "pixel_values": pixel_values.to(dtype),
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "qformer_input_ids": qformer_input_ids,
        "qformer_attention_mask": torch.ones_like(qformer_input_ids),
    }
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def to_instructblip_inputs(inputs: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """The same inputs with a placeholder in front of the text for every visual token."""
    input_ids = inputs["input_ids"]
    placeholders = input_ids.new_full((input_ids.shape[0], config.num_query_tokens), config.image_token_index)
    return {
        **inputs,
        "input_ids": torch.cat([placeholders, input_ids], dim=1),
        "attention_mask": torch.cat([torch.ones_like(placeholders), inputs["attention_mask"]], dim=1),
    }
